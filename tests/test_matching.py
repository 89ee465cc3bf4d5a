"""Arms that train at the baseline's cost: the cost of a step, the resulting steps, and the table's notes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from harness.ablation.design import matching
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import preregister, stored, unplanned
from harness.ablation.design.study import Study, load_scale
from harness.ablation.execute import timing
from harness.ablation.execute.placement import Placement
from harness.ablation.report import matching as told
from harness.ablation.report import tables
from harness.cli import main
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import results_folder
from harness.runs.config import RunConfig

STUDY = Study(
    name="toy", question="Which?", baseline="a", nfe=2, looks=(3,), matched="samples",
    arms={"a": {}, "b": {"train.batch_size": 64}, "c": {"weighting": "data_end"}},
)  # fmt: skip


def planned(base: RunConfig, changes: dict[str, Any] | None = None, **changed: Any) -> Plan:
    return Plan.of(dataclasses.replace(STUDY, **changed), "digits", base, changes or {}, None, [])


def steps(plan: Plan) -> dict[str, int]:
    return {arm: config.train.steps for arm, config in plan.arms.items()}


@pytest.fixture
def points() -> RunConfig:
    return override(load_scale("points"), {"train.steps": 1000, "train.device": "cpu"})


def test_arms_see_the_same_number_of_samples(tiny: RunConfig) -> None:
    plan = planned(tiny)
    assert steps(plan) == {"a": 12, "b": 6, "c": 12}
    assert len({config.train.steps * config.train.batch_size for config in plan.arms.values()}) == 1
    assert steps(planned(tiny, matched=None)) == dict.fromkeys("abc", 12)
    assert steps(planned(tiny, {"train.steps": 20})) == {"a": 20, "b": 10, "c": 20}, (
        "the user's steps are the baseline's"
    )
    assert steps(planned(tiny, baseline="b")) == {"a": 24, "b": 12, "c": 24}


def by_hand(features: int, width: int, blocks: int) -> int:
    """Return the operations of a forward and a backward pass of one sample: a product of [1, k] and [k, m] takes 2km.

    The backward pass has one such product for the weights, and one for the input if the input needs a gradient.
    """
    time = 2 * 2 * width * width + 3 * 2 * width * width  # the first layer's input needs no gradient
    block = 3 * 2 * (3 * width * 2 * width)  # film, inner, outer
    return time + 2 * 2 * features * width + blocks * block + 3 * 2 * width * features


def test_operations_are_those_of_a_hand_count(points: RunConfig) -> None:
    sizes = {"a": (128, 3), "b": (256, 3), "c": (64, 5)}
    arms = {arm: {"backbone.width": width, "backbone.blocks": blocks} for arm, (width, blocks) in sizes.items()}
    plan = planned(points, matched="flops", arms={**arms, "d": {**arms["b"], "train.batch_size": 64}})
    assert plan.matching
    for arm, (width, blocks) in sizes.items():
        expected = by_hand(2, width, blocks)
        assert matching.step_flops(plan.arms[arm]) == 256 * expected
        assert plan.matching.costs[arm] == expected / by_hand(2, 128, 3)
        assert steps(plan)[arm] == round(1000 * by_hand(2, 128, 3) / expected)
    assert plan.matching.costs["d"] == plan.matching.costs["b"] / 4


def test_a_network_that_cannot_be_counted_without_values_is_counted_with_them(
    points: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = matching.step_flops(points)
    network = type(matching.weightless(points.backbone, (2,), 0))
    plain = network.forward

    def looks(self: Any, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return plain(self, x, t, y) * (2.0 if x.sum().item() > 0 else 1.0)

    monkeypatch.setattr(network, "forward", looks)
    assert matching.step_flops(points) == expected


def test_arms_that_are_trained_alike_have_the_baselines_steps(tiny: RunConfig) -> None:
    """Independent of any clock: arms that differ only in sampling share their trainings."""
    plan = planned(tiny, matched="seconds", arms={"a": {}, "b": {"evaluate.time_grid": "quadratic"}})
    assert steps(plan) == {"a": 12, "b": 12}
    assert plan.one_training


@pytest.mark.parametrize("own", [{"train.steps": 9}, {"train": {"steps": 9}}], ids=str)
def test_an_arm_that_sets_its_steps_is_refused(own: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^arm 'b': `matched` computes .* sets train.* Leave out one of the two\.$"):
        dataclasses.replace(STUDY, arms={"a": {}, "b": own})
    dataclasses.replace(STUDY, arms={"a": {}, "b": own}, matched=None)


def test_impossible_matching_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(UserError, match=r"^matched: "):
        dataclasses.replace(STUDY, matched="hours")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^arm 'b': 12 steps of a cost less than half a step of it, by samples\. "):
        planned(tiny, arms={"a": {}, "b": {"train.batch_size": 32 * 25}})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A measurement in which b's steps take 2.2, 3.0 and 2.4 times as long as a's; returns the measured arms."""
    asked = list[str]()
    milliseconds = {"a": [10.0, 10.0, 20.0], "b": [22.0, 30.0, 48.0], "c": [5.0, 5.0, 10.0]}

    def measure(plan: Plan, placement: Placement) -> float:
        asked.append(plan.baseline)
        turn = (asked.count(plan.baseline) - 1) % 3
        step = milliseconds[plan.baseline][turn] / 1000
        return placement.workers * plan.arms[plan.baseline].train.batch_size / step

    monkeypatch.setattr(timing, "measure", measure)
    return asked


