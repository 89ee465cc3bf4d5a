"""The seconds of a step, measured of arms that are matched by them: once, under the load at which trials train."""

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
"""An arm's cost is the median of so many measurements beside the baseline's, as machines are disturbed."""


def time_steps(plan: Plan, placement: Placement, say: Say) -> None:
    """Measure the arms that were not timed beside the baseline yet, and keep it; `UserError` where one cannot train."""
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
    """What a step of an arm takes where all trials that run side by side are its."""
    if not (rate := measure(dataclasses.replace(plan, baseline=arm), placement)):
        raise UserError(
            f"arm '{arm}': its steps cannot be timed with {placement}, for want of memory perhaps. Take fewer workers."
        )
    return placement.workers * plan.arms[arm].train.batch_size / rate
