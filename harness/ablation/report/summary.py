"""The summary of a plan's cells: a row for each arm, metric and NFE, with the verdicts on the primary ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report import outcomes, statistics, verdicts
from harness.ablation.report.outcomes import Seeds
from harness.ablation.report.power import Power
from harness.ablation.report.statistics import Comparison
from harness.ablation.report.verdicts import Settled

COLUMNS = [
    "study", "scale", "arm", "metric", "nfe", "seeds", "n", "diverged", "failed", "mean", "sd", "min",
    "pairs", "difference", "level", "low", "high", "tie_low", "tie_high", "primary", "look", "verdict", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What the cells of a plan say."""

    rows: pd.DataFrame
    """`COLUMNS`, one row per arm, metric and nfe. n seeds have a value, diverged and failed ones have none; the
    difference is over pairs of seeds that the arm and the baseline both have, its interval is at 1 - level. In a
    primary row these are the pairs of the look, and a tie rests on tie_low and tie_high."""
    settled: Settled
    """Where each arm stands at the primary metric and NFE, and its verdict."""
    power: dict[str, Power]
    """{arm: what its seeds can find at its look} of those that are tested and have a spread."""


def summarise(plan: Plan, cells: pd.DataFrame) -> Summary:
    """The summary of a plan's cells."""
    groups = outcomes.by_arm(cells)
    settled = verdicts.settle(plan, cells)
    rows = []
    for metric, nfe in sorted({(metric, nfe) for _, metric, nfe in groups}):
        primary = (metric, nfe) == (plan.metric, plan.nfe)
        base = groups.get((plan.baseline, metric, nfe))
        for arm in plan.arms:
            own = groups.get((arm, metric, nfe))
            row = _row(plan, arm, metric, nfe, own) | {"primary": primary}
            if arm == plan.baseline:
                row["verdict"] = verdicts.BASELINE
            elif primary:
                row |= _settled(settled, arm)
            else:
                row |= _paired(statistics.compare(*outcomes.paired(own, base, plan.seeds)))
            rows.append(row)
    arms = len(plan.tested)
    found = {arm: Power.of(comparison, arms) for arm, comparison in settled.tested.items()}
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"pairs": "Int64", "look": "Int64"})
    return Summary(table, settled, {arm: power for arm, power in found.items() if power})


def _row(plan: Plan, arm: str, metric: str, nfe: int, own: pd.DataFrame | None) -> dict[str, Any]:
    """A row without its comparison."""
    seeds = Seeds.among(own, plan.seeds_of(arm))
    values = pd.Series(dtype=float) if own is None else own.value.dropna()
    return {
        "study": plan.study, "scale": plan.scale, "arm": arm, "metric": metric, "nfe": nfe, "seeds": seeds.number,
        "n": len(values), "diverged": seeds.diverged, "failed": seeds.failed,
        "mean": values.mean(), "sd": values.std(), "min": values.min(),
    }  # fmt: skip


def _paired(found: Comparison) -> dict[str, Any]:
    """Nothing where there is no pair."""
    if not found.n:
        return {}
    return {
        "pairs": found.n, "difference": found.difference, "level": found.level, "low": found.low, "high": found.high,
    }  # fmt: skip


def _settled(settled: Settled, arm: str) -> dict[str, Any]:
    """The comparison at an arm's look and the verdict; no interval before its first look, where nothing is judged."""
    standing, given = settled.standings[arm], settled.verdicts[arm]
    comparison = standing.comparison
    paired = _paired(comparison)
    if standing.look:
        paired |= {"tie_low": comparison.narrow_low, "tie_high": comparison.narrow_high, "look": standing.look}
    elif paired:
        paired = {"pairs": paired["pairs"], "difference": paired["difference"]}
    return {**paired, "verdict": given.word, "reason": given.reason or None}
