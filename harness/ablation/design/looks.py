"""When a study looks at its results, and the share of the error that each look may spend: a group-sequential design.

A study that looks again and again, and stops where it likes the answer, errs far more often than in one study of
twenty. Here the looks are named before anything runs, and `LEVEL` is divided over the arms and the looks, so that the
chance of any wrong verdict in a study is at most `LEVEL` (union bound). The share of a look follows the seeds that it
adds, or is the same for each: two spending functions of Lan & DeMets 1983 (Biometrika 70, 659); Jennison & Turnbull
2000, chapter 7.
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
"""The chance that a study may have of any wrong verdict."""
MIN_SEEDS = 3
"""Fewer pairs of seeds carry no verdict."""
Spending = Literal["proportional", "equal"]


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which a study looks."""

    seeds: tuple[int, ...]
    """Rising; one alone is a study with a fixed number of seeds."""
    spending: Spending = "proportional"

    @classmethod
    def planned(cls, seeds: Sequence[int], spending: Spending) -> Looks:
        """Those of a study file; `UserError` where they cannot carry verdicts."""
        rising = all(earlier < later for earlier, later in itertools.pairwise(seeds))
        if not seeds or seeds[0] < MIN_SEEDS or not rising:
            raise UserError(
                f"looks: {list(seeds)} do not rise from {MIN_SEEDS} or more seeds. Write them like (5, 10, 20, 40), or "
                "(5,) for one look."
            )
        SEEDS.refuse(seeds[-1], "looks")
        return cls(tuple(seeds), spending)

    @property
    def last(self) -> int:
        """Seeds at the last look."""
        return self.seeds[-1]

    def within(self, seeds: int) -> int:
        """How many looks so many seeds reach."""
        return sum(n <= seeds for n in self.seeds)

    def level(self, look: int, arms: int) -> float:
        """What one of so many arms may spend at a look, counted from 1: its two-sided level there."""
        if self.spending == "equal":
            share = 1 / len(self.seeds)
        else:
            before = (0, *self.seeds)[look - 1]
            share = (self.seeds[look - 1] - before) / self.last
        return LEVEL / arms * share

    def provable(self, look: int, arms: int, sd: float) -> float:
        """The smallest rise that can be told better or worse at a look, where log ratios have this sd over seeds.

        It is found there half of the time.
        """
        n = self.seeds[look - 1]
        return math.expm1(min(quantile(self.level(look, arms), n) * sd / math.sqrt(n), 700.0))


@functools.cache
def quantile(level: float, n: int) -> float:
    """The t value that n pairs exceed in size with the chance `level`, without a difference."""
    return float(stats.t.isf(level / 2, n - 1))
