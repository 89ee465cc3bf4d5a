"""Which verdict each arm has, and at which look: what its interval says there, or why there is nothing to compare.

An arm keeps the verdict of the look at which it was decided. Nothing is judged between looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report import statistics
from harness.ablation.report.outcomes import Seeds, paired
from harness.ablation.report.statistics import MIN_SEEDS, Comparison
from harness.core.registry import find

BASELINE, UNSTABLE, NOT_COMPARED, UNDECIDED = "baseline", "unstable", "not compared", "undecided"


class Standing(NamedTuple):
    """An arm at the primary metric and NFE."""

    seeds: Seeds
    """All so far."""
    comparison: Comparison
    """With the baseline, over the seeds of the look that both have, at what the look may spend."""
    look: int
    """The last that it took part in, counted from 1; 0 before the first, where all pairs so far are compared."""


class Verdict(NamedTuple):
    """A word for a table, and why, where the numbers beside it do not say."""

    word: str
    reason: str = ""
    look: int = 0
    """The look at which it was given; 0 before the first."""


@dataclass(frozen=True)
class Settled:
    """Where the arms of a plan stand and what is said of them."""

    standings: dict[str, Standing]
    verdicts: dict[str, Verdict]

    @property
    def tested(self) -> dict[str, Comparison]:
        """{arm: its comparison} of those that a look has tested."""
        return {
            arm: standing.comparison
            for arm, standing in self.standings.items()
            if standing.look
            and self.verdicts[arm].word not in (BASELINE, NOT_COMPARED)
            and not math.isnan(standing.comparison.low)
        }

    def closed(self, plan: Plan) -> dict[str, int]:
        """{arm: the seeds at which it was decided}; the baseline's too once no arm is open."""
        seeds = {
            arm: plan.looks.seeds[found.look - 1]
            for arm, found in self.verdicts.items()
            if found.look and found.word != UNDECIDED
        }
        return seeds | ({plan.baseline: max(seeds.values())} if len(seeds) == len(plan.others) else {})


def worded(row: pd.Series) -> str:
    """The verdict of a row of a summary, with what belongs to it: that a difference is too small to matter."""
    small = row.verdict in ("better", "worse") and isinstance(row.reason, str)
    return f"{row.verdict}, {row.reason}" if small else str(row.verdict)


def settle(plan: Plan, cells: pd.DataFrame) -> Settled:
    """The verdicts at every look that the cells reach, the baseline's among them.

    A diverged seed is an outcome: what is left of an arm's seeds is no fair sample, so it is neither better nor a tie.
    """
    at_primary = cells[(cells.metric == plan.metric) & (cells.nfe == plan.nfe)]
    by_arm = {str(arm): own.set_index("seed") for arm, own in at_primary.groupby("arm")}
    standings = {arm: _standing(plan, by_arm, arm, plan.seeds, 0) for arm in plan.arms}
    given: dict[str, Verdict] = {}
    for look in range(1, plan.looks.within(len(plan.seeds)) + 1):
        first = plan.seeds[: plan.looks.seeds[look - 1]]
        base = Seeds.among(by_arm.get(plan.baseline), first)
        if base.unfinished:
            break
        for arm in [arm for arm in plan.others if arm not in given or given[arm].word == UNDECIDED]:
            then = _standing(plan, by_arm, arm, first, look)
            if then.seeds.unfinished:
                continue
            standings[arm] = then._replace(seeds=standings[arm].seeds)
            given[arm] = _verdict(plan, base, then)
    base = standings[plan.baseline].seeds
    for arm in plan.others:
        if arm not in given:
            given[arm] = _before_a_look(plan, base, standings[arm])
    return Settled(standings, {arm: given.get(arm, Verdict(BASELINE)) for arm in plan.arms})


def _standing(
    plan: Plan, by_arm: Mapping[str, pd.DataFrame], arm: str, seeds: Sequence[int], look: int
) -> Standing:  # fmt: skip
    """Of an arm over some of the seeds."""
    own = by_arm.get(arm)
    pairs = paired(own, by_arm.get(plan.baseline), seeds)
    level = plan.looks.level(max(look, 1), max(1, len(plan.tested)))
    number = [seed for seed in seeds if seed in plan.seeds_of(arm)]
    return Standing(Seeds.among(own, number), statistics.compare(*pairs, level), look)


def _before_a_look(plan: Plan, base: Seeds, standing: Standing) -> Verdict:
    """What can be said of an arm whose first look is not complete."""
    if why := _nothing_to_compare(plan, base, standing):
        return Verdict(NOT_COMPARED, why)
    if standing.seeds.diverged:
        return Verdict(UNSTABLE, standing.seeds.missing)
    wanted = plan.looks.seeds[0]
    return Verdict(UNDECIDED, f"{standing.comparison.n} of the {wanted} pairs of seeds of the first look have values")


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


def _verdict(plan: Plan, base: Seeds, standing: Standing) -> Verdict:
    """At a look that is complete."""
    if why := _nothing_to_compare(plan, base, standing):
        return Verdict(NOT_COMPARED, why, standing.look)
    own, comparison, look = standing
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    word = statistics.verdict(comparison, plan.smallest_difference, lower)
    small = statistics.is_small(comparison, plan.smallest_difference) and word in ("better", "worse")
    reasons = [own.missing] if own.missing else []
    if own.diverged and not (word == "worse" and base.measured == base.number):
        return Verdict(UNSTABLE, own.missing, look)
    if comparison.n < MIN_SEEDS:
        reasons = [f"{comparison.n} of {own.number} pairs of seeds have values, a verdict needs {MIN_SEEDS}"]
    elif small:
        reasons.append(f"by less than {100 * plan.smallest_difference:g} %")
    elif word == UNDECIDED and look == len(plan.looks.seeds):
        reasons.append(_excluded(comparison))
    return Verdict(word, "; ".join(reasons), look)


def _excluded(comparison: Comparison) -> str:
    """What the last look rules out of an arm that stays open."""
    return f"a fall of more than {-comparison.low:.0%} and a rise of more than {comparison.high:.0%} are excluded"
