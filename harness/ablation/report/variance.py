"""The parts of the variance of log ratios that come from the training seed and from drawing samples.

A finished run is judged with K sampling seeds, which are nested in its training seed: another training seed has other
noise. The log ratio of an arm to the baseline is mu + A_i + E_ik, with A of the training seed i and E of its sampling
seed k. The balanced one-way analysis of variance estimates both variances without bias:
E[MS between] = K var(A) + var(E), E[MS within] = var(E) (Searle, Casella & McCulloch 1992, section 3.5). Arms share the
noise, so E is the rest that sharing does not cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from harness.ablation.report.statistics import LEVEL


@dataclass(frozen=True)
class Split:
    """The variance of an arm's log ratios with one number of samples."""

    samples: int
    mean: float
    """Mean log ratio over seeds."""
    training: float
    """Variance between training seeds; 0 where its estimate is negative."""
    sampling: float
    """Variance between the sampling seeds of a training seed."""
    below_zero: bool = False
    """Whether the estimate of `training` was negative."""
    low: float = math.nan
    high: float = math.nan
    """Ends of the 95 % interval of `sd`; NaN where nothing was measured."""

    @property
    def sd(self) -> float:
        """Sd of the log ratio of one pair of runs, each judged once, as in a study."""
        return math.sqrt(self.training + self.sampling)

    @property
    def share(self) -> float:
        """The share of sampling in the variance; 0 where the variance is 0."""
        return self.sampling / (self.training + self.sampling) if self.sd else 0.0


def split(logs: np.ndarray, samples: int) -> Split:
    """Split the variance of log ratios [training seeds, sampling seeds], two or more of each.

    The interval of the sd is Satterthwaite's (1946), which takes the sum of both variances as one scaled chi-square.
    """
    seeds, draws = logs.shape
    between = draws * float(logs.mean(1).var(ddof=1))
    within = float(logs.var(1, ddof=1).mean())
    training = (between - within) / draws
    parts = between / draws, within * (draws - 1) / draws
    freedom = seeds - 1, seeds * (draws - 1)
    found = Split(samples, float(logs.mean()), max(0.0, training), within, training < 0)
    if not sum(parts):
        return found
    total = sum(parts) ** 2 / sum(part**2 / free for part, free in zip(parts, freedom, strict=True))
    low, high = (math.sqrt(sum(parts) * total / stats.chi2.ppf(q, total)) for q in (1 - LEVEL / 2, LEVEL / 2))
    return Split(samples, found.mean, found.training, within, found.below_zero, low, high)


@dataclass(frozen=True)
class Law:
    """The sampling variance as a function of the number n of samples: `scale` / n + `rest`."""

    scale: float
    rest: float
    slope: float
    """Slope of the log variance over log n; -1 where `rest` is 0. NaN where a variance is 0."""

    def at(self, samples: int) -> float:
        """Return the variance with this number of samples."""
        return self.scale / samples + self.rest

    def beyond(self, last: Split, samples: int) -> Split:
        """Extrapolate from the `last` measured split: the sampling variance falls by the law, `training` stays."""
        falls = self.at(samples) / self.at(last.samples) if last.sampling else 1.0
        return Split(samples, last.mean, last.training, falls * last.sampling, last.below_zero)


def law(splits: Sequence[Split]) -> Law:
    """Fit a law to two or more splits by least squares of relative errors; neither part is below 0."""
    n = np.array([found.samples for found in splits], dtype=float)
    variances = np.array([found.sampling for found in splits])
    if (variances <= 0).any():
        return Law(0.0, float(variances.mean()), math.nan)
    parts = np.stack([1 / n, np.ones_like(n)], axis=1) / variances[:, None]
    widths = parts.max(0)
    scale, rest = optimize.nnls(parts / widths, np.ones_like(n))[0] / widths
    slope = np.polyfit(np.log(n), np.log(variances), 1)[0]
    return Law(float(scale), float(rest), float(slope))


def shared(arm: np.ndarray, baseline: np.ndarray) -> float:
    """Return the share of the sampling variance of a log ratio that shared noise removes; below 0 it adds variance.

    `arm` and `baseline` are log values [training seeds, sampling seeds]. NaN where there is no variance.
    """
    one, other, ratio = (split(logs, 1).sampling for logs in (arm, baseline, arm - baseline))
    return 1 - ratio / (one + other) if one + other else math.nan


def rise(difference: float, here: float, there: float, power: int) -> float:
    """Return the relative rise from `there` that equals a rise of `difference` from `here`.

    `here` and `there` are the baseline's values with two numbers of samples. To this power, they differ only by their
    floors (`SampleMetric.floor_power`; 1 without a floor).
    """
    return (1 + (here / there) ** power * ((1 + difference) ** power - 1)) ** (1 / power) - 1
