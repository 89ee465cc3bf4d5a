"""Paired comparison of arms over seeds, on the logarithm of a metric, with verdicts that know ties.

Seeds pair the arms: same initial weights, batches, noise and times. The mean of log(arm / baseline) over seeds has a
t distribution with n - 1 degrees of freedom, so intervals are exact for normal differences at any n. There is no
bootstrap here: over three to five seeds it covers far less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_SEEDS = 3
"""Fewer pairs carry no verdict."""
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline; differences are relative: 0.1 is 10 % more than the baseline."""

    n: int
    """Pairs of seeds."""
    difference: float
    """exp(mean log ratio) - 1."""
    low: float
    high: float
    """Ends of the 95 % interval of `difference`, not adjusted for other comparisons."""
    narrow_low: float
    narrow_high: float
    """Ends of its 90 % interval: two one-sided tests at 5 %."""
    p_value: float
    """Two-sided paired t, not adjusted."""
    sd: float
    """Of the log ratios over seeds."""


def compare(arm: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Paired t on the logs of values, position by position.

    Intervals are nan below two pairs; everything is where a value is not positive, which has no ratio.
    """
    values = np.asarray([arm, baseline], dtype=float)
    nan = math.nan
    n = values.shape[1]
    if (values <= 0).any():
        return Comparison(n, nan, nan, nan, nan, nan, nan, nan)
    logs = np.log(values[0]) - np.log(values[1])
    mean = float(logs.mean()) if n else nan
    if n < 2:
        return Comparison(n, math.expm1(mean), nan, nan, nan, nan, nan, nan)
    sd = float(logs.std(ddof=1))
    if sd == 0:  # the same runs, or arms without any noise: scipy divides by zero here
        same = math.expm1(mean)
        return Comparison(n, same, same, same, same, same, 1.0 if mean == 0 else 0.0, 0.0)
    test = stats.ttest_1samp(logs, 0)
    wide = test.confidence_interval(1 - LEVEL)
    narrow = test.confidence_interval(1 - 2 * LEVEL)
    low, high, narrow_low, narrow_high = (math.expm1(end) for end in (wide.low, wide.high, narrow.low, narrow.high))
    return Comparison(n, math.expm1(mean), low, high, narrow_low, narrow_high, float(test.pvalue), sd)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false rejection (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def verdict(comparison: Comparison, adjusted_p: float, smallest_difference: float, lower_is_better: bool) -> str:
    """`better` or `worse` (adjusted p < 0.05), `tie` (90 % interval within the smallest difference), or `undecided`.

    Whether there is anything to compare is not asked here.
    """
    if comparison.n < MIN_SEEDS:
        return "undecided"
    if adjusted_p < LEVEL:
        return "better" if (comparison.difference < 0) == lower_is_better else "worse"
    inside = -smallest_difference < comparison.narrow_low and comparison.narrow_high < smallest_difference
    return "tie" if inside else "undecided"
