"""What people read off a curve of a metric against NFE: its area, the fewest steps that will do, and their price in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.ablation import statistics

NEAR = 0.05
"""As good as the best is what is worse by so much at most."""


@dataclass(frozen=True)
class Readout:
    """Of one arm."""

    area: float
    """Geometric mean of the metric over log NFE, from the smallest to the largest NFE that all arms share; mean over seeds."""
    against: statistics.Comparison | None
    """Its paired comparison with the baseline's; None for the baseline, and where a curve is missing."""
    fewest: int | None
    """The smallest NFE at which the mean is within `NEAR` of this arm's best."""
    fewest_of_all: int | None
    """The same, of the best of all arms; None where the arm never comes so near."""
    seconds: float
    """Of sampling, for each sample, at `fewest`."""


def read(values: pd.DataFrame, metric: str, baseline: str, lower: bool, seconds: Mapping[tuple[str, int], float]) -> dict[str, Readout]:
    """{arm: what its curve says} of one metric; values has columns arm, seed, metric, nfe and value, seconds those by arm and NFE.

    An adaptive solver's calls (NFE 0) belong to no curve. Arms without one are left out.
    """
    own = values[(values.metric == metric) & (values.nfe > 0)]
    if own.empty:
        return {}
    table = own.pivot_table(index=["arm", "seed"], columns="nfe", values="value")
    means = table.groupby("arm").mean()
    shared = [nfe for nfe in sorted(table.columns) if not means[nfe].isna().any()]
    best = float(np.nanmin(means) if lower else np.nanmax(means))
    areas = {arm: _areas(table.loc[arm][shared]) for arm in means.index}
    out = {}
    for arm in dict.fromkeys(own.arm):
        curve = means.loc[arm].dropna()
        fewest = _fewest(curve, float(curve.min() if lower else curve.max()), lower)
        against = None
        if arm != baseline and baseline in areas and len(areas[arm]):
            pairs = pd.concat([areas[arm], areas[baseline]], axis=1, join="inner")
            against = statistics.compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
        spent = seconds.get((arm, fewest or 0), math.nan)
        out[arm] = Readout(areas[arm].mean(), against, fewest, _fewest(curve, best, lower), spent)
    return out


def _areas(table: pd.DataFrame) -> pd.Series:
    """By seed; none where fewer than two NFEs are shared or a value has no logarithm."""
    table = table.dropna()
    if table.shape[1] < 2 or not (table > 0).all(axis=None):
        return pd.Series(dtype=float)
    x = np.log2(np.asarray(table.columns, dtype=float))
    return pd.Series(np.exp(np.trapezoid(np.log(table.to_numpy()), x) / (x[-1] - x[0])), index=table.index)


def _fewest(curve: pd.Series, best: float, lower: bool) -> int | None:
    slack = NEAR * abs(best)
    near = curve[curve <= best + slack] if lower else curve[curve >= best - slack]
    return int(near.index.min()) if len(near) else None
