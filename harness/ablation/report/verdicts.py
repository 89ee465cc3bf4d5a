"""The verdict of each contrast of a plan and its look, or the reason why there is none.

A contrast is an arm against the baseline, or a combination of arms from `design.crossing`. It keeps the verdict of the
look at which it was decided. Nothing is judged between looks.

The contrasts of a family ask the same question at several settings. First they are judged together, each at the level
of the whole family, and decided if all agree: the finding holds at every setting only if it holds at the worst, so the
level is not divided (intersection-union, Berger 1982, Technometrics 24, 295). Otherwise each contrast is judged at its
own part of the level. This procedure never claims more than Hochberg's (1988, Biometrika 75, 800), which keeps the
family's level unless the tests of its settings are negatively dependent (Sarkar 1998, Annals of Statistics 26, 494).
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
"""The verdicts that a test can give."""


class Standing(NamedTuple):
    """The comparison of a contrast at the primary metric and NFE."""

    seeds: Seeds
    """Outcomes so far of the seeds of its arms, which are taken as one."""
    comparison: Comparison
    """Over the look's seeds that both sides have, at the level that the look may spend."""
    look: int
    """The last look that tested it, counted from 1; 0 before the first, where all pairs so far are compared."""


class Verdict(NamedTuple):
    """A verdict as a word, and its reason where the numbers beside it do not show it."""

    word: str
    reason: str = ""
    look: int = 0
    """The look that gave it; 0 before the first."""


@dataclass(frozen=True)
class Settled:
    """The comparisons and verdicts of a plan's contrasts."""

    standings: dict[str, Standing]
    verdicts: dict[str, Verdict]
    """Verdicts of the contrasts, and `baseline` for the arms that others are compared with."""
    seeds: dict[str, Seeds]
    """{arm: outcomes of its seeds so far}, at the primary metric and NFE"""

    @property
    def tested(self) -> dict[str, Comparison]:
        """{contrast: its comparison} of the contrasts that a look has tested."""
        return {
            name: standing.comparison
            for name, standing in self.standings.items()
            if standing.look and self.verdicts[name].word != NOT_COMPARED and not math.isnan(standing.comparison.low)
        }

    def closed(self, plan: Plan) -> dict[str, int]:
        """Return {arm: number of seeds at which it was decided}: that is when the last of its contrasts was decided."""
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
    """Return the verdict of a summary's row, with the remark that the difference is too small to matter."""
    small = row.verdict in ("better", "worse") and isinstance(row.reason, str)
    return f"{row.verdict}, {row.reason}" if small else str(row.verdict)


def settle(plan: Plan, cells: pd.DataFrame) -> Settled:
    """Return the verdicts after every look that the cells reach.

    A diverged seed is an outcome: the remaining seeds are a biased sample, so the arm is neither better nor a tie.
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
    """Return {family: verdict over its settings}: like `better in all`, `differs` if two disagree, or `undecided`."""
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
    """A contrast of a plan with the cells of its two sides, indexed by seed."""

    plan: Plan
    name: str
    contrast: Contrast
    own: pd.DataFrame | None
    base: pd.DataFrame | None
    sharers: tuple[int, int]
    """The contrast's entry in `Plan.sharers`."""

    def seeds(self, look: int) -> Sequence[int]:
        """Return the seeds of a look; 0 means all seeds so far."""
        return self.plan.seeds[: self.plan.looks.seeds[look - 1] if look else None]

    def of_base(self, look: int) -> Seeds:
        """Return the outcomes of the base's seeds at a look."""
        return Seeds.among(self.base, self.seeds(look))

    def standing(self, look: int, together: bool = False) -> Standing:
        """Return the comparison at a look, at the level of the contrast or of its family (`together`)."""
        seeds = self.seeds(look)
        level = self.plan.looks.level(max(look, 1), self.sharers[together])
        asked = set.intersection(*({*self.plan.seeds_of(arm)} for arm in self.contrast.arms))
        number = [seed for seed in seeds if seed in asked]
        comparison = statistics.compare(*paired(self.own, self.base, seeds), level)
        return Standing(Seeds.among(self.own, number), comparison, look)

    def before_a_look(self, standing: Standing) -> Verdict:
        """Return the verdict where the first look is not complete."""
        if why := self._nothing_to_compare(standing):
            return Verdict(NOT_COMPARED, why)
        if standing.seeds.diverged:
            return Verdict(UNSTABLE, standing.seeds.missing)
        wanted = self.plan.looks.seeds[0]
        n = standing.comparison.n
        return Verdict(UNDECIDED, f"{n} of the {wanted} pairs of seeds of the first look have values")

    def _nothing_to_compare(self, standing: Standing) -> str:
        """Return why no test is possible, even with more seeds; empty where one is."""
        own = standing.seeds
        base = self.of_base(standing.look)
        at = f"NFE {self.plan.nfe}"
        if base.diverged or base.failed:
            lost = f"the baseline {self.contrast.base} lost seeds ({base.missing})"
            return f"{lost}, and the remaining seeds are a biased sample"
        if not base.asked:
            return f"the baseline {self.contrast.base} is not measured at {at}"
        if own.diverged:
            return ""
        if not own.asked:
            return f"it is not measured at {at}"
        if own.failed:
            return f"{own.missing}, and the remaining seeds are a biased sample"
        if standing.comparison.n and math.isnan(standing.comparison.difference):
            return f"some values of {label_of(self.plan.metric)} are not positive, so they have no ratios to compare"
        return ""

    def verdict(self, standing: Standing) -> Verdict:
        """Return the verdict at a complete look."""
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
    """Return the comparisons of a family's open contrasts at a look; a contrast with an unfinished trial is left out.

    They are at the level of the family if every contrast of it, decided earlier or now, has the same verdict.
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
    """Return the differences that the last look excludes for an arm that stays undecided."""
    return f"a fall of more than {-comparison.low:.0%} and a rise of more than {comparison.high:.0%} are excluded"
