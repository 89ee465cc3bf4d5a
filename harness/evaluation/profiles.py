"""Errors of single properties of samples: statistics of each gene in cells, and behaviour of sequences in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.evaluation.metric import SampleMetric, Summary


def _values(samples: Summary, reference: Summary) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(kept["features"], dtype=np.float64) for kept in (samples, reference))
    return x, y


def _std(values: np.ndarray, axis: int | tuple[int, ...] = 0) -> np.ndarray:
    """Return the standard deviation, with 1 in place of 0."""
    std = values.std(axis)
    return np.where(std == 0, 1, std)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True, kw_only=True)
class GeneMean(SampleMetric, name="gene_mean"):
    """Error of the genes' means: root mean square over genes, each in units of its standard deviation in real data."""

    label = "error of gene means"
    lower_is_better = True
    floor_power = 2
    kinds = ("cells",)

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = _values(samples, reference)
        return _root_mean_square((x.mean(0) - y.mean(0)) / _std(y))


@dataclass(frozen=True, kw_only=True)
class GeneVariance(SampleMetric, name="gene_variance"):
    """Error of the genes' variances: root mean square over genes of variance / real variance - 1."""

    label = "error of gene variances"
    lower_is_better = True
    floor_power = 2
    kinds = ("cells",)

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = _values(samples, reference)
        return _root_mean_square((x.var(0) - y.var(0)) / _std(y) ** 2)


@dataclass(frozen=True, kw_only=True)
class DropoutRate(SampleMetric, name="dropout_rate"):
    """Error of the genes' dropout rates: mean over genes of the absolute difference between the shares of zeros.

    A value counts as zero up to half the smallest positive value of the reference, because a model of a density gives
    no exact zeros.
    """

    label = "error of dropout rates"
    lower_is_better = True
    floor_power = 2
    kinds = ("cells",)

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = _values(samples, reference)
        threshold = y[y > 0].min() / 2 if (y > 0).any() else 0.0
        return float(np.abs((x <= threshold).mean(0) - (y <= threshold).mean(0)).mean())


@dataclass(frozen=True, kw_only=True)
class Autocorrelation(SampleMetric, name="autocorrelation"):
    """Error of the autocorrelation: mean over channels and lags of the absolute difference."""

    label = "error of the autocorrelation"
    formula: ClassVar[str] = (
        "rho(lag) = mean over windows and rows of (x_i - m)(x_{{i + lag}} - m) / s^2; m, s of all rows of a set"
    )
    lower_is_better = True
    floor_power = 2
    kinds = ("sequence",)

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = _values(samples, reference)
        return float(np.abs(autocorrelation(x) - autocorrelation(y)).mean())


def autocorrelation(windows: np.ndarray) -> np.ndarray:
    """Return the autocorrelation [L - 1, D] of windows [N, L, D] at lags 1 to L - 1."""
    length = windows.shape[1]
    centred = (windows - windows.mean((0, 1))) / _std(windows, (0, 1))
    return np.stack([(centred[:, : length - lag] * centred[:, lag:]).mean((0, 1)) for lag in range(1, length)])


@dataclass(frozen=True, kw_only=True)
class Spectrum(SampleMetric, name="spectrum"):
    """Error of the power spectrum: root mean square over channels and frequencies of the difference of log power."""

    label = "error of the power spectrum"
    formula: ClassVar[str] = "log of the windows' mean periodogram (Hann window, each window's mean subtracted)"
    lower_is_better = True
    floor_power = 2
    kinds = ("sequence",)

    def compare(self, samples: Summary, reference: Summary) -> float:
        from scipy.signal import periodogram

        x, y = _values(samples, reference)
        power = [periodogram(rows, window="hann", detrend="constant", axis=1)[1].mean(0)[1:] for rows in (x, y)]
        floor = 1e-12 * power[1].max(0)
        return _root_mean_square(np.log(power[0] + floor) - np.log(power[1] + floor))
