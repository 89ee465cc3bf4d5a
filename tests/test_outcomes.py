"""Seeds that diverge, fail, are killed or are not compared: they are counted and reported, and never make an arm
better.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console
from scipy import stats

from harness.ablation.design import rounds
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.study import Study, load_scale
from harness.ablation.execute import trial, tuner
from harness.ablation.execute.worker import PlanBoard, work
from harness.ablation.report import grids, history, tables
from harness.ablation.report.outcomes import DIVERGED, FAILED, MEASURED, UNASKED, UNFINISHED, Cell
from harness.ablation.report.summary import summarise
from harness.cli import advice
from harness.cli.advice import advice_on
from harness.core.config import override
from harness.core.errors import Diverged, NoValue, Pruned, Unsolvable, guarded
from harness.core.files import read_json, write_json
from harness.data.base import load
from harness.flow.sampling import Generated, Trained
from harness.runs import judge
from harness.runs.config import RunConfig
from harness.runs.folder import Run, training_digest
from harness.runs.progress import Followed
from harness.runs.train import ensure, train

pytestmark = pytest.mark.usefixtures("unmeasured")
ARMS: dict[str, dict[str, Any]] = {
    "a": {"weighting": "uniform"},
    "b": {"weighting": "data_end"},
    "c": {"weighting": {"name": "min_snr", "gamma": 2.0}},
}
MACHINES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 8."
    ),
    MemoryError(),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint"),
)


def planned(base: RunConfig, seeds: int = 5, arms: dict[str, dict[str, Any]] = ARMS, nfe: int = 2) -> Plan:
    study = Study(
        name="toy",
        question="Which?",
        baseline="a",
        arms=arms,
        nfe=nfe,
        smallest_difference=0.05,
        looks=(max(3, seeds),),
    )
    return Plan.of(study, "digits", base, {}, seeds, [])


def never() -> bool:
    return False


def quiet(_: str) -> None:
    pass


@pytest.fixture
def points() -> RunConfig:
    """Points in the plane, trained and judged in a moment."""
    changes = {
        "train.steps": 4,
        "train.warmup_steps": 0,
        "train.sample_every": 4,
        "train.batch_size": 16,
        "evaluate.num_samples": 40,
    }
    return override(
        load_scale("points"), {**changes, "evaluate.num_reference": 50, "evaluate.nfe": [1, 2], "train.device": "cpu"}
    )


def simulated(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """Return the values of a study at the primary NFE, with random effects, noise and losses of seeds."""
    sd = rng.choice([0.01, 0.05, 0.2])
    lost = rng.choice([0.0, 0.05, 0.25])
    effects = {arm: rng.choice([0.0, 0.02, 0.3, -0.3]) if arm != plan.baseline else 0.0 for arm in plan.arms}
    cells = []
    for arm, seed in itertools.product(plan.arms, plan.seeds):
        state = rng.choice([MEASURED, DIVERGED, FAILED, UNFINISHED], p=[1 - lost, 0.6 * lost, 0.2 * lost, 0.2 * lost])
        value = math.exp(effects[arm] + rng.normal(0, sd)) if state == MEASURED else math.nan
        cells.append(Cell(arm, seed, plan.metric, plan.nfe, value, plan.nfe, str(state)))
    return pd.DataFrame(cells)


def test_no_unstable_arm_is_better_or_a_tie_and_a_lost_baseline_leaves_no_verdict(tiny: RunConfig) -> None:
    """60 studies with seeds removed at random; a verdict "worse" is that of SciPy's paired t over the survivors."""
    plan = planned(tiny)
    rng = np.random.default_rng(0)
    seen = Counter[str]()
    for number in range(60):
        seeds = int(rng.integers(3, 9))
        plan = dataclasses.replace(plan, seeds=tuple(range(seeds)), looks=Looks((seeds,)))
        cells = simulated(plan, rng)
        found = summarise(plan, cells)
        table = cells.pivot_table(index="seed", columns="arm", values="value", dropna=False)
        states = {arm: Counter(cells[cells.arm == arm].state) for arm in plan.arms}
        lost = states["a"][DIVERGED] + states["a"][FAILED] > 0
        tested = set()
        for arm in "bc":
            row = found.rows.set_index("arm").loc[arm]
            own = states[arm]
            where = f"study {number}, arm {arm}"
            counted = (own[MEASURED], own[DIVERGED], own[FAILED], len(plan.seeds))
            assert (row.n, row.diverged, row.failed, row.seeds) == counted, where
            pairs = table[[arm, "a"]].dropna()
            ended = not (own[UNFINISHED] or states["a"][UNFINISHED])
            p = float(stats.ttest_rel(np.log(pairs[arm]), np.log(pairs["a"])).pvalue) if len(pairs) > 1 else 1.0
            certain = ended and len(pairs) >= 3 and p < 0.05 / 2
            worse = certain and np.log(pairs[arm] / pairs["a"]).mean() > 0
            if lost or (own[FAILED] and not own[DIVERGED]):
                assert row.verdict == "not compared", where
            elif own[DIVERGED]:
                assert row.verdict == ("worse" if worse else "unstable"), where
                seen["unstable though its survivors are better"] += certain and not worse
            elif not ended:
                assert row.verdict == "undecided", where
            else:
                assert (row.verdict in ("better", "worse")) == certain, where
            tested |= {arm} if ended and row.verdict != "not compared" and len(pairs) > 1 else set()
            seen[str(row.verdict)] += 1
        assert found.power.keys() == tested, number
    assert all(seen[word] >= 3 for word in ("better", "worse", "tie", "undecided", "unstable", "not compared")), seen
    assert seen["unstable though its survivors are better"] >= 1, seen


