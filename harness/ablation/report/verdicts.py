"""Which verdict each contrast of a plan has, and at which look: what its interval says, or why there is none.

A contrast is an arm against the baseline, or what `design.crossing` makes of arms. It keeps the verdict of the look at
which it was decided. Nothing is judged between looks.

Contrasts of a family ask the same at several settings. They are judged together first, each at what the whole family
may spend, and decided where all agree: the finding holds at every setting only if it holds at the worst, so nothing is
divided (intersection-union, Berger 1982, Technometrics 24, 295). Otherwise each is judged by itself, at its part. No
more is claimed so than by Hochberg's procedure (1988, Biometrika 75, 800), which keeps the family's share unless the
tests of its settings depend on each other negatively (Sarkar 1998, Annals of Statistics 26, 494).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from harness.ablation.design.crossing import Contrast
from harness.ablation.design.plan import Plan
from harness.ablation.report import statistics
from harness.ablation.report.outcomes import Seeds, combined, paired
from harness.ablation.report.statistics import MIN_SEEDS, Comparison
from harness.core.registry import find
from harness.evaluation.metric import label_of

BASELINE, UNSTABLE, NOT_COMPARED, UNDECIDED = "baseline", "unstable", "not compared", "undecided"
CLAIMS = ("better", "worse", "tie")
"""What a test can find."""


class Standing(NamedTuple):
    """A contrast at the primary metric and NFE."""

    seeds: Seeds
    """Of its arms, taken as one, so far."""
    comparison: Comparison
    """Over the seeds of the look that both sides have, at what the look may spend."""
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
    """Where the contrasts of a plan stand and what is said of them."""

    standings: dict[str, Standing]
    verdicts: dict[str, Verdict]
    """Of the contrasts, and `baseline` of the arms that others are set beside."""
    seeds: dict[str, Seeds]
    """{arm: what became of its seeds so far}, at the primary metric and NFE"""

    @property
    def tested(self) -> dict[str, Comparison]:
        """{contrast: its comparison} of those that a look has tested."""
        return {
            name: standing.comparison
            for name, standing in self.standings.items()
            if standing.look and self.verdicts[name].word != NOT_COMPARED and not math.isnan(standing.comparison.low)
        }

    def closed(self, plan: Plan) -> dict[str, int]:
        """{arm: the seeds at which it was decided}: at which the last of the contrasts that it takes part in was."""
        decided = {
            name: plan.looks.seeds[found.look - 1]
            for name, found in self.verdicts.items()
            if found.look and found.word != UNDECIDED
        }
        out = {}
        contrasts = plan.contrasts
        for arm in plan.arms:
            parts = [name for name, of in contrasts.items() if arm in (*of.arms, *of.against)]
            if decided.keys() >= {*parts}:
                out[arm] = max(decided[name] for name in parts or decided)
        return out


def worded(row: pd.Series) -> str:
    """The verdict of a row of a summary, with what belongs to it: that a difference is too small to matter."""
    small = row.verdict in ("better", "worse") and isinstance(row.reason, str)
    return f"{row.verdict}, {row.reason}" if small else str(row.verdict)


def settle(plan: Plan, cells: pd.DataFrame) -> Settled:
    """The verdicts at every look that the cells reach.

    A diverged seed is an outcome: what is left of an arm's seeds is no fair sample, so it is neither better nor a tie.
    """
    at_primary = cells[(cells.metric == plan.metric) & (cells.nfe == plan.nfe)]
    by_arm = {str(arm): own.set_index("seed") for arm, own in at_primary.groupby("arm")}
    sharers = plan.sharers
    compared = {
        name: _Compared(plan, name, of, combined(by_arm, of.arms), combined(by_arm, of.against), sharers[name])
        for name, of in plan.contrasts.items()
    }
    families = dict.fromkeys(one.contrast.family for one in compared.values())
    standings = {name: one.standing(0) for name, one in compared.items()}
    given: dict[str, Verdict] = {}
    for look in range(1, plan.looks.within(len(plan.seeds)) + 1):
        for family in families:
            members = [one for one in compared.values() if one.contrast.family == family]
            for name, then in _judged(members, given, look).items():
                standings[name] = then._replace(seeds=standings[name].seeds)
                given[name] = compared[name].verdict(then)
    for name, one in compared.items():
        if name not in given:
            given[name] = one.before_a_look(standings[name])
    seeds = {arm: Seeds.among(by_arm.get(arm), plan.seeds_of(arm)) for arm in plan.arms}
    bases = {arm: Verdict(BASELINE) for arm in plan.arms if arm not in plan.bases}
    order = dict.fromkeys((*plan.arms, *compared))
    return Settled(standings, {name: (bases | given)[name] for name in order if name in bases | given}, seeds)


def in_all(plan: Plan, settled: Settled) -> dict[str, Verdict]:
    """{family: whether its contrasts have one verdict}: `better in all`, `differs` where two do not, or `undecided`."""
    out = {}
    contrasts = plan.contrasts
    for family in dict.fromkeys(of.family for of in contrasts.values()):
        found = {name: settled.verdicts[name].word for name, of in contrasts.items() if of.family == family}
        words = {*found.values()}
        decided = words & {*CLAIMS, UNSTABLE}
        if len(words) == 1:
            out[family] = Verdict(words.pop() + (" in all" if decided else ""))
        else:
            told = "; ".join(f"{name}: {word}" for name, word in found.items())
            out[family] = Verdict("differs" if len(decided) > 1 else UNDECIDED, told)
    return out


@dataclass(frozen=True)
class _Compared:
    """A contrast of a plan with the cells of its two sides, by seed."""

    plan: Plan
    name: str
    contrast: Contrast
    own: pd.DataFrame | None
    base: pd.DataFrame | None
    sharers: tuple[int, int]
    """Of `Plan.sharers`."""

    def seeds(self, look: int) -> Sequence[int]:
        """Of a look; all so far for 0."""
        return self.plan.seeds[: self.plan.looks.seeds[look - 1] if look else None]

    def of_base(self, look: int) -> Seeds:
        """What became of the base's."""
        return Seeds.among(self.base, self.seeds(look))

    def standing(self, look: int, together: bool = False) -> Standing:
        """At a look, at the level of the contrast or of its family; of all seeds so far for 0."""
        seeds = self.seeds(look)
        level = self.plan.looks.level(max(look, 1), self.sharers[together])
        number = [seed for seed in seeds if all(seed in self.plan.seeds_of(arm) for arm in self.contrast.arms)]
        comparison = statistics.compare(*paired(self.own, self.base, seeds), level)
        return Standing(Seeds.among(self.own, number), comparison, look)

    def before_a_look(self, standing: Standing) -> Verdict:
        """What can be said where the first look is not complete."""
        if why := self._nothing_to_compare(standing):
            return Verdict(NOT_COMPARED, why)
        if standing.seeds.diverged:
            return Verdict(UNSTABLE, standing.seeds.missing)
        wanted = self.plan.looks.seeds[0]
        n = standing.comparison.n
        return Verdict(UNDECIDED, f"{n} of the {wanted} pairs of seeds of the first look have values")

    def _nothing_to_compare(self, standing: Standing) -> str:
        """Why no test is made, which more seeds would not change; empty where one is."""
        own = standing.seeds
        base = self.of_base(standing.look)
        at = f"NFE {self.plan.nfe}"
        if base.diverged or base.failed:
            return f"the baseline {self.contrast.base} lost seeds ({base.missing}), and the others are no fair sample"
        if not base.asked:
            return f"the baseline {self.contrast.base} is not measured at {at}"
        if own.diverged:
            return ""
        if not own.asked:
            return f"it is not measured at {at}"
        if own.failed:
            return f"{own.missing}, and the other seeds are no fair sample"
        if standing.comparison.n and math.isnan(standing.comparison.difference):
            return f"some values of {label_of(self.plan.metric)} are not positive, and ratios are what is compared"
        return ""

    def verdict(self, standing: Standing) -> Verdict:
        """At a look that is complete."""
        if why := self._nothing_to_compare(standing):
            return Verdict(NOT_COMPARED, why, standing.look)
        own, comparison, look = standing
        base = self.of_base(look)
        smallest = self.plan.smallest_difference
        lower = find("metric", self.plan.metric).lower_is_better  # type: ignore[attr-defined]
        word = statistics.verdict(comparison, smallest, lower)
        reasons = [own.missing] if own.missing else []
        if own.diverged and not (word == "worse" and base.measured == base.number):
            return Verdict(UNSTABLE, own.missing, look)
        if comparison.n < MIN_SEEDS:
            reasons = [f"{comparison.n} of {own.number} pairs of seeds have values, a verdict needs {MIN_SEEDS}"]
        elif statistics.is_small(comparison, smallest) and word in ("better", "worse"):
            reasons.append(f"by less than {100 * smallest:g} %")
        elif word == UNDECIDED and look == len(self.plan.looks.seeds):
            reasons.append(_excluded(comparison))
        return Verdict(word, "; ".join(reasons), look)


def _judged(family: Sequence[_Compared], given: Mapping[str, Verdict], look: int) -> dict[str, Standing]:
    """Where the open contrasts of a family stand at a look; those of which a trial has not ended are left out.

    All stand at the level of the family where every contrast of it, decided earlier or now, has one verdict.
    """
    still = [one for one in family if given.get(one.name, Verdict(UNDECIDED)).word == UNDECIDED]
    alone = {one.name: one.standing(look) for one in still if not one.of_base(look).unfinished}
    alone = {name: standing for name, standing in alone.items() if not standing.seeds.unfinished}
    if len(family) > 1 and len(alone) == len(still):
        together = {one.name: one.standing(look, together=True) for one in still}
        now = {one.name: one.verdict(together[one.name]) for one in still}
        words = {found.word for found in (*now.values(), *(given[one.name] for one in family if one not in still))}
        if len(words) == 1 and words <= {*CLAIMS}:
            return together
    return alone


def _excluded(comparison: Comparison) -> str:
    """What the last look rules out of an arm that stays open."""
    return f"a fall of more than {-comparison.low:.0%} and a rise of more than {comparison.high:.0%} are excluded"
