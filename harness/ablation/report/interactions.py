"""Whether the effect of one axis depends on the level of another, and how much of the variance each term explains.

The model of log values has an effect of each combination of levels and of each seed: a randomised block design, whose
blocks are the seeds (Montgomery, Design and Analysis of Experiments, chapters 4 and 5). Interactions carry no verdict:
their intervals are 95 %, unadjusted.

An interval is a paired t over seeds, as for main effects; the variances of combinations may differ. An F test assumes
that they are equal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.ablation.design.crossing import Crossing
from harness.ablation.design.plan import Plan
from harness.ablation.report.outcomes import DIVERGED, FAILED
from harness.ablation.report.statistics import Comparison, compare
from harness.core.errors import listed

Pair = tuple[str, ...]
"""Two axes."""


class Term(NamedTuple):
    """A source of variance."""

    name: str
    df: int
    share: float
    """Of the sum of squares of the log values, 0 to 1."""
    f: float = math.nan
    p: float = math.nan

    @property
    def is_effect(self) -> bool:
        """Whether the term is tested."""
        return not math.isnan(self.f)


@dataclass(frozen=True)
class Interactions:
    """The interactions of a study with axes, at its primary metric and NFE."""

    logs: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Log values [seeds, arms] of the seeds at which every combination has one."""
    groups: list[list[Pair]] = field(default_factory=list)
    """The interactions that have an estimate; the interactions of a group share one."""
    terms: list[Term] = field(default_factory=list)
    pairs: dict[str, Comparison] = field(default_factory=dict)
    """{`level x level`: the effect of one level at the other level, relative to its effect at the first level of that
    axis}, as a ratio of ratios minus 1"""
    notes: list[str] = field(default_factory=list)
    """Sentences about interactions without an estimate, and about assumptions."""

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        pairs = {name: {"difference": of.difference, "low": of.low, "high": of.high} for name, of in self.pairs.items()}
        terms = [{**term._asdict(), **({} if term.is_effect else {"f": None, "p": None})} for term in self.terms]
        return {"seeds": self.logs.index.tolist(), "terms": terms, "pairs": pairs}


def interactions(plan: Plan, cells: pd.DataFrame) -> Interactions | None:
    """Return the interactions in a plan's cells; None for a plan without main effects."""
    if plan.crossing is None or plan.crossing.swept:
        return None
    own = cells[(cells.metric == plan.metric) & (cells.nfe == plan.nfe)]
    if lost := dict.fromkeys(own[own.state.isin((DIVERGED, FAILED))].arm):
        lack = f"{listed(lost)} lost seeds, and the remaining seeds are a biased sample"
        return Interactions(notes=[f"No interaction is estimated: {lack}."])
    values = own.pivot(index="seed", columns="arm", values="value").reindex(columns=list(plan.arms)).dropna()
    if len(values) < 2 or not (values > 0).all(axis=None):
        lack = "it takes two seeds at which every combination has a positive value"
        return Interactions(notes=[f"No interaction is estimated: {lack}."])
    logs = values.map(math.log)
    few = f"Interactions rest on the {len(logs)} seeds at which every combination has a value."
    notes = [few] * (len(logs) < len(plan.seeds))
    groups, aliased = _estimable(plan.crossing)
    if aliased:
        notes.append(f"Aliased, so not estimated: {', '.join(' × '.join(axes) for axes in aliased)}.")
    pairs = _pairs(plan.crossing, [group[0] for group in groups], logs)
    if plan.crossing.left_out:
        notes.append("Without the combinations that are left out, the variance has no single split.")
        return Interactions(logs, groups, [], pairs, notes)
    terms = _terms(logs, _effects(plan.crossing, groups))
    if terms:
        notes.append(
            "F tests assume the same variance for all combinations; the intervals of interactions do not. They are not "
            "adjusted for looks: p can be small where the verdict is undecided."
        )
    return Interactions(logs, groups, terms, pairs, [*notes, *_seen(pairs)])


def _seen(pairs: Mapping[str, Comparison]) -> list[str]:
    """Return the sentence that says which interactions show; none where no interval exists."""
    known = {name: of for name, of in pairs.items() if not math.isnan(of.low)}
    if not known:
        return []
    shown = [name for name, of in known.items() if of.low > 0 or of.high < 0]
    if shown:
        return [f"The 95 % interval leaves out zero for the interaction {'; '.join(shown)}."]
    return ["No interaction shows: the 95 % interval of each includes zero."]


