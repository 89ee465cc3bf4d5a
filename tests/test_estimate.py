"""The estimated cost of a run, compared with closed forms, small real runs, and a finished run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.core.config import override
from harness.core.errors import Diverged
from harness.evaluation.flow_metrics import Straightness
from harness.evaluation.protocol import MoreSamples
from harness.runs import estimate
from harness.runs.config import RunConfig
from harness.runs.estimate import JudgingTimes, TrainingTimes, judging_times, training_times
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.sample import restore

SIZES = {"checkpoint": 100.0, "best": 40.0, "snapshot": 7.0, "line": 1.0, "look": 10.0}
TIMES = TrainingTimes(start=5, step=0.1, look=2, checkpoint=0.5, pair=0.01, sizes=SIZES)


@pytest.fixture
def settings(tiny: RunConfig) -> RunConfig:
    changes = {"steps": 103, "log_every": 10, "sample_every": 50, "checkpoint_every": 20, "snapshot_every": 25}
    return override(tiny, {f"train.{name}": value for name, value in changes.items()})


def test_a_trainings_parts_are_counted_up(settings: RunConfig) -> None:
    """103 steps: looks after 50, 100 and 103, checkpoints after 20, ... 100 and 103, snapshots after 25, ... 100."""
    assert TIMES.seconds(settings) == pytest.approx(5 + 103 * 0.1 + 3 * 2 + 6 * 0.5)
    assert TIMES.bytes(settings) == 2 * 100 + 40 + 4 * 7 + 11 * 1 + 3 * 10
    one = override(settings, {"train.keep_checkpoints": 9, "train.snapshot_every": 0})
    assert TIMES.bytes(one) == 6 * 100 + 40 + 11 + 30


def test_more_samples_at_an_nfe_are_drawn_and_judged_beside_the_usual_ones(tiny: RunConfig) -> None:
    """64 samples at NFE 1 and 2, and 160 at NFE 2: the first 64 of these are judged too."""
    times = JudgingTimes(start=5, call=0.01, calls=0, metrics=3, flow=0, picture=0)
    usual = override(tiny, {"evaluate.nfe": [1, 2], "evaluate.num_samples": 64}).evaluate
    more = override(tiny, {"evaluate.more_samples": [{"nfe": 2, "num_samples": 160}]}).evaluate
    assert times.seconds(usual) == pytest.approx(5 + (1 + 2) * 64 * 0.01 + 2 * 3)
    assert times.seconds(more) == pytest.approx(5 + (64 + 2 * 160) * 0.01 + (2 + 160 / 64) * 3)


def test_the_pairs_that_are_learned_count_and_their_teacher_does_not(settings: RunConfig) -> None:
    rounded = override(settings, {"reflow.rounds": 2, "reflow.number": 500})
    assert TIMES.seconds(rounded) - TIMES.seconds(settings) == pytest.approx(500 * 0.01)
    images = 2 * 500 * 64 * 4  # both ends of each pair, 8 x 8 pixels in float32
    assert TIMES.bytes(rounded) - TIMES.bytes(settings) == pytest.approx(images, abs=500)


def test_an_evaluations_calls_are_counted_up(tiny: RunConfig) -> None:
    times = JudgingTimes(start=1, call=1e-3, calls=37, metrics=2, flow=4, picture=50)
    how = override(tiny, {"evaluate.nfe": [1, 8, 32], "evaluate.num_samples": 200}).evaluate
    assert times.seconds(how) == pytest.approx(1 + (1 + 8 + 32) * 200 * 1e-3 + 3 * 2 + 4)
    assert times.bytes(how) == 150
    elsewhere = dataclasses.replace(how, more_samples=(MoreSamples(nfe=64, num_samples=800),))
    assert times.seconds(elsewhere) == times.seconds(how), "nothing is judged at NFE 64"
    adaptive = override(tiny, {"evaluate.solver": "dopri5", "evaluate.nfe": [0], "evaluate.num_samples": 200}).evaluate
    assert times.seconds(adaptive) == pytest.approx(1 + 37 * 200 * 1e-3 + 2 + 4)
    flow = dataclasses.replace(how, metrics=(Straightness(),))
    assert (times.seconds(flow), times.bytes(flow)) == (5, 0)


def size(run: Run) -> int:
    return sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())


def test_small_runs_tell_the_parts_and_a_finished_ones_disk(tiny: RunConfig, tiny_run: Run) -> None:
    """The disk estimate is within 3 %: it leaves out files that grow with the values, and the texts of configuration
    and evaluation.
    """
    evaluate(tiny_run, restore(tiny_run), judge_of(tiny), lambda: False)
    before = {*tiny_run.folder.parent.iterdir()}
    training, small = training_times(tiny)
    judging = judging_times(tiny, small)
    assert all(getattr(training, name) > 0 for name in ("start", "step", "look", "checkpoint"))
    assert all(getattr(judging, name) > 0 for name in ("start", "call", "metrics"))
    assert training.pair == 0
    assert judging.calls in tiny.evaluate.nfe
    assert training.bytes(tiny) + judging.bytes(tiny.evaluate) == pytest.approx(size(tiny_run), rel=0.03)
    assert tiny_run.folder in before
    assert small.folder not in before, "the small run is another than the real one"


@pytest.mark.usefixtures("unmeasured")
def test_a_round_is_timed_without_its_teacher_and_its_pairs_by_themselves(tiny: RunConfig) -> None:
    rounded = override(tiny, {f"reflow.{name}": n for name, n in {"rounds": 2, "number": 5000, "nfe": 2}.items()})
    rounded = override(rounded, {"reflow.batch_size": 40})
    training, small = training_times(rounded)
    assert training.pair > 0
    assert training.seconds(rounded) > 5000 * training.pair
    assert small.pairs.number == 40, "a whole batch"
    assert [flow.train.steps for flow in small.config.flows] == [small.config.train.steps] * 3
    teacher = override(tiny, {"train.steps": 900})
    given = override(rounded, {"reflow.rounds": 1, "reflow.teacher": teacher})
    assert [flow.train.steps for flow in estimate._small(given, 6, 0).flows] == [6, 6]


@pytest.mark.parametrize(
    ("steps", "wanted", "given"), [(1, 6, 1), (2, 6, 2), (3, 6, 2), (5, 6, 4), (100, 7, 6), (100, 6, 6), (100, 0, 1)]
)
def test_a_small_run_has_two_lines_of_metrics(tiny: RunConfig, steps: int, wanted: int, given: int) -> None:
    whole = override(tiny, {"train.steps": steps, "train.warmup_steps": 1, "train.snapshot_every": 3})
    small = estimate._small(whole, wanted, 0).train
    assert (small.steps, small.sample_every, small.checkpoint_every) == (given,) * 3
    assert small.log_every == max(1, given // 2)
    assert small.snapshot_every <= small.steps
    assert small.compile == whole.train.resolved()["compile"]


def test_choices_for_many_steps_stay_for_few(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU compiles only long trainings; the small run must be part of such a training."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    long = override(tiny, {"train.steps": 5000, "train.device": "auto"})
    assert (long.train.compile, long.train.resolved()["compile"]) == ("auto", "default")
    small = estimate._small(long, 6, 0).train
    assert (small.compile, small.precision) == ("default", "bf16")


def test_metrics_that_need_more_samples_get_them(tiny: RunConfig) -> None:
    assert estimate._fewest(tiny) == estimate.FEW
    blocks = override(tiny, {"evaluate.metrics": [{"name": "fid_infinity", "blocks": 12}], "evaluate.num_samples": 200})
    assert estimate._fewest(blocks) == 64
    assert estimate._fewest(override(blocks, {"evaluate.num_samples": 50})) == 50


def test_metrics_of_more_samples_are_extended_along_a_line(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 500 and 250 samples, 3 s + 10 ms each: 23 s at 2,000. A metric of the flow: 2 s on 32 paths, 20 s on 320."""
    asked = []

    def judged(trained: Run, how: Any) -> JudgingTimes:
        asked.append((how.num_samples, how.nfe, how.num_reference, how.flow_metrics[0].samples))
        return JudgingTimes(1, 1e-3, how.nfe[0], 3 + 0.01 * how.num_samples, 2, 5)

    monkeypatch.setattr(estimate, "_judged", judged)
    metrics = ["fid", {"name": "straightness", "samples": 320}]
    many = override(tiny, {"evaluate.num_samples": 2000, "evaluate.metrics": metrics, "evaluate.nfe": [1, 4, 32]})
    found = judging_times(many, Run.of(many))
    assert (found.metrics, found.flow) == (pytest.approx(23), pytest.approx(20))
    assert asked == [(16, (1,), 500, 32), (500, (4,), 500, 32), (250, (4,), 500, 32)], "4 calls of 500 samples take 2 s"
    asked.clear()
    few = override(many, {"evaluate.num_samples": 300})
    assert judging_times(few, Run.of(few)).metrics == pytest.approx(6)
    assert [number for number, *_ in asked] == [16, 300]


def test_slow_samples_are_drawn_in_one_step_to_time_metrics(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 ms a call, 500 samples of 40 calls take 200 s: too long only to time features and metrics."""
    asked = []

    def judged(trained: Run, how: Any) -> JudgingTimes:
        asked.append((how.num_samples, how.solver.name, how.nfe))
        return JudgingTimes(1, 1e-2, how.nfe[0] or 40, 3 + 0.01 * how.num_samples, 2, 5)

    monkeypatch.setattr(estimate, "_judged", judged)
    adaptive = {"evaluate.solver": "dopri5", "evaluate.nfe": [0], "evaluate.num_samples": 2000}
    slow = override(tiny, adaptive)
    found = judging_times(slow, Run.of(slow))
    assert asked == [(16, "dopri5", (0,)), (500, "euler", (1,)), (250, "euler", (1,))]
    assert (found.calls, found.metrics) == (40, pytest.approx(23))


@pytest.mark.usefixtures("unmeasured")
def test_a_training_that_gives_up_gives_no_times(tiny: RunConfig) -> None:
    with pytest.raises(Diverged):
        training_times(override(tiny, {"train.learning_rate": 1e30}))
