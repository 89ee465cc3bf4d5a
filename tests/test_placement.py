"""How trials share a machine: the tried arrangements, the chosen one, and a single measurement."""

import dataclasses
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_study
from harness.ablation.execute import placement as module
from harness.ablation.execute.placement import Placement, choose, given, measure, placements, rate_of, remembered
from harness.cli import ablate
from harness.cli.options import HERE
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.signals import Say
from harness.runs.config import RunConfig


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    return Plan.of(load_study("weighting"), "digits", tiny, {}, 1, ())


@pytest.mark.parametrize(
    ("cores", "gpus", "ways"),
    [
        (1, 0, [(1, 1)]),
        (2, 0, [(2, 1), (1, 2)]),
        (6, 0, [(6, 1), (3, 2), (1, 4)]),
        (16, 0, [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]),
        (16, 1, [(1, 1), (2, 1), (4, 1), (8, 1)]),
        (16, 2, [(2, 1), (4, 1), (8, 1), (16, 1)]),
    ],
)
def test_the_arrangements_fill_the_machine(cores: int, gpus: int, ways: list[tuple[int, int]]) -> None:
    assert [(way.workers, way.threads) for way in placements(cores, gpus)] == ways


@pytest.mark.parametrize(("rates", "taken"), [((100, 104), 1), ((100, 105), 1), ((100, 106), 2), ((100, 0), 1)])
def test_more_threads_must_be_worth_it_and_are_measured_once(
    plan: Plan, rates: tuple[float, float], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ablation.execute.placement.usable_cores", lambda: 2)
    monkeypatch.setattr(module, "measure", lambda plan, way: rates[way.threads - 1])
    assert remembered(plan) == 1
    assert rate_of(plan, Placement(2, 1)) is None
    said = list[str]()
    assert choose(plan, said.append).threads == taken == remembered(plan)
    assert [line.split(":")[0] for line in said[1:]] == ["2 at a time on 1 thread", "1 at a time on 2 threads"]
    assert said[0].startswith("measuring how many trials")
    assert [rate_of(plan, way) for way in placements(2, 0)] == [*rates]
    monkeypatch.setattr(module, "measure", lambda plan, way: pytest.fail("measured again"))
    assert choose(plan, said.append).threads == taken
    more = dataclasses.replace(plan.up_to(20), arms={**plan.arms, "new": plan.arms["data_end"]})
    assert choose(more, said.append).threads == taken == remembered(more), "more seeds and arms go on on these threads"
    other = Plan.of(
        load_study("weighting"), "digits", override(plan.arms["uniform"], {"train.batch_size": 16}), {}, 1, ()
    )
    assert remembered(other) == 1, "another training is measured for itself"


def test_a_study_trains_on_the_fastest_number_of_threads_by_default(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(plan: Plan, say: Say) -> Placement:
        say("1 worker on 2 threads")
        return Placement(1, 2)

    monkeypatch.setattr(ablate, "choose", chosen)
    console = Console(file=(log := io.StringIO()))
    options: dict[str, Any] = {"workers": None, "trials_per_gpu": None, "changes": [], **HERE}
    assert ablate.placed(Namespace(**options), plan, console) == (plan.threaded(2), Placement(1, 2))
    assert log.getvalue() == "- 1 worker on 2 threads\n"
    for told, workers in (({"workers": 3}, 3), ({"changes": ["train.threads=1"]}, None)):
        assert ablate.placed(Namespace(**{**options, **told}), plan, console) == (plan, given(plan, workers))


def test_threads_are_part_of_the_plan(plan: Plan) -> None:
    assert {config.train.threads for config in plan.threaded(2).arms.values()} == {2}
    assert plan.threaded(2).digest != plan.digest == plan.threaded(1).digest


def test_without_a_measurement_trials_take_as_many_cores_as_their_threads(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.ablation.execute.placement.usable_cores", lambda: 6)
    number = len(plan.trials())
    for threads, workers in ((1, min(6, number)), (2, 3), (8, 1)):
        assert given(plan.threaded(threads)) == Placement(workers, threads)
    assert given(plan, workers=9) == Placement(9, 1)
    monkeypatch.setattr("harness.ablation.execute.placement.usable_cores", lambda: 1000)
    assert given(plan) == Placement(number, 1), "no more than there are trials"
    with pytest.raises(UserError, match=r"^--trials-per-gpu: the study trains on the CPU"):
        given(plan, trials_per_gpu=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    on_gpus = plan.on("cuda")
    assert given(on_gpus, trials_per_gpu=2) == Placement(6, 1, 3)


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [Placement(4, 1, 2).environment(i)["CUDA_VISIBLE_DEVICES"] for i in range(4)] == ["3", "5", "3", "5"]
    assert Placement(4, 1).environment(1)["CUDA_VISIBLE_DEVICES"] == "3,5"


@pytest.mark.slow
def test_real_trials_are_measured_side_by_side(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    assert measure(plan.threaded(1), Placement(2, 1)) > 1
    broken = dataclasses.replace(plan, plugins=(str(Path("absent.py").absolute()),))
    assert measure(broken, Placement(1, 1)) == 0


def test_a_rate_that_was_not_measured_is_not_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one core there is only one arrangement."""
    monkeypatch.setattr("harness.ablation.execute.placement.usable_cores", lambda: 1)
    assert choose(plan, lambda text: None) == Placement(1, 1)
    assert rate_of(plan, Placement(1, 1)) is None


@pytest.mark.parametrize(("took", "steps"), [(0.1, module.SETTLING_STEPS), (1.5, 5), (30.0, 1)])
def test_slow_steps_settle_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: float, steps: int) -> None:
    """Steps before the measured ones: as many as settle, or one that takes more than two seconds."""
    now = 0.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    waited = list[int]()
    monkeypatch.setattr(module, "wait_for_all", lambda folder, number: waited.append(round(now / took)))
    clock = module._Clock(tmp_path, 1)
    for _ in range(100):  # the first call comes before the first step
        if clock():
            break
        now += took
    assert waited == [steps]
    assert clock.rate == pytest.approx(1 / took)


def test_a_training_that_ends_before_its_steps_are_timed_has_no_rate(tmp_path: Path) -> None:
    """The arrangements of such trainings are all alike, so the preferred one is taken."""
    clock = module._Clock(tmp_path, 1)
    for _ in range(module.SETTLING_STEPS):
        assert not clock()
        assert clock.rate == 0
