"""What people read off a curve of a metric against NFE: its area, the fewest steps that will do, and their seconds."""

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
    """Of one arm."""

    area: float
    """Geometric mean of the metric over log NFE, between `ends`; mean over `seeds`."""
    seeds: int
    """Seeds that are measured at every NFE of the arm; the others take no part in anything here."""
    ends: tuple[int, int] | None
    """The smallest and the largest NFE that all arms with a curve share; None where they do not share two."""
    against: Comparison | None
    """Its paired comparison with the baseline's; None for the baseline, and where a curve is missing."""
    fewest: int | None
    """The smallest NFE at which the mean is within `NEAR` of this arm's best."""
    fewest_of_all: int | None
    """The same, of the best of all arms; None where the arm never comes so near."""
    seconds: float
    """Of sampling, for each sample, at `fewest`."""


def read(
    values: pd.DataFrame, metric: str, bases: Mapping[str, str], lower: bool, seconds: Mapping[tuple[str, int], float],
    unstable: Container[str] = (),
) -> dict[str, Readout]:  # fmt: skip
    """{arm: what its curve says} of one metric.

    `values` has columns arm, seed, metric, nfe and value, `seconds` those by arm and NFE, `bases` whom an arm is set
    beside. An adaptive solver's calls (NFE 0) belong to no curve. Arms without a whole seed are left out, and all where
    none has a curve. Seeds that an `unstable` arm has left set no mark for the others, nor are others set beside them.
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
    """The calls that an arm needs for nearly a given quality, by seed."""

    calls: tuple[int | None, ...]
    """The smallest NFE that was measured to do; None where none did."""
    mean: float
    """Geometric mean over seeds; infinite where some never came so near."""
    low: float
    high: float
    """95 % interval of it, by t on logs; NaN with one seed, or where some never came so near."""
    seeds: int
    """All that there are; those beyond `calls` have nothing to come near."""

    @classmethod
    def of(cls, calls: Sequence[int | None], seeds: int | None = None) -> Needed:
        """From each seed's, of so many seeds; None is as many."""
        reached = [math.log(n) for n in calls if n is not None]
        number = len(calls) if seeds is None else seeds
        if len(reached) < len(calls) or not calls:
            return cls(tuple(calls), math.inf, math.nan, math.nan, number)
        mean = statistics.fmean(reached)
        n = len(reached)
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(reached) / math.sqrt(n) if n > 1 else math.nan
        return cls(tuple(calls), math.exp(mean), math.exp(mean - half), math.exp(mean + half), number)

    def __str__(self) -> str:
        """The mean with its interval, or how many seeds came so near; and over how many where that is not all."""
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
        """Beside [least, most]: as expected, fewer, more, or undecided where the interval crosses an end."""
        if self.calls and not any(self.calls):
            return "more"
        if expected[0] <= self.low and self.high <= expected[1]:
            return "as expected"
        return "fewer" if self.high < expected[0] else "more" if self.low > expected[1] else "undecided"


def needed(cells: pd.DataFrame, metric: str, arm: str, target: str, at: int, lower: bool) -> Needed:
    """What `arm` needs for a value within `NEAR` of that of `target` with the same seed at NFE `at`.

    cells has columns arm, seed, metric, nfe, value and state. A seed that diverged never comes so near. One that is not
    finished, or whose target has no value, is left out.
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
    """By seed; none where fewer than two NFEs are shared or a value has no logarithm."""
    table = table.dropna()
    if table.shape[1] < 2 or not (table > 0).all(axis=None):
        return pd.Series(dtype=float)
    x = np.log2(np.asarray(table.columns, dtype=float))
    return pd.Series(np.exp(np.trapezoid(np.log(table.to_numpy()), x) / (x[-1] - x[0])), index=table.index)
