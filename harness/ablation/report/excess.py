"""How much of the primary metric lies above its floor: a second comparison where two perfect models would not score 0.

Verdicts stay on the metric itself. Near the floor a ratio of values is near 1 whatever the excesses do. With the
metric's power p (`SampleMetric.floor_power`), the excess over a floor is (value^p - floor^p)^(1/p).
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
from harness.evaluation.metric import label_of

NEARLY_ALL = 0.5
"""A floor above this share of the baseline's values matters; ties come by themselves where it takes such a share off
the excess to score the smallest difference less."""
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

    value: float
    """Of the metric: the mean over seeds in the floor's power."""
    excess: float
    """Of this value; below 0 where it lies under the floor."""
    against: Comparison | None = None
    """Of the excesses with the baseline's, pair by pair; None for the baseline, and where there is none."""
    ends: tuple[float, float] | None = None
    """The difference with the floor one standard error lower, and higher; None where an excess is not positive then."""
    reason: str = ""
    """Why it is not compared, where it is not."""


def excesses(plan: Plan, cells: pd.DataFrame, floor: Floor, compared: Container[str]) -> dict[str, Excess]:
    """{arm: its excess} at the primary metric and NFE; those `compared` are set beside what their values are."""
    primary = cells[(cells.metric == plan.metric) & (cells.nfe == plan.nfe) & (cells.state == MEASURED)]
    table = primary.pivot(index="seed", columns="arm", values="value")
    out = {}
    for arm in plan.arms:
        if arm not in table:
            continue
        mean = float((table[arm].dropna() ** floor.power).mean()) ** (1 / floor.power)
        beside: dict[str, Any] = {}
        base = plan.bases.get(arm)
        if base in table and arm in compared:
            pairs = table[[arm, base]].dropna()
            beside = _against(pairs[arm].to_numpy(), pairs[base].to_numpy(), floor)
        out[arm] = Excess(mean, float(over(np.array(mean), floor.value, floor.power)), **beside)
    return out


def over(values: np.ndarray, floor: float, power: int) -> np.ndarray:
    """The excess of values over a floor, below 0 for those under it."""
    left = values**power - floor**power
    return np.sign(left) * np.abs(left) ** (1 / power)


def _against(arm: np.ndarray, baseline: np.ndarray, floor: Floor) -> dict[str, Any]:
    """How the excesses of pairs compare, or why they do not."""
    if below := int((np.minimum(arm, baseline) <= floor.value).sum()):
        pairs = f"{below} of {len(arm)} pairs"
        return {"reason": f"{pairs} have a value at or below the floor, and excesses without a ratio"}
    lower, higher = (_compared(arm, baseline, floor.moved(errors), floor.power).difference for errors in (-1, 1))
    ends = None if math.isnan(lower) or math.isnan(higher) else (lower, higher)
    return {"against": _compared(arm, baseline, floor.value, floor.power), "ends": ends}


def _compared(arm: np.ndarray, baseline: np.ndarray, floor: float, power: int) -> Comparison:
    """The excesses of both over a floor; without numbers where one is not positive."""
    return compare(over(arm, floor, power).tolist(), over(baseline, floor, power).tolist())


def plain(excess: Excess) -> dict[str, Any]:
    """As JSON holds it: null for what is not known."""
    own = {name: value for name, value in asdict(excess).items() if name != "against"}
    found = excess.against
    known = {} if found is None else {name: getattr(found, name) for name in ("n", "difference", "low", "high", "sd")}
    return own | {"against": {name: None if math.isnan(value) else value for name, value in known.items()} or None}


def remarks(plan: Plan, floor: Floor, found: Mapping[str, Excess]) -> list[str]:
    """The sentences about the floor and what lies above it."""
    sets = f"{len(floor.values)} set{'s' if len(floor.values) > 1 else ''} of {floor.samples:,}"
    law = "" if floor.power == 1 else ", whose squares add to those of excesses"
    lines = [
        f"Floor of {label_of(plan.metric)} at NFE {plan.nfe}: {floor.value:.4g} (one standard error either way: "
        f"{floor.moved(-1):.4g} to {floor.moved(1):.4g}), by {sets} {KINDS[floor.kind]}{law}. Excesses treat it as "
        "known; their intervals are 95 %, unadjusted, and carry no verdict."
    ]
    if base := found.get(plan.baseline):
        lines += _about_baseline(plan, floor, base)
    lines += [f"{arm} has no comparison of excesses: {own.reason}." for arm, own in found.items() if own.reason]
    return lines


def _about_baseline(plan: Plan, floor: Floor, base: Excess) -> list[str]:
    """What a floor means for ratios to the baseline, where it matters."""
    if floor.value <= NEARLY_ALL * base.value:
        return []
    if base.value**floor.power - floor.value**floor.power < KNOWN * floor.error:
        return [
            f"What the value of {plan.baseline}, {base.value:.4g}, has above the floor is not told from nothing: here "
            "the metric does not see what the arms still lack, and a tie is nearly automatic. Judge by more samples "
            "(evaluate.more_samples), at fewer NFE, or by another metric."
        ]
    wanted = plan.smallest_difference
    lower = float(over(np.array((1 - wanted) * base.value), floor.value, floor.power)) / base.excess
    automatic = ", and ties are nearly automatic. Read the excesses" if lower < 1 - NEARLY_ALL else ""
    if lower <= 0:
        what = f"Nothing can score {100 * wanted:g}% less than {plan.baseline}, which lies so near the floor"
    else:
        what = f"To score {100 * wanted:g}% less than {plan.baseline}, an arm must have {1 - lower:.0%} less excess"
    return [f"{what}{automatic}."]