@pytest.fixture
def reported(score: Any) -> Callable[..., tables.Report]:
    """The report of a plan with FID 10, 8 and 10.1 over NFE, slightly different by seed, or with
    outcomes as in `ends`.
    """

    def report(plan: Plan, ends: dict[tuple[str, int], str] | None = None) -> tables.Report:
        rng = np.random.default_rng(0)
        for arm, seed in plan.trials():
            run = plan.run(arm, seed)
            protocol = plan.protocol(arm)
            end = (ends or {}).get((arm, seed))
            fid = {"a": 10.0, "b": 8.0, "c": 10.1}[arm] * math.exp(rng.normal(0, 0.01))
            if end == "training":
                write_json(run.folder / "diverged.json", {"reason": "training diverged."})
            elif end != "unfinished":
                score(run, protocol, {nfe: fid / nfe for nfe in plan.arms[arm].evaluate.nfe if not (end and nfe == 2)})
            if end in ("samples", "solver"):
                path = run.folder / "evaluations" / f"{protocol.digest}.json"
                error = Diverged("some are not finite.") if end == "samples" else Unsolvable("it cannot.")
                write_json(path, read_json(path) | {"failures": {"2": error.note}})
        return tables.report(plan, {})

    return report


ENDS = {("b", 0): "training", ("b", 3): "samples", ("c", 1): "unfinished"}


def verdicts_of(report: tables.Report) -> dict[str, str]:
    return {arm: found.word for arm, found in report.summary.settled.verdicts.items()}


def test_diverged_failed_and_unfinished_seeds_are_told_apart(
    tiny: RunConfig, reported: Callable[..., tables.Report], tmp_path: Path
) -> None:
    report = reported(planned(tiny), ENDS)
    assert verdicts_of(report) == {"a": "baseline", "b": "unstable", "c": "undecided"}
    paths = {path.suffix: path for path in tables.write(report, tmp_path, "harness ablate toy")[::-1]}
    rows = pd.read_csv(paths[".csv"]).set_index(["arm", "nfe"])
    assert rows[["seeds", "n", "diverged", "failed"]].loc[[("b", 1), ("b", 2), ("c", 2)]].to_numpy().tolist() == [
        [5, 4, 1, 0], [5, 3, 2, 0], [5, 4, 0, 0],
    ]  # fmt: skip
    by_nfe, against, power, read_off, _ = grids.grids(report)
    assert by_nfe.title == "FID ↓ by NFE, mean ± sd over 5 seeds, or over the number in brackets"
    assert [[cell.partition(" (")[2] for cell in line[1:]] for line in by_nfe.rows] == [
        ["", ""],
        ["4 of 5)", "3 of 5)"],
        ["4 of 5)"] * 2,
    ]
    assert [line[:2] for line in against.rows] == [["a", "5"], ["b", "2 of 5 diverged"], ["c", "1 of 5 unfinished"]]
    assert [line[:2] for line in power.rows] == [["b", "3"]]
    assert [line[1].partition(" (")[2] for line in read_off.rows] == ["", "3 of 5)", "4 of 5)"]


