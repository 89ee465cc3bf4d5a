"""The summary of a plan's cells: a row for each arm, metric and NFE, with the verdicts on the primary ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report import outcomes, statistics, verdicts
from harness.ablation.report.outcomes import Seeds
from harness.ablation.report.power import Power
from harness.ablation.report.statistics import Comparison
from harness.ablation.report.verdicts import Standing, Verdict

COLUMNS = [
    "study", "scale", "arm", "metric", "nfe", "seeds", "n", "diverged", "failed", "mean", "sd", "min",
    "pairs", "difference", "low", "high", "p_value", "primary", "verdict", "reason",
]  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What the cells of a plan say."""

    rows: pd.DataFrame
    """`COLUMNS`, one row per arm, metric and nfe. n seeds have a value, diverged and failed ones have none; the
    difference is over pairs of seeds that the arm and the baseline both have."""
    standings: dict[str, Standing]
    """{arm: where it stands at the primary metric and NFE}"""
    verdicts: dict[str, Verdict]
    """{arm: its verdict}"""

    @property
    def tested(self) -> dict[str, Comparison]:
        """{arm: its comparison} of those that have a p-value."""
        return {
            arm: self.standings[arm].comparison for arm, found in self.verdicts.items() if not math.isnan(found.p_value)
        }

    @property
    def power(self) -> dict[str, Power]:
        """{arm: what its seeds can find} of those that are tested and have a spread."""
        found = {arm: Power.of(comparison, len(self.tested)) for arm, comparison in self.tested.items()}
        return {arm: power for arm, power in found.items() if power}


def summarise(plan: Plan, cells: pd.DataFrame) -> Summary:
    """The summary of a plan's cells."""
    seeds = outcomes.seeds_of(cells, plan)
    values = {key: own.set_index("seed").value.dropna() for key, own in cells.groupby(["arm", "metric", "nfe"])}
    rows = []
    standings = {}
    for metric, nfe in sorted({(metric, nfe) for _, metric, nfe in seeds}):
        base = values.get((plan.baseline, metric, nfe), pd.Series(dtype=float))
        for arm in plan.arms:
            own = values.get((arm, metric, nfe), pd.Series(dtype=float))
            of_arm = seeds.get((arm, metric, nfe), Seeds(len(plan.seeds), 0, 0, 0, False))
            comparison = _paired(own, base)
            primary = (metric, nfe) == (plan.metric, plan.nfe)
            against = None if arm == plan.baseline or not comparison.n else comparison
            rows.append(_row(plan, arm, metric, nfe, of_arm, own, against) | {"primary": primary})
            if primary:
                standings[arm] = Standing(of_arm, comparison)
    settled = verdicts.settle(plan, standings)
    for row in rows:
        if row["primary"]:
            found = settled[row["arm"]]
            row |= {"p_value": found.p_value, "verdict": found.word, "reason": found.reason or None}
        elif row["arm"] == plan.baseline:
            row["verdict"] = verdicts.BASELINE
    return Summary(pd.DataFrame(rows, columns=COLUMNS).astype({"pairs": "Int64"}), standings, settled)


def _paired(own: pd.Series, base: pd.Series) -> Comparison:
    pairs = pd.concat([own, base], axis=1, join="inner")
    return statistics.compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())


def _row(
    plan: Plan, arm: str, metric: str, nfe: int, seeds: Seeds, own: pd.Series, comparison: Comparison | None
) -> dict[str, Any]:
    """A row without its verdict; `comparison` is None for the baseline, and where there is no pair."""
    return {
        "study": plan.study, "scale": plan.scale, "arm": arm, "metric": metric, "nfe": nfe, "seeds": seeds.number,
        "n": len(own), "diverged": seeds.diverged, "failed": seeds.failed,
        "mean": own.mean(), "sd": own.std(), "min": own.min(),
        **({} if comparison is None else _paired_values(comparison)),
    }  # fmt: skip


def _paired_values(found: Comparison) -> dict[str, float]:
    return {"pairs": found.n, "difference": found.difference, "low": found.low, "high": found.high}
