"""The sources of a study's variance: compared with statsmodels, closed forms and invented components, then measured."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import leave_out_measurements
from PIL import Image
from scipy import stats

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study, load_scale
from harness.ablation.execute.resample import Resampling
from harness.ablation.report import resampled_tables
from harness.ablation.report.budget import Budget, Cost, cheapest
from harness.ablation.report.power import Power
from harness.ablation.report.resampled import found
from harness.ablation.report.variance import Split, law, rise, shared, split
from harness.cli import main
from harness.core.config import override
from harness.core.errors import Diverged, Stopped, UserError
from harness.core.files import write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.sample import restore
from harness.runs.train import ensure

pytestmark = pytest.mark.usefixtures("unmeasured")
NUMBERS = (10, 20, 40, 80)


def made_up(rng: np.random.Generator, seeds: int, draws: int, training: float, sampling: float) -> np.ndarray:
    """Return log ratios [seeds, draws] with these standard deviations."""
    return 0.1 + rng.normal(0, training, (seeds, 1)) + rng.normal(0, sampling, (seeds, draws))


def test_components_are_those_of_statsmodels() -> None:
    """Restricted likelihood gives the same for balanced data if neither component is below 0."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    logs = made_up(np.random.default_rng(0), 8, 4, 0.1, 0.05)
    own = split(logs, 400)
    groups = np.repeat(np.arange(8), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels reports a component below 0.01 as on the boundary
        theirs = MixedLM(logs.ravel(), np.ones((32, 1)), groups).fit(reml=True)
    assert own.mean == pytest.approx(float(theirs.fe_params[0]))
    assert own.training == pytest.approx(float(theirs.cov_re[0, 0]), rel=1e-4)
    assert own.sampling == pytest.approx(theirs.scale, rel=1e-4)
    assert not own.below_zero


def test_components_are_unbiased_and_the_interval_holds_the_sd() -> None:
    rng = np.random.default_rng(1)
    splits = [split(made_up(rng, 5, 4, 0.1, 0.1), 400) for _ in range(2000)]
    truth = math.sqrt(0.1**2 + 0.1**2)
    whole = [own.training + own.sampling for own in splits if not own.below_zero]
    cut = [own.sampling for own in splits]
    assert np.mean(cut) == pytest.approx(0.01, rel=0.03)
    assert np.mean(whole) == pytest.approx(0.02, rel=0.06)
    assert 0.93 <= np.mean([own.low <= truth <= own.high for own in splits]) <= 0.98


def test_a_negative_variance_counts_as_zero_with_a_note() -> None:
    """Rows with equal means leave no variance between them."""
    own = split(np.array([[0.1, -0.1], [0.1, -0.1], [-0.1, 0.1]]), 400)
    assert own.below_zero
    assert (own.training, own.sampling, own.share) == (0, pytest.approx(0.02), 1)
    assert own.sd == pytest.approx(math.sqrt(0.02))


def test_without_any_spread_there_is_no_sd() -> None:
    own = split(np.full((3, 2), 0.5), 400)
    assert (own.sd, own.share) == (0, 0)
    assert math.isnan(own.low)


def test_the_law_is_found_again() -> None:
    for scale, rest, slope in ((2.0, 0.0, -1.0), (0.0, 0.3, 0.0), (2.0, 0.01, None)):
        known = [Split(n, 0.0, 0.0, scale / n + rest) for n in (100, 200, 400, 800)]
        fitted = law(known)
        assert [fitted.scale, fitted.rest] == pytest.approx([scale, rest], abs=1e-9)
        assert slope is None or fitted.slope == pytest.approx(slope, abs=1e-9)
        beyond = fitted.beyond(Split(800, 0.1, 0.5, 2 * known[-1].sampling), 3200)
        assert (beyond.samples, beyond.training) == (3200, 0.5)
        assert beyond.sampling == pytest.approx(2 * (scale / 3200 + rest)), "it goes on from the last"


def test_the_law_of_zero_variance_is_none() -> None:
    flat = law([Split(100, 0.0, 0.0, 0.0), Split(200, 0.0, 0.0, 0.0)])
    assert math.isnan(flat.slope)
    assert flat.beyond(Split(200, 0.0, 0.1, 0.0), 800).sampling == 0


def test_the_shared_variance_of_arms_is_subtracted() -> None:
    """Half of the noise's variance is common to both."""
    rng = np.random.default_rng(2)
    common = rng.normal(0, 0.1, (2000, 4))
    arm, baseline = (
        rng.normal(0, 0.2, (2000, 1)) + math.sqrt(0.5) * (common + rng.normal(0, 0.1, (2000, 4))) for _ in range(2)
    )
    assert shared(arm, baseline) == pytest.approx(0.5, abs=0.05)
    assert shared(arm, arm) == 1
    assert shared(arm, -arm) == pytest.approx(-1)
    assert math.isnan(shared(0 * arm, 0 * arm))


def test_a_rise_is_of_the_same_excess_by_every_number_of_samples() -> None:
    for power in (1, 2):
        floor = {100: 4.0, 400: 2.0}
        excess = 3.0
        here, there = ((excess**power + own**power) ** (1 / power) for own in floor.values())
        more = ((1.05 * here) ** power - floor[100] ** power) ** (1 / power)
        after = (more**power + floor[400] ** power) ** (1 / power)
        assert rise(0.05, here, there, power) == pytest.approx(after / there - 1)
    assert rise(0.05, 7.0, 7.0, 2) == pytest.approx(0.05)


def budget(run: str = "b", *more: str) -> Budget:
    costs = {"a": Cost(100, 10, {10: 1, 20: 2}, "a"), "b": Cost(300, 30, {10: 3, 20: 6}, run)}
    return Budget(
        dict.fromkeys(("b", *more), 5), costs | {arm: Cost(500, 0, {10: 0}, arm) for arm in more}, "a", ["b", *more]
    )


def test_a_way_costs_its_seeds_times_both_runs() -> None:
    own = budget().way(20, True, 0.05, {"b": Split(20, 0.0, 0.01, 0.03, False, 0.1, 0.4)})
    seeds, fewest, most = (Power(5, sd, 0.05, 1).seeds_for(0.05) or 0 for sd in (0.2, 0.1, 0.4))
    assert own.seeds == {"b": seeds}
    assert [own.seconds["b"], own.total] == [seeds * (100 + 10 + 2 + 300 + 30 + 6)] * 2
    assert [own.low / own.total, own.high / own.total] == pytest.approx([fewest / seeds, most / seeds])


def test_a_training_that_arms_have_in_common_is_paid_once() -> None:
    splits = {"b": Split(80, 0.0, 0.01, 0.03)}
    own, apart = (budget(run).way(80, False, 0.05, splits) for run in ("a", "b"))
    seeds = own.seeds["b"]
    assert seeds
    assert own.total == seeds * (100 + 10 + 8 + 30 + 24)
    assert apart.total - own.total == seeds * 300
    assert math.isnan(own.low)


def test_all_arms_share_the_baseline_with_the_most_seeds() -> None:
    splits = {"b": Split(10, 0.0, 0.01, 0.0), "c": Split(10, 0.0, 0.04, 0.0)}
    own = budget("b", "c").way(10, True, 0.05, splits)
    b, c = (own.seeds[arm] or 0 for arm in "bc")
    assert c > b > 3
    assert own.total == b * 333 + c * 500 + c * 111
    alone = dataclasses.replace(budget("b", "c"), summed=["b"]).way(10, True, 0.05, splits)
    assert alone.total == b * 333 + b * 111
    with_none = budget().way(10, True, 0.05, {"b": Split(10, 0.0, 100.0, 0.0)})
    assert with_none.seeds == {"b": None}
    assert math.isinf(with_none.total)


def test_without_a_spread_three_seeds_do() -> None:
    assert budget().way(10, True, 0.05, {"b": Split(10, 0.0, 0.0, 0.0)}).seeds == {"b": 3}


def test_the_cheapest_is_the_least_that_is_known() -> None:
    assert cheapest({10: math.inf, 20: 3.0, 40: 2.0, 80: 2.5}) == 40
    assert cheapest({10: math.inf}) is None


@pytest.fixture(scope="module")
def base() -> RunConfig:
    """Points, trained and judged in a moment."""
    train = {"steps": 4, "warmup_steps": 0, "sample_every": 4, "batch_size": 16, "device": "cpu", "log_every": 2}
    judged = {
        "num_samples": 40,
        "batch_size": 20,
        "num_reference": 50,
        "nfe": [1, 2],
        "metrics": ["sliced_wasserstein"],
    }
    changes = {f"train.{name}": value for name, value in train.items()}
    return override(load_scale("points"), changes | {f"evaluate.{name}": value for name, value in judged.items()})


def planned(base: RunConfig, seeds: int = 3, **study: Any) -> Plan:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    made = Study(**{"name": "toy", "question": "?", "baseline": "a", "arms": arms, "nfe": 2, **study})
    return Plan.of(made, "points", base, {}, seeds, [])


@pytest.fixture(scope="module")
def trained_there(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two arms with three seeds."""
    results = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_measurements(patch)
        patch.setattr("harness.runs.train.picture", lambda *_: None)
        patch.setattr("harness.runs.judge.draw", lambda *_: None)
        patch.setenv("HARNESS_RESULTS", str(results))
        for trial in (plan := planned(base)).trials():
            ensure(plan.config(*trial), lambda _: None, never)
    return results


@pytest.fixture(scope="module")
def judged_there(base: RunConfig, trained_there: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, judged with two sampling seeds."""
    results = tmp_path_factory.mktemp("judged") / "results"
    shutil.copytree(trained_there, results)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(results))
        judged(Resampling.of(planned(base), 2))
    return results


@pytest.fixture
def plan(base: RunConfig, trained_there: Path, isolated: None, tmp_path: Path) -> Plan:
    """The study with its finished runs."""
    shutil.copytree(trained_there, tmp_path / "results")
    return planned(base)


@pytest.fixture
def design(base: RunConfig, judged_there: Path, isolated: None, tmp_path: Path) -> Resampling:
    """The study with its finished runs, judged with two sampling seeds."""
    shutil.copytree(judged_there, tmp_path / "results")
    return Resampling.of(planned(base), 2)


def never() -> bool:
    return False


def values(design: Resampling, arm: str, number: int) -> np.ndarray:
    return design.values(design.evaluations(arm, number))


def judged(design: Resampling) -> Resampling:
    assert len([*design.judge(never)]) == len(design.draws())
    return design


def test_numbers_are_a_quarter_to_the_double_in_whole_batches(plan: Plan) -> None:
    assert Resampling.of(plan, 2).numbers == NUMBERS
    assert Resampling.of(plan, 2).batch_size == 10
    more = planned(override(plan.arms["a"], {"evaluate.more_samples": [{"nfe": 2, "num_samples": 101}]}))
    design = Resampling.of(more, 2)
    assert (design.numbers, design.batch_size) == ((20, 40, 80, 160), 20)
    few = planned(
        override(plan.arms["a"], {"evaluate.metrics": [{"name": "c2st", "trees": 2}], "evaluate.num_samples": 12})
    )
    assert Resampling.of(few, 2).numbers == (6, 12, 24), "three samples are too few for five folds"


def test_each_value_is_that_of_an_evaluation_by_so_many(design: Resampling) -> None:
    run = design.run("b", 1, 1, 20)
    alone = Run(run.config, design.plan.run("a", 0).folder.parent / "elsewhere" / run.name)
    protocol = run.config.protocol()
    alone.folder.mkdir(parents=True)
    evaluate(alone, restore(run), judge_of(run.config), never)
    assert alone.evaluation(protocol)["values"] == run.evaluation(protocol)["values"]
    assert values(design, "b", 20)[1, 1] == alone.evaluation(protocol)["values"]["sliced_wasserstein"]["2"]
    assert values(design, "b", 20).shape == (3, 2)
    assert len(np.unique(values(design, "b", 20))) == 6


def test_nothing_is_judged_twice_and_a_stop_loses_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == 14

    with pytest.raises(Stopped):
        [*Resampling.of(plan, 2).judge(stop)]
    design = judged(Resampling.of(plan, 2))
    kept = {n: values(design, "b", n) for n in NUMBERS}
    assert not any(np.isnan(table).any() for table in kept.values())
    monkeypatch.setattr("harness.runs.judge.samples", None)
    judged(Resampling.of(plan, 2))
    whole = planned(override(plan.arms["a"], {"train.steps": 4}))
    assert all(np.array_equal(values(Resampling.of(whole, 2), "b", n), kept[n]) for n in NUMBERS)


def test_the_report_contains_the_results_of_the_values(design: Resampling, tmp_path: Path) -> None:
    report = found(design)
    files = {path.suffix: path for path in resampled_tables.write(report, tmp_path / "out", "harness variance toy")}
    about = json.loads(files[".json"].read_text())
    logs = np.log(about["values"]["b"]["40"]) - np.log(about["values"]["a"]["40"])
    own = next(own for own in about["splits"]["b"] if own["samples"] == 40)
    between = stats.f_oneway(*logs)  # F is the ratio of the mean squares
    ratio = 1 + 2 * own["training"] / own["sampling"]
    assert own["below_zero"] or between.statistic == pytest.approx(ratio)
    assert own["mean"] == pytest.approx(logs.mean())
    assert [each["samples"] for each in about["ways"]] == [*NUMBERS, 160, 320]
    assert [each["measured"] for each in about["ways"]] == [True] * 4 + [False] * 2
    totals = {each["samples"]: each["total"] for each in about["ways"]}
    assert about["cheapest"]["all arms"] == min(totals, key=lambda n: totals[n])
    level = {n: np.sqrt(np.mean(np.square(table))) for n, table in about["values"]["a"].items()}
    rises = {each["samples"]: each["rise"] for each in about["ways"]}
    assert rises[40] == pytest.approx(0.05), "the study has so many samples"
    assert rises[10] == pytest.approx(rise(0.05, level["40"], level["10"], 2))
    assert rises[160] == rises[320] == rises[80]
    text = files[".md"].read_text()
    assert text.startswith("# How many seeds and samples does toy-points need?")
    assert f"{about['cheapest']['all arms']:,} samples at NFE 2" in text
    assert "Made by `harness variance toy` at commit" in text
    assert Image.open(files[".png"]).size[0] > 400


def test_the_cost_of_a_run_comes_from_its_files(design: Resampling) -> None:
    plan = design.plan
    runs = [plan.run("b", seed) for seed in plan.seeds]
    known = [run.evaluation(plan.protocol("b")) for run in runs]
    own = found(design).costs["b"]
    judged = [[one["seconds"]["1"], one["seconds"]["2"] - one["sampling_seconds"]["2"]] for one in known]
    assert own.elsewhere == pytest.approx(np.sum(judged) / 3)
    assert own.training == pytest.approx(np.mean([run.trained.seconds for run in runs]))
    again = [design.run("b", seed, k, 40) for seed in plan.seeds for k in range(2)]
    assert own.judging[40] == pytest.approx(
        np.mean([run.evaluation(run.config.protocol())["seconds"]["2"] for run in again])
    )
    assert own.at(160) == pytest.approx(own.elsewhere + 2 * own.judging[80])


@pytest.mark.parametrize(("factor", "settled"), [(1.0, []), (1.04, []), (3.0, ["b"]), (0.3, ["b"])])
def test_arms_that_differ_already_are_not_in_the_sum(
    design: Resampling, monkeypatch: pytest.MonkeyPatch, factor: float, settled: list[str]
) -> None:
    """Invented values: those of b are a multiple of the baseline's, within a hundredth."""
    rng = np.random.default_rng(0)

    def made(own: Resampling, known: list[dict[str, Any]]) -> np.ndarray:
        is_b = known[0]["run"] == own.run("b", 0, 0).name
        return (factor if is_b else 1.0) * rng.lognormal(0, 0.01, (3, 2))

    monkeypatch.setattr(Resampling, "values", made)
    report = found(design)
    assert report.settled == settled
    assert report.together == "all arms", "none is left, so all are summed"
    both = dataclasses.replace(report, splits={**report.splits, "c": report.splits["b"]})
    lines = resampled_tables._advice(both)
    assert any(line.startswith("Not in the sum: b, ") for line in lines) == bool(settled)


def test_the_command_writes_its_files_and_prints(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cli.variance.plan_of", lambda options: plan)
    monkeypatch.setattr("harness.cli.variance.training_command", lambda options: "harness ablate toy")
    assert main(["variance", "toy", "--scale", "points", "--sampling-seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert "12 draws of 80 samples at NFE 2" in said
    assert (tmp_path / "results" / "local" / "tables" / "toy-points-variance.json").is_file()


def refused(plan: Plan) -> str:
    with pytest.raises(UserError) as caught:
        Resampling.of(plan, 2).require_two("harness ablate toy")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_crossed_arms_have_no_one_baseline(tiny: RunConfig) -> None:
    swept = Study(
        name="toy", question="Which?", baseline="a", nfe=2, sweep={"train.steps": [4, 6]},
        arms={"a": {}, "b": {"weighting": "data_end"}},
    )  # fmt: skip
    said = refused(Plan.of(swept, "digits", tiny, {}, 3, []))
    assert said.startswith("toy-digits: it has axes or a sweep, so its arms are not all")


def test_fewer_than_two_seeds_are_refused(plan: Plan, base: RunConfig) -> None:
    for seed in (1, 2):
        (plan.run("b", seed).folder / "checkpoints").rename(plan.run("b", seed).folder / "gone")
    said = "toy-points: 1 of 3 seeds of b are finished, and a variance needs two. Run `harness ablate toy` first."
    assert refused(plan) == said
    assert refused(planned(override(base, {"train.steps": 5}))).startswith("toy-points: 0 of 3 seeds of a are finished")


def test_values_that_no_samples_can_give_are_refused(plan: Plan, base: RunConfig) -> None:
    flow = planned(override(base, {"evaluate.metrics": ["straightness", "sliced_wasserstein"]}))
    assert refused(flow).startswith("toy-points: straightness measures the flow itself")
    assert refused(planned(base, nfe=8)) == (
        "toy-points: the baseline a is not judged by sliced_wasserstein at NFE 8. Without it there is no difference."
    )
    arms = {"a": {}, "b": {"weighting": "data_end", "evaluate.nfe": [1]}}
    assert refused(planned(base, arms=arms)).startswith("toy-points: no arm is left (b is not judged by")


def test_arms_without_values_are_left_out_with_a_note(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}, "c": {"weighting": "noise_end"}}
    plan = planned(plan.arms["a"], arms=arms)
    write_json(plan.run("c", 1).folder / "diverged.json", {"reason": "step 3"})
    design = Resampling.of(plan, 2)
    assert [*design.seeds] == ["a", "b"]
    monkeypatch.setattr(
        "harness.ablation.report.resampled.short_of_samples", lambda config, data: f"{config.num_samples}"
    )
    report = found(judged(design))
    assert report.notes.pop() == "10", "whether the fewest are enough is asked"
    assert report.notes == ["c is left out: it has no value of seed 1, so the other seeds are a biased sample."]
    run = design.run("b", 1, 1, 20)
    run.write_evaluation(run.config.protocol(), run.evaluation(run.config.protocol()) | {"values": {}})
    run.note_failure(run.config.protocol(), "2", Diverged("not finite"))
    with pytest.raises(UserError, match=r"^toy-points: no arm has positive values for all samples"):
        found(judged(Resampling.of(plan, 2)))


def test_values_without_a_log_are_left_out(design: Resampling, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Resampling.values
    monkeypatch.setattr(Resampling, "values", lambda own, known: -table(own, known))
    with pytest.raises(UserError, match=r"the baseline a has values that are not positive"):
        found(design)


def test_samples_that_are_not_finite_are_noted(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finite ones among the first are judged."""
    design = Resampling.of(plan, 2)
    from harness.runs import judge as module

    drawn = module.samples

    def broken(*args: Any, **kwargs: Any) -> Any:
        for i, batch in enumerate(drawn(*args, **kwargs)):
            yield batch._replace(x=batch.x * (math.nan if i == 3 else 1))

    monkeypatch.setattr(module, "samples", broken)
    [*design.judge(never)]
    assert not np.isnan(values(design, "a", 20)).any()
    assert np.isnan(values(design, "a", 40)).all()


def test_the_table_of_a_frame_is_the_printed_one(design: Resampling) -> None:
    """The cheapest of each row has a star, and the rows end with all arms."""
    report = found(design)
    _, costs_of = resampled_tables.grids(report)
    rows = pd.DataFrame(costs_of.rows, columns=costs_of.header).set_index("arm")
    assert [*rows.index] == ["b", "all arms"]
    for arm, row in rows.iterrows():
        starred = [name for name, cell in row.items() if str(cell).endswith("*")]
        best = report.cheapest if arm == "all arms" else report.cheapest_of(str(arm))
        assert [str(name).partition(" ")[0] for name in starred] == [f"{best:,}"]
