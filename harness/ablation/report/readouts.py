"""Numbers read off a metric's curve over NFE: its mean, the fewest NFE near the best, and their seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.ablation.design import costs
from harness.ablation.report.outcomes import DIVERGED
from harness.ablation.report.statistics import Comparison, compare

NEAR = costs.NEAR


@dataclass(frozen=True)
class Readout:
    """The numbers of one arm's curve."""

    area: float
    """Geometric mean of the metric over log NFE, between `ends`; mean over `seeds`."""
    seeds: int
    """Number of seeds that are measured at every NFE of the arm; the numbers here use only these."""
    ends: tuple[int, int] | None
    """The smallest and the largest NFE that all arms with a curve share; None where they share fewer than two."""
    against: Comparison | None
    """Paired comparison of `area` with the baseline's; None for the baseline, and where a curve is missing."""
    fewest: int | None
    """The smallest NFE at which the mean is within `NEAR` of this arm's best."""
    fewest_of_all: int | None
    """The smallest NFE at which the mean is within `NEAR` of the best of all arms; None where no NFE is."""
    seconds: float
    """Seconds of sampling per sample at `fewest`; NaN where unknown."""


def read(
    values: pd.DataFrame, metric: str, bases: Mapping[str, str], lower: bool, seconds: Mapping[tuple[str, int], float],
    unstable: Container[str] = (),
) -> dict[str, Readout]:  # fmt: skip
    """Return {arm: the numbers of its curve} for one metric.

    `values` has columns arm, seed, metric, nfe and value; `bases` is {arm: its base}; `seconds` are per sample. Values
    of an adaptive solver (NFE 0) belong to no curve. An arm is left out if no seed is measured at all its NFEs, and all
    if no arm has two NFEs. An `unstable` arm does not count for the best, and no arm is compared with it.
    """
    own = values[(values.metric == metric) & (values.nfe > 0)].dropna(subset="value")
    if own.empty:
        return {}
    table = own.pivot_table(index=["arm", "seed"], columns="nfe", values="value")
    whole = {
        arm: table.loc[arm].dropna(axis=1, how="all").dropna()
        for arm in dict.fromkeys(values.arm)
        if arm in set(own.arm)
    }
    means = {arm: curves.mean() for arm, curves in whole.items() if len(curves)}
    if all(len(curve) < 2 for curve in means.values()):
        return {}
    shared = [nfe for nfe in sorted(table.columns) if all(nfe in curve for curve in means.values() if len(curve) > 1)]
    ends = (int(shared[0]), int(shared[-1])) if len(shared) > 1 else None
    marks = [curve.min() if lower else curve.max() for arm, curve in means.items() if arm not in unstable]
    best = float((min if lower else max)(marks, default=math.nan))
    areas = {arm: _areas(whole[arm].reindex(columns=shared)) for arm in means}
    out = {}
    for arm, curve in means.items():
        fewest = costs.fewest(curve.items(), float(curve.min() if lower else curve.max()), lower)
        against = None
        base = bases.get(arm)
        if base in areas and base not in unstable and len(areas[arm]):
            pairs = pd.concat([areas[arm], areas[base]], axis=1, join="inner")
            against = compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
        spent = seconds.get((arm, fewest or 0), math.nan)
        out[arm] = Readout(
            areas[arm].mean(), len(whole[arm]), ends, against, fewest, costs.fewest(curve.items(), best, lower), spent
        )
    return out


@dataclass(frozen=True)
class Needed:
    """The calls of the network that an arm needs to come near a given quality, by seed."""

    calls: tuple[int | None, ...]
    """By seed, the smallest measured NFE that comes near; None where no NFE does."""
    mean: float
    """Geometric mean over seeds; infinite where a seed never comes near."""
    low: float
    high: float
    """95 % interval of `mean`, by t on logs; NaN with one seed, or where a seed never comes near."""
    seeds: int
    """Number of all seeds; a seed without a target is not in `calls`."""

    @classmethod
    def of(cls, calls: Sequence[int | None], seeds: int | None = None) -> Needed:
        """Build from the calls by seed; `seeds` is the number of all seeds, by default those in `calls`."""
        reached = [math.log(n) for n in calls if n is not None]
        number = len(calls) if seeds is None else seeds
        if len(reached) < len(calls) or not calls:
            return cls(tuple(calls), math.inf, math.nan, math.nan, number)
        mean = statistics.fmean(reached)
        n = len(reached)
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(reached) / math.sqrt(n) if n > 1 else math.nan
        return cls(tuple(calls), math.exp(mean), math.exp(mean - half), math.exp(mean + half), number)

    def __str__(self) -> str:
        """Return the mean with its interval, or how many seeds came near, and how many were left out."""
        reached = sum(n is not None for n in self.calls)
        of = len(self.calls)
        if not of:
            return "-"
        if reached < of:
            said = f"in {reached} of {of} seeds" if reached else f"never in {of} seeds"
        else:
            said = f"{self.mean:.3g}" + ("" if math.isnan(self.low) else f" ({self.low:.3g} to {self.high:.3g})")
        return said if of == self.seeds else f"{said}; {self.seeds - of} of {self.seeds} seeds left out"

    def verdict(self, expected: Sequence[int]) -> str:
        """Compare with [least, most]: as expected, fewer, more, or undecided where the interval crosses an end."""
        if self.calls and not any(self.calls):
            return "more"
        if expected[0] <= self.low and self.high <= expected[1]:
            return "as expected"
        return "fewer" if self.high < expected[0] else "more" if self.low > expected[1] else "undecided"


def needed(cells: pd.DataFrame, metric: str, arm: str, target: str, at: int, lower: bool) -> Needed:
    """Return the calls that `arm` needs to come within `NEAR` of the value of `target` at NFE `at`, seed by seed.

    `cells` has columns arm, seed, metric, nfe, value and state. A diverged seed never comes near. A seed is left out if
    it is not finished, or if its target has no value.
    """
    curves = cells[(cells.metric == metric) & (cells.nfe > 0)]
    targets = curves[(curves.arm == target) & (curves.nfe == at)].set_index("seed").value
    calls = list[int | None]()
    seeds = curves[curves.arm == arm].groupby("seed")
    for seed, own in seeds:
        measured = own.set_index("nfe").value.dropna()
        diverged = DIVERGED in set(own.state)
        wanted = float(targets.get(seed, math.nan))
        if math.isnan(wanted) and not (diverged and target == arm):
            continue
        if len(measured) or diverged:
            calls.append(costs.fewest(measured.items(), wanted, lower))
    return Needed.of(calls, len(seeds))


def _areas(table: pd.DataFrame) -> pd.Series:
    """Return the geometric mean over log NFE by seed; empty below two NFEs, or where a value is not positive."""
    table = table.dropna()
    if table.shape[1] < 2 or not (table > 0).all(axis=None):
        return pd.Series(dtype=float)
    x = np.log2(np.asarray(table.columns, dtype=float))
    return pd.Series(np.exp(np.trapezoid(np.log(table.to_numpy()), x) / (x[-1] - x[0])), index=table.index)
