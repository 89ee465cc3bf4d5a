"""What an arm's seeds can find at a look: the differences that its test detects four times in five, at its own sd."""

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
"""More are not counted."""
LARGEST = math.log(1e6)
"""Seeds that find a factor of a million find nothing: larger ones are told as this one."""


class Found(NamedTuple):
    """Relative differences of one size of the log ratio: -0.2 is a fall to four fifths, 0.25 undoes it."""

    fall: float
    rise: float

    @classmethod
    def of(cls, log_ratio: float) -> Found:
        """From the size of a log ratio, at most `LARGEST`."""
        size = min(log_ratio, LARGEST)
        return cls(math.expm1(-size), math.expm1(size))


@dataclass(frozen=True)
class Power:
    """Of one of so many arms: n pairs of seeds whose log ratios have this sd, tested at a two-sided level."""

    n: int
    sd: float
    level: float
    arms: int

    @classmethod
    def of(cls, comparison: Comparison, arms: int) -> Power | None:
        """None where there is no spread to go by."""
        if comparison.n < 2 or not comparison.sd > 0:
            return None
        return cls(comparison.n, comparison.sd, comparison.level, arms)

    @property
    def found(self) -> Found:
        """The smallest differences that are found with a power of 80 %, if the sd is what these seeds say."""
        return Found.of(_detectable(self.n, self.level) * self.sd)

    @property
    def at_least(self) -> Found:
        """The same if the sd is as small as its 95 % interval lets it be (chi-square with n - 1 degrees of freedom)."""
        return Found.of(_detectable(self.n, self.level) * self.sd * self._factor(1 - LEVEL / 2))

    @property
    def at_most(self) -> Found:
        """The same if it is as large."""
        return Found.of(_detectable(self.n, self.level) * self.sd * self._factor(LEVEL / 2))

    def seeds_for(self, difference: float) -> int | None:
        """How many pairs find a rise of `difference` with a power of 80 % in a single look, at this sd; None above
        `MOST_SEEDS`.

        A fall of the same size takes fewer. The single look divides `LEVEL` over the arms alone.
        """
        wanted = math.log1p(difference)

        def enough(n: int) -> bool:
            return _detectable(n, LEVEL / self.arms) * self.sd <= wanted

        counts = range(2, MOST_SEEDS + 1)
        place = bisect.bisect_left(counts, True, key=enough)
        return counts[place] if place < len(counts) else None

    def plain(self, difference: float) -> dict[str, Any]:
        """As JSON holds it."""
        sizes = {"found": self.found, "at_least": self.at_least, "at_most": self.at_most}
        return (
            {"sd": self.sd}
            | {name: size._asdict() for name, size in sizes.items()}
            | {"seeds_for_smallest_difference": self.seeds_for(difference)}
        )

    def _factor(self, quantile: float) -> float:
        """The true sd over the measured one, where chance gave this quantile of their squared ratio."""
        return math.sqrt((self.n - 1) / stats.chi2.ppf(quantile, self.n - 1))


@functools.cache
def _detectable(n: int, level: float) -> float:
    """The log ratio, in sds of a single pair's, that n pairs find with a power of 80 %."""
    critical = quantile(level, n)

    def shortfall(effect: float) -> float:  # effect in units of the mean's standard error
        return float(stats.nct.sf(critical, n - 1, effect)) - POWER

    return float(optimize.brentq(shortfall, 0, 10 * critical)) / math.sqrt(n)


def sd_of(low: float, high: float, n: int, level: float) -> float:
    """The sd of log ratios from the ends of the interval of their mean at 1 - level, as relative differences, over n
    pairs.

    Infinity where an end is too far out to be told from -1 or from infinity.
    """
    if low <= -1:
        return math.inf
    half = (math.log1p(high) - math.log1p(low)) / 2
    return half * math.sqrt(n) / quantile(level, n)
