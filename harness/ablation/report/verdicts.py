"""Which verdict each arm has: what the paired test says, or why there is nothing to compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from harness.ablation.design.plan import Plan
from harness.ablation.report import statistics
from harness.ablation.report.outcomes import Seeds
from harness.ablation.report.statistics import MIN_SEEDS, Comparison
from harness.core.registry import find

BASELINE, UNSTABLE, NOT_COMPARED = "baseline", "unstable", "not compared"


class Standing(NamedTuple):
    """An arm at the primary metric and NFE."""

    seeds: Seeds
    comparison: Comparison
    """With the baseline, over the seeds that both have."""


class Verdict(NamedTuple):
    """A word for a table, and why, where the numbers beside it do not say."""

    word: str
    reason: str = ""
    p_value: float = math.nan
    """Holm-adjusted; NaN where nothing was tested."""


def settle(plan: Plan, standings: Mapping[str, Standing]) -> dict[str, Verdict]:
    """{arm: its verdict}, the baseline's among them.

    A diverged seed is an outcome: what is left of an arm's seeds is no fair sample, so it is neither better nor a tie.
    """
    base = standings[plan.baseline].seeds
    others = {arm: s for arm, s in standings.items() if arm != plan.baseline}
    found = {
        arm: Verdict(NOT_COMPARED, why) for arm, s in others.items() if (why := _nothing_to_compare(plan, base, s))
    }
    p_values = {
        arm: s.comparison.p_value
        for arm, s in others.items()
        if arm not in found and not math.isnan(s.comparison.p_value)
    }
    adjusted = dict(zip(p_values, statistics.holm(list(p_values.values())), strict=True))
    for arm, standing in others.items():
        if arm not in found:
            found[arm] = _verdict(plan, base, standing, adjusted.get(arm, math.nan))
    return {arm: found.get(arm, Verdict(BASELINE)) for arm in standings}


def _nothing_to_compare(plan: Plan, base: Seeds, standing: Standing) -> str:
    """Why no test is made, which more seeds would not change; empty where one is."""
    own = standing.seeds
    if base.diverged or base.failed:
        return f"the baseline {plan.baseline} lost seeds ({base.missing}), and the others are no fair sample"
    if not base.asked:
        return f"the baseline {plan.baseline} is not measured at NFE {plan.nfe}"
    if own.diverged:
        return ""
    if not own.asked:
        return f"it is not measured at NFE {plan.nfe}"
    if own.failed:
        return f"{own.missing}, and the other seeds are no fair sample"
    if standing.comparison.n and math.isnan(standing.comparison.difference):
        return f"some values of {plan.metric} are not positive, and ratios are what is compared"
    return ""


def _verdict(plan: Plan, base: Seeds, standing: Standing, p_value: float) -> Verdict:
    own, comparison = standing
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    enough = comparison.n >= MIN_SEEDS
    word = statistics.verdict(comparison, p_value, plan.smallest_difference, lower) if enough else "undecided"
    if own.diverged:
        whole = base.measured == base.number
        return Verdict(word if word == "worse" and whole else UNSTABLE, own.missing, p_value)
    if not enough:
        reason = (
            f"{comparison.n} of {own.number} pairs of seeds have values, a verdict needs {MIN_SEEDS}: more seeds help"
        )
        return Verdict(word, reason, p_value)
    return Verdict(word, own.missing, p_value)
