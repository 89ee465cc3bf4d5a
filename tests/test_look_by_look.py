"""A study look by look: the trials of each look, the messages, and the end of a command."""

from __future__ import annotations

import dataclasses
import io
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from three_arms import ARMS, STUDY, measure, planned

from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import stored
from harness.ablation.execute.placement import Placement
from harness.ablation.report.looks import about, decided, next_look, reached, through
from harness.ablation.report.outcomes import collect
from harness.ablation.report.verdicts import settle
from harness.cli import ablate
from harness.runs.config import RunConfig


def test_a_study_goes_through_its_looks_without_the_arms_that_are_decided(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    trials = []
    for now in through(plan, 8):
        trials.append((len(now.seeds), now.unfinished()))
        measure(now, score)
    seeds = {"first": range(3), "second": range(3, 5), "third": range(5, 8)}
    assert trials == [
        (3, [(arm, seed) for seed in seeds["first"] for arm in "abc"]),
        (5, [(arm, seed) for seed in seeds["second"] for arm in "ac"]),
        (8, [(arm, seed) for seed in seeds["third"] for arm in "ac"]),
    ]
    assert len(reached(plan).seeds) == 8
    assert decided(plan.up_to(8)).closed["b"] == 3


def test_a_look_reports_what_it_can_show_and_the_cost_of_the_next(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    assert about(plan.up_to(2), settle(plan, collect(plan.up_to(2)))) == ["No look yet: the first is at 3 seeds."]
    measure(plan, score)
    now = decided(plan)
    settled = settle(now, collect(now))
    size = plan.looks.provable(1, 2, settled.standings["c"].comparison.sd)
    assert about(now, settled) == [
        f"Look 1 of 3 (3 seeds): of the open arms, only differences above these can show here: {size:.0%} (c)."
    ]
    assert next_look(now, 2).startswith("The next look, at 5 seeds, takes 4 trials")
    measure(decided(plan.up_to(5)), score)
    measure(last := decided(plan.up_to(8)), score)
    assert next_look(last, 2) == "This was the last look."
    measure(alone := planned(tiny, dataclasses.replace(STUDY, arms={"a": {}, "b": ARMS["b"]}, name="other")), score)
    assert next_look(alone, 2) == "Every arm is decided."
    assert len(reached(alone).seeds) == 3


@pytest.fixture
def carried_out(tiny: RunConfig, score: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[int], str]]:
    """`harness ablate` with these options, with invented values instead of training; returns the seeds of each look,
    and the output.
    """
    monkeypatch.setattr(ablate, "prepare", lambda *_: None)
    monkeypatch.setattr(ablate, "training_command", lambda options: "harness ablate toy")
    looks = list[int]()

    def carry_out(plan: Plan, *_: Any, **__: Any) -> bool:
        looks.append(len(plan.seeds))
        measure(plan, score)
        return True

    monkeypatch.setattr(ablate, "carry_out", carry_out)

    def command(
        seeds: int | None = None, until: str | None = None, max_hours: float | None = None
    ) -> tuple[list[int], str]:
        looks.clear()
        options = Namespace(seeds=seeds, until=until, max_hours=max_hours)
        console = Console(file=(log := io.StringIO()), width=200)
        plan = planned(tiny, seeds=seeds)
        ablate.compare(options, plan, Placement(2, 1), console, ablate.Hours(max_hours))
        return list(looks), log.getvalue()

    return command


def test_a_command_runs_the_first_look_and_another_goes_on(tiny: RunConfig, carried_out: Any) -> None:
    looks, said = carried_out()
    assert looks == [3]
    assert "The next look, at 5 seeds, takes 4 trials" in said
    assert [found["ended"] for found in stored(planned(tiny))] == [0]
    assert carried_out()[0] == [3], "the same command reports the look again"
    assert carried_out(seeds=5)[0] == [5]
    assert carried_out()[0] == [5], "and the last that is complete"
    assert carried_out(seeds=7)[0] == [7]
    looks, said = carried_out(until="decided")
    assert looks == [8]
    assert said.rstrip().endswith("This was the last look.")
    assert len(stored(planned(tiny))) == 1, "the design is one"


def test_fewer_seeds_than_are_trained_take_nothing_away(carried_out: Any) -> None:
    assert carried_out(seeds=5)[0] == [3, 5]
    looks, said = carried_out(seeds=3)
    assert looks == [5]
    assert "5 seeds are trained already, so the report has more than --seeds 3." in said


def test_until_decided_goes_through_all_looks(carried_out: Any) -> None:
    assert carried_out(until="decided")[0] == [3, 5, 8]


@pytest.mark.parametrize("arm", ["a", "b", "c"])
def test_a_removed_run_is_trained_again_and_the_later_looks_stay(arm: str, tiny: RunConfig, carried_out: Any) -> None:
    """Otherwise the table of the first look would replace that of the last one. b is decided at the first look."""
    carried_out(until="decided")
    plan = planned(tiny)
    plan.run(arm, 0).evaluation_file(plan.protocol(arm)).unlink()
    looks, said = carried_out()
    assert looks == [3, 8]
    assert said.rstrip().endswith("This was the last look.")
    assert carried_out(seeds=3)[0] == [8]


def test_too_few_hours_start_no_further_look(carried_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "seconds_for", lambda plan, workers: 7200.0 if len(plan.seeds) > 3 else float("nan"))
    looks, said = carried_out(max_hours=1.9)
    assert looks == [3]
    assert "5 seeds would take about 2.0 h, longer than --max-hours leaves." in said
    assert carried_out(max_hours=2.1)[0] == [5, 8]


def test_hours_stop_the_current_work() -> None:
    assert not ablate.Hours(None)()
    assert not ablate.Hours(1)()
    assert ablate.Hours(1e-9)()
