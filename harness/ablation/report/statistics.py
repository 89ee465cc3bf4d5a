"""Paired comparison of arms over seeds, on the logarithm of a metric, with verdicts that know ties.

Seeds pair the arms: same initial weights, batches, noise and times. The studentised mean of log(arm / baseline) over
seeds has a t distribution with n - 1 degrees of freedom. So intervals are exact for normal log ratios at any n. There
is no bootstrap here: over three to five seeds, its coverage is far below its nominal level.

A look may spend a level a on an arm (`design.looks`). The arm is better or worse if its interval at 1 - a excludes
zero. It is a tie if its interval at 1 - 2a, which is two one-sided tests at a, lies within the smallest difference. The
probability of a wrong `better`, `worse` or `tie` for the arm is at most a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from harness.ablation.design.looks import LEVEL, MIN_SEEDS, quantile

SKEWED = 1.0
"""A note of the table warns about log ratios whose skewness exceeds this in absolute value."""


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline; differences are relative: 0.1 is 10 % more than the baseline."""

    n: int
    """Pairs of seeds."""
    level: float
    """Level of the test; the interval is at 1 - level."""
    difference: float
    """exp(mean log ratio) - 1."""
    low: float
    high: float
    """Ends of the interval of `difference` at 1 - level."""
    narrow_low: float
    narrow_high: float
    """Ends of the interval of `difference` at 1 - 2 level, which decides on a tie."""
    sd: float
    """Standard deviation of the log ratios over seeds."""
    log_ratios: tuple[float, ...] = ()

    @property
    def p(self) -> float:
        """The p-value of the paired t-test, which `level` is for; NaN below two pairs and where no pair differs."""
        if self.n < 2 or not self.sd:
            return math.nan
        t = math.log1p(self.difference) / (self.sd / math.sqrt(self.n))
        return float(2 * stats.t.sf(abs(t), self.n - 1))

    @property
    def skewness(self) -> float:
        """Skewness of the log ratios (adjusted Fisher-Pearson); NaN below three pairs."""
        return float(pd.Series(self.log_ratios, dtype=float).skew())  # type: ignore[arg-type]


def compare(arm: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Comparison:
    """Compare two sequences of values, paired by position, with a paired t test on their logs.

    Intervals are NaN below two pairs. All numbers are NaN if a value is not positive, because it has no log ratio.
    """
    values = np.asarray([arm, baseline], dtype=float)
    nan = math.nan
    n = values.shape[1]
    if (values <= 0).any():
        return Comparison(n, level, nan, nan, nan, nan, nan, nan)
    logs = np.log(values[0]) - np.log(values[1])
    mean = float(logs.mean()) if n else nan
    if n < 2:
        return Comparison(n, level, math.expm1(mean), nan, nan, nan, nan, nan)
    sd = float(logs.std(ddof=1))
    error = sd / math.sqrt(n)
    wide, narrow = (quantile(each, n) * error for each in (level, 2 * level))
    with np.errstate(over="ignore"):  # few seeds that differ by factors exclude nothing: infinity
        low, high, narrow_low, narrow_high = np.expm1(mean + np.array([-wide, wide, -narrow, narrow])).tolist()
    return Comparison(n, level, math.expm1(mean), low, high, narrow_low, narrow_high, sd, tuple(logs.tolist()))


def verdict(comparison: Comparison, smallest_difference: float, lower_is_better: bool) -> str:
    """Return `better`, `worse`, `tie` or `undecided`, at the level of the comparison.

    The caller checks that there is something to compare.
    """
    if comparison.n < MIN_SEEDS:
        return "undecided"
    if comparison.high < 0 or comparison.low > 0:
        return "better" if (comparison.difference < 0) == lower_is_better else "worse"
    return "tie" if is_tie(comparison, smallest_difference) else "undecided"


def is_tie(comparison: Comparison, smallest_difference: float) -> bool:
    """Whether the difference is proven to be smaller than the smallest difference, by two one-sided tests."""
    return -smallest_difference < comparison.narrow_low and comparison.narrow_high < smallest_difference


def is_small(comparison: Comparison, smallest_difference: float) -> bool:
    """Whether the whole interval lies within the smallest difference, so the difference does not matter."""
    return -smallest_difference < comparison.low and comparison.high < smallest_difference
