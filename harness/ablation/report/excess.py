"""The excess of the primary metric over its floor: a second comparison where perfect models would not score 0.

Verdicts are about the metric itself. Near the floor, a ratio of values is near 1 for any excesses. With the metric's
power p (`SampleMetric.floor_power`), the excess over a floor is (value^p - floor^p)^(1/p).
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
"""The report mentions a floor above this share of the baseline's value. It calls ties nearly automatic if an arm must
lose this share of the excess to score the smallest difference less."""
KNOWN = 2
"""An excess below this number of the floor's standard errors cannot be told from zero."""
KINDS = {
    "fresh": "real samples that the reference does not hold",
    "resampled": "training samples drawn with replacement, because too few others exist. This is the floor of a "
    "perfect memory, which is lower than the floor of new samples",
}
"""{kind of floor: the samples that were scored, in words}"""


@dataclass(frozen=True)
class Excess:
    """An arm's excess over the floor, which is treated as known."""

    value: float
    """The metric's value: the power mean over seeds, with the floor's power."""
    excess: float
    """Excess of this value; below 0 where the value lies under the floor."""
    against: Comparison | None = None
    """Paired comparison of the arm's excesses with the baseline's; None for the baseline and if there is a `reason`."""
    ends: tuple[float, float] | None = None
    """The difference with the floor one standard error lower, and higher; None where an excess is then not positive."""
    reason: str = ""
    """Why there is no comparison; empty where there is one."""


def excesses(plan: Plan, cells: pd.DataFrame, floor: Floor, compared: Container[str]) -> dict[str, Excess]:
    """Return {arm: its excess} at the primary metric and NFE; the arms in `compared` are compared with their base."""
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
    """Return the excess of each value over a floor; below 0 for values under the floor."""
    left = values**power - floor**power
    return np.sign(left) * np.abs(left) ** (1 / power)


def _against(arm: np.ndarray, baseline: np.ndarray, floor: Floor) -> dict[str, Any]:
    """Return the fields of `Excess` about the comparison of pairs: its numbers, or the reason why there are none."""
    if below := int((np.minimum(arm, baseline) <= floor.value).sum()):
        pairs = f"{below} of {len(arm)} pairs"
        return {"reason": f"{pairs} have a value at or below the floor, so their excesses have no ratio"}
    lower, higher = (_compared(arm, baseline, floor.moved(errors), floor.power).difference for errors in (-1, 1))
    ends = None if math.isnan(lower) or math.isnan(higher) else (lower, higher)
    return {"against": _compared(arm, baseline, floor.value, floor.power), "ends": ends}


def _compared(arm: np.ndarray, baseline: np.ndarray, floor: float, power: int) -> Comparison:
    """Compare the excesses of both over a floor; the numbers are NaN where an excess is not positive."""
    return compare(over(arm, floor, power).tolist(), over(baseline, floor, power).tolist())


def plain(excess: Excess) -> dict[str, Any]:
    """Return the JSON form, with null for unknown numbers."""
    own = {name: value for name, value in asdict(excess).items() if name != "against"}
    found = excess.against
    known = {} if found is None else {name: getattr(found, name) for name in ("n", "difference", "low", "high", "sd")}
    return own | {"against": {name: None if math.isnan(value) else value for name, value in known.items()} or None}


def remarks(plan: Plan, floor: Floor, found: Mapping[str, Excess]) -> list[str]:
    """Return the sentences about the floor and the excesses."""
    sets = f"{len(floor.values)} set{'s' if len(floor.values) > 1 else ''} of {floor.samples:,}"
    law = "" if floor.power == 1 else f": value^{floor.power:g} = floor^{floor.power:g} + excess^{floor.power:g}"
    lines = [
        f"Floor of {label_of(plan.metric)} at NFE {plan.nfe}: {floor.value:.4g} (one standard error either way: "
        f"{floor.moved(-1):.4g} to {floor.moved(1):.4g}), measured on {sets} {KINDS[floor.kind]}. The rest of a "
        f"value is its excess{law}. Excesses treat the floor as known; their intervals are 95 %, unadjusted, and carry "
        "no verdict."
    ]
    if base := found.get(plan.baseline):
        lines += _about_baseline(plan, floor, base)
    lines += [f"{arm} has no comparison of excesses: {own.reason}." for arm, own in found.items() if own.reason]
    return lines


def _about_baseline(plan: Plan, floor: Floor, base: Excess) -> list[str]:
    """Return what the floor means for ratios to the baseline; empty where the floor is low."""
    if floor.value <= NEARLY_ALL * base.value:
        return []
    if base.value**floor.power - floor.value**floor.power < KNOWN * floor.error:
        return [
            f"The value of {plan.baseline}, {base.value:.4g}, cannot be told from the floor: here the metric does not "
            "see the remaining errors of the arms, and a tie is nearly automatic. Judge more samples "
            "(evaluate.more_samples), at fewer NFE, or by another metric."
        ]
    wanted = plan.smallest_difference
    lower = float(over(np.array((1 - wanted) * base.value), floor.value, floor.power)) / base.excess
    automatic = ", and ties are nearly automatic. Read the excesses" if lower < 1 - NEARLY_ALL else ""
    if lower <= 0:
        near = f"because {plan.baseline} is so near the floor"
        what = f"No arm can score {100 * wanted:g}% less than {plan.baseline}, {near}"
    else:
        what = f"To score {100 * wanted:g}% less than {plan.baseline}, an arm must have {1 - lower:.0%} less excess"
    return [f"{what}{automatic}."]
