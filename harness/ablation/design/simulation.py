"""Simulate studies with a group-sequential design, to estimate its power and its number of trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.ablation.design.looks import Looks, quantile


@dataclass(frozen=True)
class Simulated:
    """Outcomes of the arms other than the baseline, each an array [studies, arms]."""

    decided: np.ndarray
    """Whether an arm has a verdict by the last look."""
    wrong: np.ndarray
    """Whether the verdict is wrong: better or worse against the true sign or at no difference, or a tie outside the
    smallest difference."""
    seeds: np.ndarray
    """Number of seeds at which an arm was decided; all seeds if it was not."""

    @property
    def trials(self) -> np.ndarray:
        """Trials per study, [studies]: the seeds of all arms and of the baseline, which runs while any arm is open."""
        return self.seeds.sum(1) + self.seeds.max(1)


def simulate(looks: Looks, sds: Sequence[float], true: float, smallest_difference: float, studies: int) -> Simulated:
    """Simulate studies with one arm per entry of `sds`, the standard deviations of log ratios over seeds.

    `true` is the true log ratio of every arm. Log ratios are normal and share the baseline's noise, as paired seeds do:
    it is half of the variance if all sds are equal. An arm keeps its first verdict and gets no more seeds.
    """
    rng = np.random.default_rng(0)
    arms = len(sds)
    low = math.log1p(-smallest_difference)
    high = math.log1p(smallest_difference)
    shared = min(sds) / math.sqrt(2)
    own = np.sqrt(np.square([shared * math.sqrt(2), *sds]) - shared**2)
    logs = rng.standard_normal((studies, arms + 1, looks.last)) * own[:, None]
    ratios = logs[:, 1:] - logs[:, :1] + true
    is_open = np.ones(ratios.shape[:2], dtype=bool)
    wrong = np.zeros_like(is_open)
    seeds = np.zeros(ratios.shape[:2], dtype=int)
    for look, n in enumerate(looks.seeds, 1):
        level = looks.level(look, arms)
        mean = ratios[..., :n].mean(-1)
        error = ratios[..., :n].std(-1, ddof=1) / math.sqrt(n)
        wide, narrow = (quantile(each, n) * error for each in (level, 2 * level))
        better = mean + wide < 0
        worse = mean - wide > 0
        tie = (mean - narrow > low) & (mean + narrow < high) & ~better & ~worse
        seeds[is_open] = n
        false = (better & (true >= 0)) | (worse & (true <= 0)) | (tie & (not low < true < high))
        wrong |= is_open & false
        is_open &= ~(better | worse | tie)
    return Simulated(~is_open, wrong, seeds)
