"""The summary of a plan's cells: a row for each arm, metric and NFE, with the verdicts on the primary ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report import numbers, outcomes, statistics, verdicts
from harness.ablation.report.outcomes import Seeds
from harness.ablation.report.power import Power
from harness.ablation.report.statistics import Comparison
from harness.ablation.report.verdicts import Settled

COLUMNS = [
    "study", "scale", "arm", "metric", "nfe", "samples", "seeds", "n", "diverged", "failed", "mean", "sd", "min",
    "pairs", "difference", "level", "low", "high", "tie_low", "tie_high", "primary", "look", "verdict", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """The summary of a plan's cells: rows, verdicts and power."""

    rows: pd.DataFrame
    """`COLUMNS`, one row per arm, metric and nfe, and one per main effect.

    - samples: behind each value; missing for a metric of the flow itself
    - n: seeds with a value; diverged and failed seeds have none
    - difference: over pairs of seeds that the arm and its base both have; its interval is at 1 - level
    - primary: whether the row has a verdict; its pairs are those of the look, and tie_low and tie_high decide on a tie
    """
    settled: Settled
    """The comparison and the verdict of each contrast at the primary metric and NFE."""
    power: dict[str, Power]
    """{contrast: what its seeds can find at its look}, for tested contrasts with an sd above 0."""


def summarise(plan: Plan, cells: pd.DataFrame) -> Summary:
    """Return the summary of a plan's cells."""
    groups = outcomes.by_arm(cells)
    settled = verdicts.settle(plan, cells)
    bases = plan.bases
    rows = []
    for metric, nfe in sorted({(metric, nfe) for _, metric, nfe in groups}):
        primary = (metric, nfe) == (plan.metric, plan.nfe)
        for arm in plan.arms:
            own = groups.get((arm, metric, nfe))
            seeds = Seeds.among(own, plan.seeds_of(arm))
            row = _row(plan, arm, metric, nfe, seeds, own) | {"samples": numbers.judged(plan, [arm], metric, nfe)}
            if arm not in bases:
                row |= {"verdict": verdicts.BASELINE, "primary": primary}
            elif primary and arm in settled.verdicts:
                row |= _settled(settled, arm)
            else:
                row |= _paired(
                    statistics.compare(*outcomes.paired(own, groups.get((bases[arm], metric, nfe)), plan.seeds))
                )
            rows.append(row)
    rows += [_of_effect(plan, name, groups, settled) for name in settled.verdicts if name not in plan.arms]
    sharers = plan.sharers
    found = {name: Power.of(comparison, sharers[name][0]) for name, comparison in settled.tested.items()}
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"samples": "Int64", "pairs": "Int64", "look": "Int64"})
    return Summary(table, settled, {name: power for name, power in found.items() if power})


def _of_effect(
    plan: Plan, name: str, groups: dict[tuple[str, str, int], pd.DataFrame], settled: Settled
) -> dict[str, Any]:
    """Return the row of a main effect; its values are geometric means over the level's arms."""
    at_primary = {arm: own for (arm, *at), own in groups.items() if at == [plan.metric, plan.nfe]}
    arms = plan.contrasts[name].arms
    own = outcomes.combined(at_primary, arms)
    row = _row(plan, name, plan.metric, plan.nfe, settled.standings[name].seeds, own)
    return row | {"samples": numbers.judged(plan, arms, plan.metric, plan.nfe)} | _settled(settled, name)


def _row(plan: Plan, arm: str, metric: str, nfe: int, seeds: Seeds, own: pd.DataFrame | None) -> dict[str, Any]:
    """Return a row without its comparison."""
    values = pd.Series(dtype=float) if own is None else own.value.dropna()
    return {
        "study": plan.study, "scale": plan.scale, "arm": arm, "metric": metric, "nfe": nfe, "seeds": seeds.number,
        "n": len(values), "diverged": seeds.diverged, "failed": seeds.failed,
        "mean": values.mean(), "sd": values.std(), "min": values.min(), "primary": False,
    }  # fmt: skip


def _paired(found: Comparison) -> dict[str, Any]:
    """Return a comparison's entries in a row; none where there is no pair."""
    if not found.n:
        return {}
    return {
        "pairs": found.n, "difference": found.difference, "level": found.level, "low": found.low, "high": found.high,
    }  # fmt: skip


def _settled(settled: Settled, name: str) -> dict[str, Any]:
    """Return a contrast's comparison at its look, and the verdict; before the first look there is no interval."""
    standing, given = settled.standings[name], settled.verdicts[name]
    comparison = standing.comparison
    paired = _paired(comparison)
    if standing.look:
        paired |= {"tie_low": comparison.narrow_low, "tie_high": comparison.narrow_high, "look": standing.look}
    elif paired:
        paired = {"pairs": paired["pairs"], "difference": paired["difference"]}
    return {**paired, "primary": True, "verdict": given.word, "reason": given.reason or None}
