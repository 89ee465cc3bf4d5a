"""The forecast of a plan: small trials run side by side, and each shared cost counts once."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute import forecast as module
from harness.ablation.execute.forecast import Forecast, forecast
from harness.ablation.execute.placement import Placement
from harness.ablation.execute.side_by_side import side_by_side
from harness.ablation.report.spent import Parts, measured, remaining, total
from harness.core.config import override
from harness.core.errors import Diverged, UserError
from harness.core.files import results_folder, write_json
from harness.runs import estimate
from harness.runs.config import RunConfig
from harness.runs.estimate import Spent
from harness.runs.folder import Run
from harness.runs.identity import training_digest

ARMS: dict[str, dict[str, Any]] = {"a": {}, "b": {"weighting": "data_end"}, "same": {"evaluate.solver": "midpoint"}}
STUDY = Study(name="toy", question="Which?", baseline="a", arms=ARMS, nfe=2, looks=(3, 5, 8))


def planned(base: RunConfig, arms: Mapping[str, Mapping[str, Any]] = ARMS, seeds: int = 3) -> Plan:
    return Plan.of(dataclasses.replace(STUDY, arms=arms), "digits", base, {}, seeds, [])


@pytest.fixture
def base(tiny: RunConfig) -> RunConfig:
    return override(tiny, {"evaluate.nfe": [2], "evaluate.num_samples": 32})


def expected(plan: Plan, parts: Parts) -> Spent:
    """Return the cost of all trials that have not ended."""
    return total(remaining(plan, parts).values())


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_processes_run_side_by_side_and_each_reports_its_part(tmp_path: Path) -> None:
    """Each process waits for the other: in sequence they would never end."""
    code = """
import os, sys
sys.path[:0] = {path}
from pathlib import Path
from harness.ablation.execute.side_by_side import wait_for_all
wait_for_all(Path(os.environ["PLACE"]), 2, "there")
print("x" * 100_000, os.environ["PART"])
"""
    environments = [{"PART": part, "PLACE": str(tmp_path)} for part in ("one", "two")]
    said = side_by_side(python(code.format(path=sys.path)), environments)
    assert [text.split()[1] for text in said] == ["one", "two"]


def test_one_that_fails_ends_the_others() -> None:
    code = "import os, sys, time; time.sleep(0 if os.environ['PART'] == 'bad' else 600); sys.exit('error: no luck')"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        side_by_side(python(code), [{"PART": part} for part in ("good", "bad")])
    assert (raised.value.returncode, raised.value.stderr.strip()) == (1, "error: no luck")


def in_this_process(run: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Replaces `side_by_side`: runs the first process here; the others report the same."""

    def run_one(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*command[2:-1], "1"])
            patch.setenv("HARNESS_RESULTS", environments[0]["HARNESS_RESULTS"])
            capsys.readouterr()
            run()
        return [capsys.readouterr().out] * len(environments)

    return run_one


@pytest.mark.usefixtures("unmeasured")
def test_small_trials_report_each_part_once_and_leave_nothing(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "side_by_side", in_this_process(module.main, capsys))
    monkeypatch.setattr(estimate, "SECONDS", 0.1)
    plan = planned(base)
    found = forecast(plan, Placement(2, 1), ["a", "same"])
    assert found.trainings.keys() == {training_digest(plan.arms["a"])}
    assert found.evaluations.keys() == {"a", "same"}
    assert found.failures == {}
    assert all(part > 0 for each in (found.trainings, found.evaluations) for spent in each.values() for part in spent)
    assert not results_folder().exists()


