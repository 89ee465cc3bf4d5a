"""Group-sequential design: when a study looks at its results, and the share of the error level that each look spends.

A study that looks repeatedly and stops at an answer it likes is wrong far more often than 5 % of the time. Here the
looks are fixed before the first run, and `LEVEL` is divided over arms and looks. So the probability of any wrong
verdict in a study is at most `LEVEL` (union bound). The share of a look is proportional to the seeds that it adds, or
equal for all looks: two spending functions of Lan & DeMets 1983 (Biometrika 70, 659); Jennison & Turnbull 2000,
chapter 7.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from harness.core.config import SEEDS
from harness.core.errors import UserError

LEVEL = 0.05
"""Largest allowed probability of any wrong verdict in a study."""
MIN_SEEDS = 3
"""Smallest number of seed pairs for a verdict."""
Spending = Literal["proportional", "equal"]


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which a study looks."""

    seeds: tuple[int, ...]
    """Strictly increasing; a single entry is a study with a fixed number of seeds."""
    spending: Spending = "proportional"

    @classmethod
    def planned(cls, seeds: Sequence[int], spending: Spending) -> Looks:
        """Return the looks of a study file; `UserError` if verdicts are impossible at these numbers of seeds."""
        rising = all(earlier < later for earlier, later in itertools.pairwise(seeds))
        if not seeds or seeds[0] < MIN_SEEDS or not rising:
            raise UserError(
                f"looks: {list(seeds)} must increase and start at {MIN_SEEDS} seeds or more. Write them like "
                "(5, 10, 20, 40), or (5,) for one look."
            )
        SEEDS.refuse(seeds[-1], "looks")
        return cls(tuple(seeds), spending)

    @property
    def last(self) -> int:
        """Seeds at the last look."""
        return self.seeds[-1]

    def within(self, seeds: int) -> int:
        """Return the number of looks that this number of seeds reaches."""
        return sum(n <= seeds for n in self.seeds)

    def level(self, look: int, arms: int) -> float:
        """Return the two-sided level that each of `arms` arms spends at a look, counted from 1."""
        if self.spending == "equal":
            share = 1 / len(self.seeds)
        else:
            before = (0, *self.seeds)[look - 1]
            share = (self.seeds[look - 1] - before) / self.last
        return LEVEL / arms * share

    def provable(self, look: int, arms: int, sd: float) -> float:
        """Return the relative rise that a look detects with probability 1/2; `sd` is of the log ratios over seeds."""
        n = self.seeds[look - 1]
        return math.expm1(min(quantile(self.level(look, arms), n) * sd / math.sqrt(n), 700.0))


@functools.cache
def quantile(level: float, n: int) -> float:
    """Return the t value that |t| of n pairs exceeds with probability `level` if there is no difference."""
    return float(stats.t.isf(level / 2, n - 1))