def test_the_outcomes_of_seeds_are_in_the_files(
    tiny: RunConfig, reported: Callable[..., tables.Report], tmp_path: Path
) -> None:
    report = reported(planned(tiny), ENDS)
    paths = {path.suffix: path for path in tables.write(report, tmp_path, "harness ablate toy")[::-1]}
    text = paths[".md"].read_text()
    for line in (
        "Unstable: b (2 of 5 diverged).", "Undecided: c (4 of the 5 pairs of seeds of the first look have values).",
        "b seed 0 has no value: training diverged.",
        "b seed 3 has no value at NFE 2: some are not finite.",
        "| arm | pairs | sd of log ratios | a fall | a rise | seeds for +5% |",
    ):  # fmt: skip
        assert line in text, line
    about = read_json(paths[".json"])
    assert about["pairs"] == {"b": 3}
    assert about["outcomes"]["c"] == {
        "number": 5,
        "measured": 4,
        "diverged": 0,
        "failed": 0,
        "asked": True,
        "unfinished": 1,
    }
    assert paths[".png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("end", ["training", "samples", "solver"])
def test_a_baseline_that_lost_a_seed_leaves_no_verdict(
    tiny: RunConfig, reported: Callable[..., tables.Report], tmp_path: Path, end: str
) -> None:
    report = reported(planned(tiny), {("a", 4): end, ("b", 0): "training"})
    assert verdicts_of(report) == {"a": "baseline", "b": "not compared", "c": "not compared"}
    lost = "1 of 5 failed" if end == "solver" else "1 of 5 diverged"
    assert (
        f"Not compared: b, c (the baseline a lost seeds ({lost}), and the remaining seeds are a biased sample)."
        in report.notes
    )
    assert not report.summary.power
    assert [line[1:] for line in grids.grids(report)[1].rows] == [
        [lost, "", "", "", "", "baseline"], ["1 of 5 diverged", "1 (5 seeds)", "", "", "", "not compared"],
        ["5", "1 (5 seeds)", "", "", "", "not compared"],
    ]  # fmt: skip
    text = next(
        path for path in tables.write(report, tmp_path, "harness ablate toy") if path.suffix == ".md"
    ).read_text()
    assert "nan" not in text


def test_a_study_in_which_all_diverge_is_reported(
    tiny: RunConfig, reported: Callable[..., tables.Report], tmp_path: Path
) -> None:
    plan = planned(tiny, seeds=3)
    report = reported(plan, dict.fromkeys(plan.trials(), "training"))
    assert verdicts_of(report) == {"a": "baseline", "b": "not compared", "c": "not compared"}
    tables.write(report, tmp_path, "harness ablate toy")
    assert grids.grids(report)[0].rows == [[arm, "3 of 3 diverged", "3 of 3 diverged"] for arm in "abc"]


def test_an_arm_that_is_not_compared_has_a_reason(tiny: RunConfig, reported: Callable[..., tables.Report]) -> None:
    """More seeds would help none of these; two seeds are undecided, because more seeds would help them."""
    plan = planned(tiny, arms={**ARMS, "b": {**ARMS["b"], "evaluate.nfe": [1, 4]}})
    report = reported(plan, {("c", 2): "solver"})
    assert verdicts_of(report) == {"a": "baseline", "b": "not compared", "c": "not compared"}
    assert {arm: found.reason for arm, found in report.summary.settled.verdicts.items()} == {
        "a": "", "b": "it is not measured at NFE 2", "c": "1 of 5 failed, and the remaining seeds are a biased sample",
    }  # fmt: skip
    assert "c seed 2 has no value at NFE 2: it cannot." in report.notes
    assert set(verdicts_of(reported(planned(tiny, seeds=2))).values()) == {"baseline", "undecided"}


def test_a_warning_about_the_data_is_printed_once_for_all_arms(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataclasses.replace(load(tiny.dataset), notes=("left out: 1 file ending in .pt",))
    monkeypatch.setattr(advice, "load", lambda _: data)
    advice.warn(planned(tiny), Console(file=(log := io.StringIO())))
    assert log.getvalue().splitlines().count("- left out: 1 file ending in .pt") == 1


def test_arms_without_the_primary_nfe_are_named_before_they_train(tiny: RunConfig) -> None:
    plan = planned(override(tiny, {"evaluate.nfe": [1, 2]}), arms={"a": {}, "b": {"evaluate.nfe": [1]}, "c": {}})
    assert advice_on(plan)["no verdict: evaluate.nfe leaves out NFE 2, so FID is not measured there"] == ["b"]
    assert not any("verdict" in line for line in advice_on(planned(override(tiny, {"evaluate.nfe": [1, 2]}))))


def test_an_arm_whose_training_diverges_is_unstable_wherever_it_is_measured(
    tiny: RunConfig, reported: Callable[..., tables.Report]
) -> None:
    plan = planned(tiny, arms={**ARMS, "b": {**ARMS["b"], "evaluate.nfe": [1, 4]}})
    report = reported(plan, {("b", 2): "training"})
    assert (verdicts_of(report)["b"], report.summary.settled.verdicts["b"].reason) == ("unstable", "1 of 5 diverged")
    states = report.cells[(report.cells.arm == "b") & (report.cells.nfe == 2)].set_index("seed").state
    assert states.to_dict() == {0: UNASKED, 1: UNASKED, 2: DIVERGED, 3: UNASKED, 4: UNASKED}


def test_survivors_set_no_mark_for_other_arms(tiny: RunConfig, reported: Callable[..., tables.Report]) -> None:
    """b has the best values by far: 4 at NFE 2, where a has 5. Once b diverges, the best of a and c is the best."""
    whole, hurt = (reported(planned(tiny), ends).readouts for ends in ({}, {("b", 0): "training"}))
    assert (whole["a"].fewest_of_all, hurt["a"].fewest_of_all) == (None, 2)
    assert (hurt["b"].seeds, hurt["b"].ends) == (4, (1, 2))


@pytest.mark.usefixtures("undrawn")
def test_every_setting_of_an_arm_is_in_the_results(
    tiny: RunConfig, reported: Callable[..., tables.Report], tmp_path: Path
) -> None:
    plan = planned(tiny, arms={**ARMS, "b": {"train.warmup_steps": 3, "train.log_every": 7}})
    paths = {path.suffix: path for path in tables.write(reported(plan), tmp_path, "harness ablate toy")[::-1]}
    about = read_json(paths[".json"])
    text = paths[".md"].read_text()
    assert about["settings"]["c"] == {"weighting": "min_snr", "weighting.gamma": 2.0}
    assert about["settings"]["b"] == {"train.warmup_steps": 3}  # the logging interval is not a setting of the arm
    assert about["settings"]["a"] == {"weighting": "uniform", "train.warmup_steps": 2}
    for line in (
        "| a | weighting = uniform, train.warmup_steps = 2 |",
        "| c | weighting = min_snr, weighting.gamma = 2.0 |",
    ):
        assert line in text, line
    again = RunConfig.parse(about["baseline"]["configuration"])
    for arm, config in plan.arms.items():
        own = about["settings"][arm] if arm != about["baseline"]["arm"] else {}
        assert training_digest(override(again, own)) == training_digest(config), arm


def test_failures_of_the_machine_are_one_line_and_other_errors_are_not_hidden(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(error: Exception) -> Callable[[], None]:
        def command() -> None:
            raise error

        return command

    def too_large() -> None:
        torch.empty(10**15)

    for command in (*map(failing, MACHINES), too_large):
        assert guarded(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert said.startswith("error: "), said
        assert said.endswith("run the same command again.\n"), said
    with pytest.raises(RuntimeError, match="shapes"):
        guarded(failing(RuntimeError("shapes differ")))


def test_a_trial_stopped_by_the_machine_runs_again_and_does_not_count(
    points: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.of(points)
    plan = planned(points, seeds=1, arms={"a": {}, "b": {"weighting": "data_end"}})

    def broken(error: Exception) -> Callable[..., Any]:
        def raising(*_: Any, **__: Any) -> Any:
            raise error

        return raising

    for place, error in (
        *(("train.fit", error) for error in MACHINES),
        ("judge.samples", MACHINES[0]),
        ("judge.samples", MACHINES[-1]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"harness.runs.{place}", broken(error))
            with pytest.raises(type(error)):
                ensure(points, quiet, never)
        protocol = plan.protocol("a")
        assert (run.gave_up, run.failure(protocol), run.settled(protocol)) == (None, None, False), (place, error)
        if place == "train.fit" and error is MACHINES[-1]:
            train(run, quiet, never)
    report = tables.report(plan, {})
    assert {arm: own.unfinished for arm, own in report.summary.settled.seeds.items()} == {"a": 1, "b": 1}
    ensure(points, quiet, never)
    assert run.evaluated(plan.protocol("a"))


@pytest.mark.parametrize("error", MACHINES, ids=lambda error: type(error).__name__)
def test_a_worker_that_the_machine_ended_leaves_its_trial_to_be_run_again(
    tiny: RunConfig, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """test_end_to_end.py tests `kill -9`."""
    plan = planned(tiny, seeds=1)

    def end(*_: Any, **__: Any) -> Run:
        raise error

    monkeypatch.setattr(trial, "ensure", end)
    with pytest.raises(type(error)):
        work(PlanBoard(plan), never)
    board = PlanBoard(plan)
    board.refill()
    assert (board.settled(), board.finished()) == ([], False)
    assert {trial.user_attrs["arm"] for trial in board.trials(TrialState.WAITING)} == set("abc")


def wild(values: Callable[[int], float]) -> Callable[..., Any]:
    """Return a sampler whose samples are all `values(NFE)`."""

    def samples(run: Run, trained: Any, nfe: int, number: int, *_: Any, **more: Any) -> Any:
        x = torch.full((number, 2), values(nfe)) + 0.1 * torch.randn(
            number, 2, generator=torch.Generator().manual_seed(0)
        )
        yield Generated(x, None, nfe, x)

    return samples


def test_samples_that_are_not_finite_at_one_nfe_cost_no_other(
    points: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = override(points, {"evaluate.metrics": ["sliced_wasserstein"], "evaluate.nfe": [1, 2, 4]})
    plan = planned(base, seeds=1)
    run = plan.run("a", 0)
    protocol = plan.protocol("a")
    with monkeypatch.context() as patch:
        patch.setattr("harness.runs.judge.samples", wild(lambda nfe: math.nan if nfe < 4 else 0.5))
        with pytest.raises(
            Diverged,
            match=r"^at NFE 1, 2: the samples cannot be judged: some are not finite\. \(Remove .*\.json to try",
        ):
            ensure(plan.config("a", 0), quiet, never)
        patch.setattr("harness.runs.judge.samples", lambda *_, **__: pytest.fail("sampled again"))
        with pytest.raises(Diverged, match="at NFE 1, 2"):
            ensure(plan.config("a", 0), quiet, never)
    assert run.evaluation(protocol)["values"]["sliced_wasserstein"].keys() == {"4"}
    assert Counter(tables.report(plan, {}).cells.query("arm == 'a'").state) == {DIVERGED: 2, MEASURED: 1}
    ensure(override(plan.config("a", 0), {"evaluate.nfe": [4]}), quiet, never)  # asks only for NFEs that did not fail


def test_a_measure_of_the_flow_that_is_not_finite_costs_no_other(
    points: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = [{"name": name, "samples": 4, "steps": 2} for name in ("curvature", "straightness")]
    run = Run.of(override(points, {"evaluate.metrics": metrics}))
    curvature, straightness = run.config.evaluate.flow_metrics
    monkeypatch.setattr(type(curvature), "measure", lambda *_: math.nan)
    monkeypatch.setattr(type(straightness), "measure", lambda *_: 0.25)
    trained = Trained(lambda x, t: x, run.config, run.config.noise.learn(run.data))  # type: ignore[arg-type]
    protocol = run.config.protocol()
    judge._evaluate_flow(run, trained, protocol)
    assert run.evaluation(protocol)["values"] == {"straightness": {str(straightness.nfe): 0.25}}
    assert str(run.failure(protocol)).startswith("curvature is nan.")


def test_a_solver_that_gives_up_is_not_a_divergence(points: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: Any, **__: Any) -> Any:
        raise Unsolvable("dopri5 gave up.")
        yield

    plan = planned(points, seeds=1)
    monkeypatch.setattr("harness.runs.judge.samples", give_up)
    board = PlanBoard(plan)
    work(board, never)
    assert board.finished()
    report = tables.report(plan, {})
    assert set(report.cells.state) == {FAILED}
    assert [line[1] for line in grids.grids(report)[1].rows] == ["1 of 1 failed"] * 3
    error = plan.run("b", 0).failure(plan.protocol("b"))
    assert (type(error), str(error)) == (Unsolvable, "at NFE 1, 2: dopri5 gave up.")


def test_errors_come_back_from_their_notes() -> None:
    class Mine(Unsolvable):
        """An exception of a plugin."""

    for error, kind in ((Diverged("so."), Diverged), (Unsolvable("thus."), Unsolvable), (Mine("mine."), Unsolvable)):
        again = NoValue.of(json.loads(json.dumps(error.note)))
        assert (type(again), str(again)) == (kind, str(error))


def test_a_trial_of_which_more_will_come_has_not_ended(tiny: RunConfig, score: Any) -> None:
    """Although a part of it has failed, it is not published, reported as failed, or closed in the record."""
    plan = planned(override(tiny, {"evaluate.nfe": [1, 2]}), seeds=1)
    run = plan.run("b", 0)
    protocol = plan.protocol("b")
    for arm in "ac":
        score(plan.run(arm, 0), plan.protocol(arm), {1: 2.0, 2: 1.0})
    run.note_failure(protocol, "1", Diverged("so."))
    assert run.failure(protocol) is not None
    assert not run.ended(protocol)
    assert plan.unfinished() == [("b", 0)]
    assert Followed("b", run, protocol, {}).status() == "RUNNING"
    run.note_failure(protocol, "2", Diverged("so."))
    assert plan.unfinished() == []
    assert Followed("b", run, protocol, {}).status() == "FAILED"


def test_a_known_value_is_not_refused_because_of_another_metric(tiny: RunConfig, score: Any) -> None:
    plan = planned(override(tiny, {"evaluate.nfe": [1, 2]}), seeds=1)
    run = plan.run("a", 0)
    protocol = plan.protocol("a")
    score(run, protocol, {1: 2.0, 2: 1.0})
    run.note_failure(protocol, "2", Diverged("another metric is not finite."))
    assert run.evaluated(protocol)
    assert run.failure(protocol) is None


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (Diverged("it diverged."), "diverged", "0 of them given up early, 1 diverged"),
        (Unsolvable("it gave up."), "failed", "0 of them given up early, 1 without a value"),
        (Pruned("it fell behind."), "given up", "1 of them given up early"),
    ],
    ids=str,
)
def test_a_search_tells_pruned_trials_from_diverged_ones(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, said: str
) -> None:
    from harness.ablation.design.search import Search
    from harness.ablation.design.space import log

    search = Search(
        question="Which?", spaces={"digits": {"train.learning_rate": log(1e-4, 1e-1)}}, nfe=2, trials=2, name="toy"
    )
    board = tuner.SearchBoard(SearchPlan.of(search, "digits", override(tiny, {"train.steps": 4}), None, []))
    ends = iter([error])

    def end(config: RunConfig, *_: Any) -> Run:
        if ending := next(ends, None):
            raise ending
        return ensure(config, quiet, never)

    monkeypatch.setattr(tuner, "ensure", end)
    work(board, never)
    assert history.frame(board).state.tolist() == [state, "finished"]
    assert said + ", by FID" in history.describe(board)
    assert history.counted(board) == {"finished": 1, state: 1}
    assert history.draw_history(board).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("evaluate", "nfe"),
    [
        ({"evaluate.nfe": [2, 4]}, (1, 2, 4)),
        ({"evaluate.nfe": [4, 1]}, (4, 1)),
        ({"evaluate.nfe": [2], "evaluate.solver": "heun"}, (2,)),
    ],
    ids=str,
)
def test_distilled_arms_are_compared_with_flows_at_one_step(
    points: RunConfig, evaluate: dict[str, Any], nfe: tuple
) -> None:
    config = override(points, {**evaluate, "reflow.number": 40, "reflow.nfe": 4})
    train(Run.of(config), quiet, never)
    plan = rounds.plan_of([Run.of(config)], 1, True, {})
    *flows, distilled = plan.arms.values()
    assert [flow.evaluate.nfe for flow in flows] == [nfe] * 2
    assert (distilled.evaluate.nfe, plan.nfe) == ((1,), min(nfe))
    assert [arm.evaluate.nfe for arm in rounds.plan_of([Run.of(config)], 1, False, {}).arms.values()] == [
        config.evaluate.nfe
    ] * 2
