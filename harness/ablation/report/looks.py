"""The current look of a study: the differences that its arms can show there, and the trials of the next look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from harness.ablation.design.plan import Plan
from harness.ablation.report import outcomes, verdicts
from harness.ablation.report.spent import measured, remaining, total
from harness.ablation.report.verdicts import UNDECIDED, Settled
from harness.core.progress import duration


def decided(plan: Plan) -> Plan:
    """Return the plan with those arms closed that the runs on disk decide."""
    closed = verdicts.settle(plan, outcomes.collect(plan, only_primary=True)).closed(plan)
    now = plan.so_far(plan.seeds, closed)
    return now.so_far(plan.seeds[: max(closed.values())], closed) if now.is_decided else now


def as_it_is(plan: Plan) -> Plan:
    return plan


def through(plan: Plan, seeds: int, at: Callable[[Plan], Plan] = as_it_is) -> Iterator[Plan]:
    """Yield the plan at one look after another, up to a number of seeds, which may lie between two looks.

    `at` returns a plan as its runs are named: the first trial on an engine's nodes may change their names.

    Carry out each plan before you ask for the next. Complete looks are skipped, except the last. The iteration ends
    early when every arm is decided.
    """
    numbers = [n for n in plan.looks.seeds if n < seeds] + [seeds]
    for n in numbers:
        now = decided(at(plan.up_to(n)))
        if n == seeds or now.is_decided or now.unfinished():
            yield now
            if n < seeds and decided(at(now)).is_decided:
                return


def reached(plan: Plan) -> Plan:
    """Return the plan at its last complete look; at its first look where none is complete."""
    complete = decided(plan.up_to(plan.looks.seeds[0]))
    left = complete.unfinished()
    for n in plan.looks.seeds[1:]:
        if left or complete.is_decided:
            break
        now = decided(plan.up_to(n))
        left = now.unfinished()
        complete = complete if left else now
    return complete


def about(plan: Plan, settled: Settled) -> list[str]:
    """Return the sentence about the look, with the smallest differences that open arms can show there."""
    reached = plan.looks.within(len(plan.seeds))
    if not reached:
        return [f"No look yet: the first is at {plan.looks.seeds[0]} seeds."]
    where = f"Look {reached} of {len(plan.looks.seeds)} ({plan.looks.seeds[reached - 1]} seeds)"
    sharers = plan.sharers
    sizes = {
        name: plan.looks.provable(settled.standings[name].look, sharers[name][0], comparison.sd)
        for name, comparison in settled.tested.items()
        if settled.verdicts[name].word == UNDECIDED
    }
    if not sizes:
        too_few = any(verdict.word == UNDECIDED for verdict in settled.verdicts.values())  # a note names these arms
        return [] if too_few else [f"{where}: no {plan.kind} is open."]
    told = ", ".join(f"{size:.0%} ({name})" for name, size in sorted(sizes.items(), key=lambda item: item[1]))
    return [f"{where}: of the open {plan.kind}s, only differences above these can show here: {told}."]


def seconds_for(plan: Plan, workers: int) -> float:
    """Return the seconds that a plan's open trials take, `workers` at a time; NaN if no trial like them has ended."""
    if not plan.unfinished():
        return 0.0
    return total(remaining(plan, measured(plan)).values()).seconds / workers


def next_look(plan: Plan, workers: int) -> str:
    """Return the sentence about the next look of a finished plan: its trials, its time, and how to ask for it."""
    now = decided(plan)
    further = [n for n in plan.looks.seeds if n > len(plan.seeds)]
    if now.is_decided:
        return f"Every {plan.kind} is decided."
    if not further:
        return "This was the last look."
    following = now.so_far(range(further[0]), now.closed)
    seconds = seconds_for(following, workers)
    time = "" if math.isnan(seconds) else f", about {duration(seconds)}"
    trials = len(following.unfinished())
    return (
        f"The next look, at {further[0]} seeds, takes {trials} trials{time}. Run it with --seeds {further[0]}, or all "
        "looks with --until decided."
    )
