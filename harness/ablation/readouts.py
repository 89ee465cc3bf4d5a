"""What people read off a curve of a metric against NFE: its area, the fewest steps that will do, and their price in seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.ablation.statistics import Comparison, compare

NEAR = 0.05
"""As good as the best is what is worse by so much at most."""


@dataclass(frozen=True)
class Readout:
    """Of one arm."""

    area: float
    """Geometric mean of the metric over log NFE, from the smallest to the largest NFE that all arms with a curve share; mean over seeds."""
    against: Comparison | None
    """Its paired comparison with the baseline's; None for the baseline, and where a curve is missing."""
    fewest: int | None
    """The smallest NFE at which the mean is within `NEAR` of this arm's best."""
    fewest_of_all: int | None
    """The same, of the best of all arms; None where the arm never comes so near."""
    seconds: float
    """Of sampling, for each sample, at `fewest`."""


def read(values: pd.DataFrame, metric: str, baseline: str, lower: bool, seconds: Mapping[tuple[str, int], float]) -> dict[str, Readout]:
    """{arm: what its curve says} of one metric; values has columns arm, seed, metric, nfe and value, seconds those by arm and NFE.

    An adaptive solver's calls (NFE 0) belong to no curve. Arms without any value are left out, and all where none has a curve.
    """
    own = values[(values.metric == metric) & (values.nfe > 0)]
    if own.empty:
        return {}
    table = own.pivot_table(index=["arm", "seed"], columns="nfe", values="value")
    means = table.groupby("arm").mean()
    curves = means[means.notna().sum(axis=1) > 1]
    if curves.empty:
        return {}
    shared = [nfe for nfe in sorted(table.columns) if not curves[nfe].isna().any()]
    best = float(np.nanmin(means) if lower else np.nanmax(means))
    areas = {arm: _areas(table.loc[arm][shared]) for arm in means.index}
    out = {}
    for arm in dict.fromkeys(own.arm):
        curve = means.loc[arm].dropna()
        fewest = _fewest(curve, float(curve.min() if lower else curve.max()), lower)
        against = None
        if arm != baseline and baseline in areas and len(areas[arm]):
            pairs = pd.concat([areas[arm], areas[baseline]], axis=1, join="inner")
            against = compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
        spent = seconds.get((arm, fewest or 0), math.nan)
        out[arm] = Readout(areas[arm].mean(), against, fewest, _fewest(curve, best, lower), spent)
    return out


@dataclass(frozen=True)
class Needed:
    """The calls that an arm needs for nearly a given quality, by seed."""

    calls: tuple[int | None, ...]
    """The smallest NFE that was measured to do; None where none did."""
    mean: float
    """Geometric mean over seeds; infinite where some never came so near."""
    low: float
    high: float
    """95 % interval of it, by t on logs; NaN with one seed, or where some never came so near."""

    @classmethod
    def of(cls, calls: Sequence[int | None]) -> Needed:
        """From each seed's."""
        reached = [math.log(n) for n in calls if n is not None]
        if len(reached) < len(calls) or not calls:
            return cls(tuple(calls), math.inf, math.nan, math.nan)
        mean, n = statistics.fmean(reached), len(reached)
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(reached) / math.sqrt(n) if n > 1 else math.nan
        return cls(tuple(calls), math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    def __str__(self) -> str:
        """The mean with its interval, or how many seeds came so near."""
        reached = sum(n is not None for n in self.calls)
        if reached < len(self.calls) or not self.calls:
            return f"never in {len(self.calls)} seeds" if not reached else f"in {reached} of {len(self.calls)} seeds"
        return f"{self.mean:.3g}" + ("" if math.isnan(self.low) else f" ({self.low:.3g} to {self.high:.3g})")

    def verdict(self, expected: Sequence[int]) -> str:
        """Of what is expected, [least, most]: as expected, fewer, more, or undecided where the interval crosses an end."""
        if self.calls and not any(self.calls):
            return "more"
        if expected[0] <= self.low and self.high <= expected[1]:
            return "as expected"
        return "fewer" if self.high < expected[0] else "more" if self.low > expected[1] else "undecided"


def needed(values: pd.DataFrame, metric: str, arm: str, target: str, at: int, lower: bool) -> Needed:
    """What `arm` needs for a value within `NEAR` of that of `target` (an arm, itself perhaps) with the same seed at NFE `at`.

    Seeds whose target is not measured there are left out.
    """
    curves = values[(values.metric == metric) & (values.nfe > 0)].set_index(["arm", "seed", "nfe"]).value
    own = curves[curves.index.get_level_values("arm") == arm].droplevel("arm")
    seeds = [seed for seed in own.index.unique("seed") if (target, seed, at) in curves]
    return Needed.of([_fewest(own[seed], curves[target, seed, at], lower) for seed in seeds])


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