def _estimable(crossing: Crossing) -> tuple[list[list[Pair]], list[Pair]]:
    """Return the groups of interactions that have an estimate, and the interactions that have none.

    With two levels, the interactions of a group share one estimate, of their sum; with more levels, they share parts.
    """
    every: list[Pair] = list(itertools.combinations(crossing.levels, 2))
    two_levels = all(len(levels) == 2 for levels in crossing.levels.values())
    known: dict[Pair, list[Pair]] = {pair: [pair] for pair in every}
    lost = set[Pair]()
    for group in crossing.aliases:
        pairs: list[Pair] = [effect for effect in group if len(effect) == 2]
        if two_levels and len(pairs) == len(group):
            known |= dict.fromkeys(pairs, pairs)
        else:
            lost |= {*pairs}
    groups = [group for pair, group in known.items() if pair not in lost and pair == group[0]]
    return groups, [pair for pair in every if pair in lost]


def _pairs(crossing: Crossing, axes: Sequence[Pair], logs: pd.DataFrame) -> dict[str, Comparison]:
    """Return the ratio of ratios of every pair of levels whose four corners all have arms."""
    found = {}
    for one, other in axes:
        for a, b in itertools.product(crossing.levels[one][1:], crossing.levels[other][1:]):
            a0, b0 = crossing.levels[one][0], crossing.levels[other][0]
            corners = crossing.corners([one, other], (a, b), (a0, b0), (a, b0), (a0, b))
            if corners[0]:
                means = [logs[list(arms)].mean(axis=1) for arms in corners]
                up, down = np.exp(means[0] + means[1]), np.exp(means[2] + means[3])
                found[f"{one} {a} × {other} {b}"] = compare(up.tolist(), down.tolist())
    return found


def _effects(crossing: Crossing, groups: Sequence[Sequence[Pair]]) -> dict[str, np.ndarray]:
    """Return {effect: its contrasts of the arms [arms, df]}, for each axis and each group of interactions."""
    effects = {axis: _coded(crossing, axis) for axis in crossing.levels}
    codes = dict(effects)
    for group in groups:
        one, other = (codes[axis] for axis in group[0])
        product = one[:, :, None] * other[:, None, :]
        effects[" + ".join(" × ".join(pair) for pair in group)] = product.reshape(len(one), -1)
    return effects


def _terms(logs: pd.DataFrame, effects: Mapping[str, np.ndarray]) -> list[Term]:
    """Return the analysis of variance of log values [seeds, arms], by statsmodels: effects, seeds and residual.

    The contrasts of different effects are orthogonal, because the arms are balanced. Empty if the residual is 0.
    """
    from statsmodels.regression.linear_model import OLS

    seeds, arms = logs.shape
    values = logs.to_numpy().ravel()
    of_arm = np.tile(np.eye(arms), (seeds, 1))
    of_seed = np.repeat(_sums_to_zero(seeds), arms, axis=0)
    fitted = OLS(values, np.hstack([of_arm, of_seed])).fit()
    total = float(((values - values.mean()) ** 2).sum())
    if fitted.ssr <= 1e-12 * total:
        return []
    terms = []
    for name, code in effects.items():
        df = code.shape[1]
        test = fitted.f_test(np.hstack([code.T, np.zeros((df, seeds - 1))]))
        f = float(test.fvalue)
        terms.append(Term(name, df, f * df * fitted.mse_resid / total, f, float(test.pvalue)))
    of_arms = seeds * float(((logs.mean() - values.mean()) ** 2).sum()) / total
    if others := arms - 1 - sum(term.df for term in terms):
        terms.append(Term("other differences of the combinations", others, of_arms - sum(term.share for term in terms)))
    of_seeds = arms * float(((logs.mean(axis=1) - values.mean()) ** 2).sum()) / total
    terms.append(Term("seeds", seeds - 1, of_seeds))
    return [*terms, Term("residual", int(fitted.df_resid), float(fitted.ssr) / total)]


def _coded(crossing: Crossing, axis: str) -> np.ndarray:
    """Return an axis's contrasts of the arms [arms, levels - 1], which sum to zero over the levels."""
    levels = crossing.levels[axis]
    place = list(crossing.levels).index(axis)
    return _sums_to_zero(len(levels))[[levels.index(own[place]) for own in crossing.arms.values()]]


def _sums_to_zero(levels: int) -> np.ndarray:
    """Return contrasts [levels, levels - 1]: the last level is minus the sum of the others."""
    return np.vstack([np.eye(levels - 1), -np.ones(levels - 1)])
