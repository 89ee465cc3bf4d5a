"""Measure the seconds per step of arms that are matched by seconds: once, under the same load as trials."""

from __future__ import annotations

import dataclasses
import statistics

from harness.ablation.design.matching import Timed, keep, untimed
from harness.ablation.design.plan import Plan
from harness.ablation.execute.placement import Placement, measure
from harness.core.errors import UserError
from harness.core.provenance import machine
from harness.core.signals import Say

ROUNDS = 3
"""Number of measurements, each with the baseline; an arm's cost is their median, because machines have other load."""


def time_steps(plan: Plan, placement: Placement, say: Say) -> None:
    """Measure the arms that were not timed against the baseline yet, and keep the times.

    `UserError` if an arm cannot train.
    """
    if not (arms := untimed(plan.arms, plan.baseline, plan.name)):
        return
    rounds = [{arm: _seconds(plan, arm, placement) for arm in (plan.baseline, *arms)} for _ in range(ROUNDS)]
    here = machine()
    where = f"{here['processor'] if here['accelerator'] == 'none' else here['accelerator']}, {placement}"
    measured = {}
    for arm in arms:
        costs = [seconds[arm] / seconds[plan.baseline] for seconds in rounds]
        own = statistics.median(seconds[arm] for seconds in rounds)
        measured[arm] = Timed(
            cost=statistics.median(costs), seconds=own, least=min(costs), most=max(costs), where=where
        )
        say(f"{arm}: a step takes {1000 * own:.3g} ms, {measured[arm]['cost']:.3g} times as long as {plan.baseline}'s")
    keep(plan.arms, plan.baseline, plan.name, measured)


def _seconds(plan: Plan, arm: str, placement: Placement) -> float:
    """Return the seconds of a step of an arm while all trials side by side are of this arm."""
    if not (rate := measure(dataclasses.replace(plan, baseline=arm), placement)):
        raise UserError(
            f"arm '{arm}': its steps cannot be timed with {placement}. If memory ran out, take fewer workers."
        )
    return placement.workers * plan.arms[arm].train.batch_size / rate