def timed(base: RunConfig, **changed: Any) -> None:
    timing.time_steps(planned(base, matched=None, **changed).threaded(2), Placement(2, 2), lambda text: None)


def test_seconds_are_measured_in_turn_and_once(tiny: RunConfig, clock: list[str]) -> None:
    two = {"a": {}, "b": STUDY.arms["b"]}
    with pytest.raises(
        UserError, match=r"^toy-digits: .* the steps of b were not timed yet\. Run `harness ablate` first"
    ):
        planned(tiny, matched="seconds", arms=two)
    timed(tiny, arms=two)
    assert clock == ["a", "b"] * 3
    plan = planned(tiny, matched="seconds", arms=two)
    assert steps(plan) == {"a": 12, "b": 5}
    assert plan.matching
    assert plan.matching.costs == pytest.approx({"a": 1.0, "b": 2.4})
    timed(tiny, arms=two)
    assert len(clock) == 6, "what was measured stays"
    timed(tiny)
    assert clock[6:] == ["a", "c"] * 3, "a new arm is measured beside the baseline"
    assert steps(planned(tiny, matched="seconds")) == {"a": 12, "b": 5, "c": 24}
    with pytest.raises(UserError, match="the steps of a, c were not timed yet"):
        planned(tiny, matched="seconds", baseline="b")
    with pytest.raises(UserError, match=r"toy-digits-\w{6}: .* not timed yet"):
        planned(tiny, {"train.batch_size": 16}, matched="seconds", arms=two | {"b": {"weighting": "data_end"}})


def test_an_arm_that_cannot_be_timed_is_one_line(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure", lambda plan, placement: float(plan.baseline == "a"))
    with pytest.raises(UserError, match=r"^arm 'b': its steps cannot be timed with 2 at a time on 2 threads"):
        timed(tiny)


@pytest.mark.parametrize("text", ["[1]", '{"x": {"cost": 0}}', "{"])
def test_a_damaged_measurement_is_one_line(tiny: RunConfig, text: str) -> None:
    place = results_folder() / "local" / "plans" / "toy-digits-seconds.json"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    with pytest.raises(UserError, match=r"toy-digits-seconds\.json: cannot be read .* measures again"):
        planned(tiny, matched="seconds")


def test_workers_read_the_same_steps(tiny: RunConfig, clock: list[str]) -> None:
    timed(tiny)
    for by in ("samples", "seconds"):
        plan = planned(tiny, matched=by).threaded(2)
        assert Plan.read(plan.write()) == plan
        assert Plan.read(plan.write()).digest == plan.digest != planned(tiny, matched=None).threaded(2).digest
    assert clock


def test_the_way_of_matching_is_stored_before_the_first_run(tiny: RunConfig, score: Any) -> None:
    preregister(plan := planned(tiny))
    assert stored(plan)[-1]["design"]["matched by"] == "samples"
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 9.0, 2: 8.0 + seed})
    preregister(by_steps := planned(tiny, matched=None))
    (line,) = unplanned(by_steps)
    assert line.endswith("matched by samples became unset; changed: b.")


@pytest.mark.usefixtures("undrawn")
def test_a_table_says_how_arms_were_matched(tiny: RunConfig, clock: list[str], score: Any, tmp_path: Path) -> None:
    assert clock == []
    timed(tiny)
    odd = {**STUDY.arms, "b": {"train.batch_size": 50}}
    plan = planned(tiny, arms=odd)
    assert told.about(plan) == [
        "Matched: every arm gets as many training samples as a: a 12 steps; b 8 steps, each 1.562 times as much; c 12 "
        "steps.",
        "Steps are whole numbers, and few here, so some arms spend more or less than a: b +4.2%.",
    ]
    assert told.about(planned(tiny, matched=None)) == []
    plan = planned(tiny, matched="seconds")
    lines = told.about(plan)
    assert lines[0].endswith("as a: a 12 steps; b 5 steps, each 2.4 times as much; c 24 steps, each 0.5 times as much.")
    assert lines[1].startswith("Seconds were measured on one machine (")
    assert lines[1].endswith("2 at a time on 2 threads) before the first run; the rounds of a measurement differ by up "
                             "to 36.4%.")  # fmt: skip
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 9.0, 2: 8.0 + seed})
    paths = tables.write(tables.report(plan, {}), tmp_path, "harness ablate toy")
    about = json.loads(next(path for path in paths if path.suffix == ".json").read_text())["matched"]
    assert (about["by"], about["steps"]) == ("seconds", {"a": 12, "b": 5, "c": 24})
    assert about["timed"]["b"]["least"] == pytest.approx(2.2)
    assert about["timed"]["b"]["seconds"] == pytest.approx(0.030)
    assert lines[0] in paths[0].read_text()


FILE = """
from harness.ablation.design.study import Study

STUDY = Study(question="Which?", baseline="a", arms={"a": {}, "b": {"train.batch_size": 32}}, matched="seconds")
"""


def test_commands_that_train_nothing_ask_for_the_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "paced.py").write_text(FILE)
    for command in ("table", "publish"):
        assert main([command, str(file)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "error: paced-digits: arms are matched by seconds, but the steps of b were not timed yet."
        )
        assert said.count("\n") == 1
    assert main(["explain", str(file)]) == 0, "what an arm means does not depend on its length"
