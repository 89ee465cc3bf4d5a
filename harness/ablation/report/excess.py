"""How much of the primary metric lies above its floor: a second comparison where two perfect models would not score 0.

Verdicts stay on the metric itself. A value is floor + excess, so near the floor a ratio of values is near 1 whatever
the excesses do. Of a root, like the energy distance, what adds up are the squares: near the floor excesses go as the
squares of the true distances, far from it as these.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report.outcomes import MEASURED
from harness.ablation.report.statistics import Comparison, compare
from harness.evaluation.floor import Floor

NEARLY_ALL = 0.5
"""Beside a floor above this share of the baseline's values, most ratios are near 1."""
KNOWN = 2
"""An excess of less than so many standard errors of the floor is not told from none."""
KINDS = {
    "fresh": "real samples that the reference does not hold",
    "resampled": "training samples drawn with replacement, since too few others are there: a perfect memory's, which "
    "lies below that of new samples",
}
"""{kind of floor: what was scored}"""


@dataclass(frozen=True)
class Excess:
    """Of an arm over the floor, which is treated as known."""

    seeds: int
    mean: float
    sd: float
    """Over the arm's seeds; NaN for one."""
    against: Comparison | None = None
    """Of the excesses with the baseline's, pair by pair; None for the baseline, and where there is none."""
    ends: tuple[float, float] | None = None
    """The difference with the floor one standard error lower, and higher; None where an excess is not positive then."""
    reason: str = ""
    """Why it is not compared, where it is not."""


def excesses(plan: Plan, cells: pd.DataFrame, floor: Floor, compared: Container[str]) -> dict[str, Excess]:
    """{arm: its excess} at the primary metric and NFE; those `compared` are set against the baseline."""
    primary = cells[(cells.metric == plan.metric) & (cells.nfe == plan.nfe) & (cells.state == MEASURED)]
    table = primary.pivot(index="seed", columns="arm", values="value")
    out = {}
    for arm in plan.arms:
        if arm not in table:
            continue
        own = table[arm].dropna() - floor.value
        beside: dict[str, Any] = {}
        if arm != plan.baseline and arm in compared and plan.baseline in table:
            pairs = table[[arm, plan.baseline]].dropna()
            beside = _against(pairs[arm].to_numpy(), pairs[plan.baseline].to_numpy(), floor)
        out[arm] = Excess(len(own), float(own.mean()), float(own.std()), **beside)
    return out


def _against(arm: np.ndarray, baseline: np.ndarray, floor: Floor) -> dict[str, Any]:
    """How the excesses of pairs compare, or why they do not."""
    if below := int((np.minimum(arm, baseline) <= floor.value).sum()):
        pairs = f"{below} of {len(arm)} pairs"
        return {"reason": f"{pairs} have a value at or below the floor, and excesses without a ratio"}
    lower, higher = (_difference(arm, baseline, floor.value + sign * floor.error) for sign in (-1, 1))
    ends = None if math.isnan(lower) or math.isnan(higher) else (lower, higher)
    return {"against": compare((arm - floor.value).tolist(), (baseline - floor.value).tolist()), "ends": ends}


def _difference(arm: np.ndarray, baseline: np.ndarray, floor: float) -> float:
    """Of the excesses over another floor; NaN where one is not positive."""
    return compare((arm - floor).tolist(), (baseline - floor).tolist()).difference


def plain(excess: Excess) -> dict[str, Any]:
    """As JSON holds it: null for what is not known."""
    own = {name: value for name, value in asdict(excess).items() if name != "against"}
    own["sd"] = None if math.isnan(excess.sd) else excess.sd
    found = excess.against
    known = {} if found is None else {name: getattr(found, name) for name in ("n", "difference", "low", "high", "sd")}
    return own | {"against": {name: None if math.isnan(value) else value for name, value in known.items()} or None}


def remarks(plan: Plan, floor: Floor, found: Mapping[str, Excess]) -> list[str]:
    """The sentences about the floor and what lies above it."""
    metric = plan.metric.upper()
    sets = f"{len(floor.values)} set{'s' if len(floor.values) > 1 else ''} of {floor.samples:,}"
    lines = [
        f"Floor of {metric} at NFE {plan.nfe}: {floor.value:.4g} ± {floor.error:.2g} (standard error), the mean of "
        f"{sets} {KINDS[floor.kind]}. Excesses treat it as known; their intervals are 95 %, unadjusted, and carry no "
        "verdict."
    ]
    if base := found.get(plan.baseline):
        lines += _about_baseline(plan, floor, base)
    lines += [f"{arm} has no comparison of excesses: {own.reason}." for arm, own in found.items() if own.reason]
    return lines


def _about_baseline(plan: Plan, floor: Floor, base: Excess) -> list[str]:
    """What a floor means for ratios to the baseline, where it matters."""
    share = floor.value / (floor.value + base.mean)
    if share <= NEARLY_ALL:
        return []
    if base.mean < KNOWN * floor.error:
        return [
            f"The excess of {plan.baseline}, {base.mean:.2g}, is not told from none beside that error: here the metric "
            "does not see what the arms still lack, and a tie is nearly automatic. Judge by more samples "
            "(evaluate.more_samples), at fewer NFE, or by another metric."
        ]
    who = "no arm can" if 1 - share < plan.smallest_difference else "an arm can hardly"
    return [
        f"{share:.0%} of the value of {plan.baseline} is floor: without any excess it would score {share - 1:+.1%}. So "
        f"{who} be {100 * plan.smallest_difference:g}% better, and a tie is nearly automatic. Read the excesses."
    ]