@pytest.mark.slow
def test_real_processes_try_small_trials(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = forecast(planned(base), Placement(2, 1), ["a"])
    assert all(part > 0 for part in (*found.trainings.popitem()[1], *found.evaluations["a"]))
    assert not results_folder().exists()
    broken = dataclasses.replace(planned(base), plugins=(str(Path("absent.py").absolute()),))
    with pytest.raises(UserError, match=r"^a small trial failed: .*absent\.py: no such file"):
        forecast(broken, Placement(1, 1), ["a"])


def test_processes_are_averaged_and_a_failing_arm_is_reported(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(seconds: float) -> str:
        found = Forecast({"0123": Spent(seconds, 10)}, {"a": Spent(1, 2 * seconds)}, {"b": "it diverged"})
        return json.dumps(dataclasses.asdict(found))

    places: list[str] = []

    def fake(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[str]:
        places.extend(environment["HARNESS_RESULTS"] for environment in environments)
        assert Plan.read(Path(command[3])).arms.keys() == {"a", "b"}
        return [said(2), said(5)]

    monkeypatch.setattr(module, "side_by_side", fake)
    found = forecast(planned(base), Placement(2, 1), ["a", "b"])
    assert found == Forecast({"0123": Spent(3.5, 10)}, {"a": Spent(1, 7)}, {"b": "it diverged"})
    assert len({*places, str(results_folder())}) == 3


def test_an_arm_without_times_does_not_remove_the_others(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = estimate.TrainingTimes(
        1, 1, 1, 1, 0, dict.fromkeys(("checkpoint", "best", "snapshot", "line", "look"), 1.0)
    )

    def training_times(config: RunConfig) -> tuple[estimate.TrainingTimes, Run]:
        if config.weighting.name == "data_end":
            raise Diverged("training diverged: by step 3.")
        return times, Run.of(config)

    monkeypatch.setattr(module, "side_by_side", in_this_process(module.main, capsys))
    monkeypatch.setattr(module, "training_times", training_times)
    monkeypatch.setattr(module, "judging_times", lambda config, run: estimate.JudgingTimes(1, 1, 1, 1, 1, 1))
    found = forecast(planned(base), Placement(1, 1), ARMS)
    assert found.failures == {"b": "training diverged: by step 3."}
    assert found.evaluations.keys() == {"a", "same"}


@pytest.mark.parametrize(
    ("code", "stderr", "said"),
    [
        (2, "waiting\nerror: x.py: no such file. Write it.\n", "a small trial failed: x.py: no such file. Write it."),
        (1, "", "a small trial failed: it ended with exit code 1"),
        (-9, "", "a small trial was killed by signal 9 (did memory run out?). Take fewer workers or smaller batches."),
    ],
)
def test_a_lost_process_is_one_line(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, said: str
) -> None:
    def lost(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[str]:
        raise subprocess.CalledProcessError(code, list(command), stderr=stderr)

    monkeypatch.setattr(module, "side_by_side", lost)
    with pytest.raises(UserError) as raised:
        forecast(planned(base), Placement(1, 1), ["a"])
    assert str(raised.value) == said


def finish(run: Run, seconds: float, steps: int | None = None) -> None:
    """Write the metrics of a training that took this time for all its steps, or for its first steps."""
    train = run.config.train
    run.folder.mkdir(parents=True)
    line = {"step": steps or train.steps, "time": 0.0, "samples_per_second": train.steps * train.batch_size / seconds}
    (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_shared_trainings_of_arms_count_once(base: RunConfig) -> None:
    """Three seeds of two trainings, which three arms share."""
    plan = planned(base)
    digests = [training_digest(plan.arms[arm]) for arm in "ab"]
    parts = Parts(
        {digests[0]: Spent(10, 1000), digests[1]: Spent(20, 3000)},
        {"a": Spent(1, 1), "b": Spent(2, 2), "same": Spent(3, 3)},
    )
    assert expected(plan, parts) == Spent(3 * (10 + 20) + 3 * (1 + 2 + 3), 3 * 4000 + 3 * 6)
    finish(plan.run("a", 0), 8.0, plan.arms["a"].train.steps // 2)
    assert expected(plan, parts).seconds == pytest.approx(108 - 5), "half of a training is left"


def test_half_of_an_evaluation_is_left_where_one_of_two_nfes_is_known(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny, {"a": {}, "b": {"weighting": "data_end"}}, 1)
    zero = dict.fromkeys((training_digest(plan.arms[arm]) for arm in "ab"), Spent(0, 0))
    score(plan.run("b", 0), plan.protocol("b"), {1: 4.0})
    assert expected(plan, Parts(zero, {"a": Spent(100, 8), "b": Spent(10, 2)})) == Spent(105, 9)


def test_an_unknown_cost_is_not_a_number(base: RunConfig) -> None:
    plan = planned(base)
    assert math.isnan(expected(plan, Parts({}, {})).seconds)
    only = Parts({training_digest(plan.arms["a"]): Spent(1, 1)}, dict.fromkeys(ARMS, Spent(1, 1)))
    assert math.isnan(expected(plan, only).seconds)
    assert expected(dataclasses.replace(plan, seeds=()), Parts({}, {})) == Spent(0, 0)


def test_an_earlier_flow_is_trained_once_for_all_that_learn_from_it(base: RunConfig) -> None:
    arms = {"two": {"reflow.rounds": 1}, "three": {"reflow.rounds": 2}}
    plan = Plan.of(dataclasses.replace(STUDY, arms=arms, baseline="two"), "digits", base, {}, 2, [])
    first, second, third = (training_digest(flow) for flow in plan.arms["three"].flows)
    assert second == training_digest(plan.arms["two"])
    parts = Parts({first: Spent(100, 1), second: Spent(10, 1), third: Spent(1, 1)}, dict.fromkeys(arms, Spent(1000, 0)))
    assert expected(plan, parts) == Spent(2 * 111 + 4 * 1000, 2 * 3)


def test_finished_trainings_and_evaluations_give_their_mean(base: RunConfig, score: Any) -> None:
    plan = planned(base)
    finish(plan.run("a", 0), 8.0)
    finish(plan.run("a", 1), 10.0)
    finish(plan.run("a", 2), 99.0, 3)
    for seed in (0, 1):
        score(plan.run("same", seed), plan.protocol("same"), {2: 4.0})
    found = measured(plan)
    ((digest, spent),) = found.trainings.items()
    assert (digest, spent.seconds) == (training_digest(plan.arms["a"]), pytest.approx(9.0))
    assert found.evaluations.keys() == {"same"}
    assert found.evaluations["same"].seconds == 1.0
    place = plan.run("same", 0).evaluation_file(plan.protocol("same"))
    assert found.evaluations["same"].bytes == pytest.approx(place.stat().st_size, rel=0.01)


def test_pairs_count_as_a_cost_of_the_run_that_learns_them(base: RunConfig) -> None:
    arms = {"one": {}, "two": {"reflow.rounds": 1}}
    plan = Plan.of(dataclasses.replace(STUDY, arms=arms, baseline="one"), "digits", base, {}, 1, [])
    run = plan.run("two", 0)
    finish(run, 8.0)
    made = {"teacher": "x", "made": {"solver": {}}, "calls": 1.0, "commit": "abc", "files": {}}
    write_json(run.pairs.folder / "pairs.json", {**made, "number": 300, "pairs_per_second": 100.0})
    assert measured(plan).trainings[training_digest(plan.arms["two"])].seconds == pytest.approx(8 + 3)
