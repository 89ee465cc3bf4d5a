"""The power of an arm's test: the differences that its seeds detect with 80 % probability, at the arm's sd."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import optimize, stats

from harness.ablation.design.looks import LEVEL, quantile
from harness.ablation.report.statistics import Comparison

POWER = 0.8
MOST_SEEDS = 100_000
"""Largest number of seeds that is computed; None stands for more."""
LARGEST = math.log(1e6)
"""Largest log ratio to report: seeds that find only a factor of a million find nothing."""


class Found(NamedTuple):
    """The fall and the rise with the same absolute log ratio: a fall of -0.2 and a rise of 0.25 cancel."""

    fall: float
    rise: float

    @classmethod
    def of(cls, log_ratio: float) -> Found:
        """Build from the absolute value of a log ratio, cut at `LARGEST`."""
        size = min(log_ratio, LARGEST)
        return cls(math.expm1(-size), math.expm1(size))


@dataclass(frozen=True)
class Power:
    """The test of one of `arms` arms: n pairs of seeds, the sd of their log ratios, and the two-sided level."""

    n: int
    sd: float
    level: float
    arms: int

    @classmethod
    def of(cls, comparison: Comparison, arms: int) -> Power | None:
        """Build from a comparison; None where its sd is unknown or 0."""
        if comparison.n < 2 or not comparison.sd > 0:
            return None
        return cls(comparison.n, comparison.sd, comparison.level, arms)

    @property
    def found(self) -> Found:
        """The smallest differences that the test finds with a power of 80 %, at the measured sd."""
        return Found.of(_detectable(self.n, self.level) * self.sd)

    @property
    def at_least(self) -> Found:
        """`found` at the lower end of the sd's 95 % interval (chi-square with n - 1 degrees of freedom)."""
        return Found.of(_detectable(self.n, self.level) * self.sd * self._factor(1 - LEVEL / 2))

    @property
    def at_most(self) -> Found:
        """`found` at the upper end of the sd's 95 % interval."""
        return Found.of(_detectable(self.n, self.level) * self.sd * self._factor(LEVEL / 2))

    def seeds_for(self, difference: float) -> int | None:
        """Return the pairs that find a rise of `difference` with a power of 80 % in one look; None above `MOST_SEEDS`.

        A fall of the same size takes fewer. With one look, `LEVEL` is divided over the arms only.
        """
        wanted = math.log1p(difference)

        def enough(n: int) -> bool:
            return _detectable(n, LEVEL / self.arms) * self.sd <= wanted

        counts = range(2, MOST_SEEDS + 1)
        place = bisect.bisect_left(counts, True, key=enough)
        return counts[place] if place < len(counts) else None

    def plain(self, difference: float) -> dict[str, Any]:
        """Return the JSON form, with the seeds for this difference."""
        sizes = {"found": self.found, "at_least": self.at_least, "at_most": self.at_most}
        return (
            {"sd": self.sd}
            | {name: size._asdict() for name, size in sizes.items()}
            | {"seeds_for_smallest_difference": self.seeds_for(difference)}
        )

    def _factor(self, quantile: float) -> float:
        """Return true sd / measured sd, if measured / true variance is at this quantile of its distribution."""
        return math.sqrt((self.n - 1) / stats.chi2.ppf(quantile, self.n - 1))


@functools.cache
def _detectable(n: int, level: float) -> float:
    """Return the log ratio, in units of a pair's sd, that n pairs find with a power of 80 %."""
    critical = quantile(level, n)

    def shortfall(effect: float) -> float:  # effect in units of the mean's standard error
        return float(stats.nct.sf(critical, n - 1, effect)) - POWER

    return float(optimize.brentq(shortfall, 0, 10 * critical)) / math.sqrt(n)


def sd_of(low: float, high: float, n: int, level: float) -> float:
    """Return the sd of n log ratios, given their mean's interval at 1 - level as relative differences `low` and `high`.

    Infinity where `low` was rounded to -1 or below.
    """
    if low <= -1:
        return math.inf
    half = (math.log1p(high) - math.log1p(low)) / 2
    return half * math.sqrt(n) / quantile(level, n)
