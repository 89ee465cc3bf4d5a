"""Errors of single properties, compared with closed forms: processes of known autocorrelation, genes of known moments
and zeros.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigError
from harness.core.registry import build
from harness.data.base import load
from harness.data.points import EightGaussians
from harness.evaluation.metric import Summary
from harness.evaluation.profiles import GeneMean, autocorrelation
from harness.evaluation.protocol import EvaluateConfig, Protocol

PROFILES = {
    "gene_mean": "cells",
    "gene_variance": "cells",
    "dropout_rate": "cells",
    "autocorrelation": "sequence",
    "spectrum": "sequence",
}
SEQUENCES = ["autocorrelation", "spectrum"]


def summary(x: np.ndarray) -> Summary:
    return GeneMean().summarise(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)), None)


def value(name: str, samples: np.ndarray, reference: np.ndarray) -> float:
    return build("metric", name).compare(summary(samples), summary(reference))


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def ar1(phi: list[float], windows: int, length: int, seed: int) -> np.ndarray:
    """Return stationary windows [N, L, D] of unit variance; channels have the lag-one correlations phi."""
    rows = normal(length, windows, len(phi), seed=seed)
    kept = np.array(phi)
    for before, row in itertools.pairwise(rows):
        row[:] = kept * before + np.sqrt(1 - kept**2) * row
    return rows.transpose(1, 0, 2)


def powers(phi: list[float], length: int) -> np.ndarray:
    """Return phi^lag at lags 1 to L - 1, [L - 1, D]."""
    return np.array(phi) ** np.arange(1, length)[:, None]


def test_the_autocorrelation_of_a_first_order_process_is_a_power() -> None:
    phi = [0.8, -0.5, 0.0]
    windows = np.array([2.0, 0.1, 5.0]) * ar1(phi, 20_000, 8, seed=0) + [7, -1, 100]
    np.testing.assert_allclose(autocorrelation(windows), powers(phi, 8), atol=0.04)


def test_the_autocorrelation_is_the_mean_product_of_rows_a_lag_apart() -> None:
    windows = normal(3, 4, 2, seed=0).cumsum(1)
    for channel in range(2):
        rows = windows[..., channel]
        for lag in range(1, 4):
            products = [(w[i] - rows.mean()) * (w[i + lag] - rows.mean()) for w in rows for i in range(4 - lag)]
            assert autocorrelation(windows)[lag - 1, channel] == pytest.approx(np.mean(products) / rows.var())


def test_two_processes_differ_by_the_mean_difference_of_their_powers() -> None:
    one = [0.9, -0.5]
    other = [0.3, 0.5]
    expected = np.abs(powers(one, 6) - powers(other, 6)).mean()
    found = value("autocorrelation", ar1(one, 20_000, 6, seed=0), ar1(other, 20_000, 6, seed=1))
    assert found == pytest.approx(expected, abs=0.02)
    assert value("autocorrelation", ar1(one, 20_000, 6, seed=0), ar1(one, 20_000, 6, seed=1)) < 0.02


@pytest.mark.parametrize("name", SEQUENCES)
def test_windows_against_themselves_have_no_error(name: str) -> None:
    windows = ar1([0.8, 0.2], 100, 9, seed=0)
    assert value(name, windows, windows) == 0


def test_neither_units_nor_an_offset_change_the_autocorrelation() -> None:
    one = ar1([0.8], 200, 9, seed=0)
    other = ar1([0.2], 200, 9, seed=1)
    assert value("autocorrelation", 5 * one + 3, other) == pytest.approx(value("autocorrelation", one, other), rel=1e-4)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_scaled_windows_have_twice_the_log_of_the_factor_as_error(factor: float) -> None:
    windows = ar1([0.8, 0.2], 100, 9, seed=0)
    assert value("spectrum", factor * windows, windows) == pytest.approx(2 * abs(math.log(factor)), abs=1e-5)


def test_channels_count_alike_and_as_squares_in_the_spectrum() -> None:
    windows = ar1([0.8, 0.2], 100, 9, seed=0)
    expected = 2 * math.sqrt((math.log(2) ** 2 + math.log(10) ** 2) / 2)
    assert value("spectrum", np.array([2.0, 0.1]) * windows, windows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [2, 9, 16])
def test_the_spectrum_is_the_log_of_the_mean_squared_fourier_transform(length: int) -> None:
    """Windows without their means, under a Hann window; the zero frequency is left out."""
    bell = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)

    def log_power(windows: np.ndarray) -> np.ndarray:
        transformed = np.fft.rfft(bell[:, None] * (windows - windows.mean(1, keepdims=True)), axis=1)
        density = np.square(np.abs(transformed)).mean(0)[1:]
        density[: (length - 1) // 2] *= 2
        return np.log(density)

    one = 2 + ar1([0.8, 0.2], 50, length, seed=0)
    other = ar1([0.1, -0.6], 70, length, seed=1) * [1, 3]
    expected = np.sqrt(np.mean((log_power(one) - log_power(other)) ** 2))
    assert value("spectrum", one, other) == pytest.approx(expected, rel=1e-4)


def test_the_level_of_a_window_does_not_count_in_the_spectrum() -> None:
    windows = ar1([0.5], 100, 9, seed=0)
    levels = np.round(10 * normal(100, 1, 1, seed=1))
    assert value("spectrum", windows + levels, windows) == pytest.approx(0, abs=1e-4)


def test_windows_without_any_power_are_finitely_wrong() -> None:
    assert 5 < value("spectrum", np.zeros((20, 8, 1)), ar1([0.5], 100, 8, seed=0)) < 100


def test_a_constant_channel_causes_no_division_by_zero() -> None:
    flat = np.full((20, 8, 1), 3.0)
    np.testing.assert_array_equal(autocorrelation(flat), np.zeros((7, 1)))
    assert value("autocorrelation", ar1([0.9], 20_000, 3, seed=0), np.ones((5, 3, 1))) == pytest.approx(
        (0.9 + 0.81) / 2, abs=0.02
    )


def genes(seed: int = 0, number: int = 200) -> np.ndarray:
    """Expression [N, 2] of two genes with different means and spreads."""
    return np.array([5.0, 0.5]) + [2.0, 0.1] * normal(number, 2, seed=seed)


@pytest.mark.parametrize("shift", [[0.0, 0.0], [1.5, 1.5], [-1.5, 1.5], [3.0, 4.0]])
def test_the_error_of_shifted_means_is_the_shift_in_standard_deviations(shift: list[float]) -> None:
    reference = genes()
    expected = math.sqrt((shift[0] ** 2 + shift[1] ** 2) / 2)
    assert value("gene_mean", reference + shift * reference.std(0), reference) == pytest.approx(expected, abs=1e-5)
    assert value("gene_variance", reference + shift * reference.std(0), reference) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("factors", "expected"), [([2.0, 2.0], 3.0), ([1.0, 1.0], 0.0), ([0.5, 0.5], 0.75), ([2.0, 0.0], math.sqrt(5))]
)
def test_the_error_of_spread_is_the_ratio_of_variances_less_one(factors: list[float], expected: float) -> None:
    reference = genes()
    spread = reference.mean(0) + factors * (reference - reference.mean(0))
    assert value("gene_variance", spread, reference) == pytest.approx(expected, abs=1e-4)
    assert value("gene_mean", spread, reference) == pytest.approx(0, abs=1e-5)


def test_a_gene_that_is_constant_in_the_reference_keeps_its_units() -> None:
    """Its mean is 3 too high and its variance is 4; the other gene is right."""
    reference = genes()
    samples = genes()
    reference[:, 1] = 0.25
    samples[:, 1] = 3.25 + np.tile([-2, 2], 100)
    assert value("gene_mean", samples, reference) == pytest.approx(math.sqrt(9 / 2))
    assert value("gene_variance", samples, reference) == pytest.approx(math.sqrt(16 / 2))


def test_dropout_is_the_mean_difference_of_the_shares_of_zeros() -> None:
    """3/4 instead of 1/4, 0 instead of 1/2, and 1/4, which is right: (1/2 + 1/2 + 0) / 3."""
    reference = np.array([[0, 1, 1, 1], [0, 0, 2, 2], [0, 3, 3, 3]]).T
    samples = np.array([[0, 0, 0, 7], [5, 5, 5, 5], [1, 0, 1, 1]]).T
    assert value("dropout_rate", samples, reference) == pytest.approx(1 / 3)
    assert value("dropout_rate", reference, reference) == 0


def test_zero_includes_values_below_half_the_smallest_positive_reference_value() -> None:
    """The smallest is 0.5, in the other gene; the smallest values of the samples do not matter."""
    reference = np.array([[0.0, 4.0, 4.0, 4.0], [0.5, 8.0, 8.0, 8.0]]).T
    for low, error in ((0.001, 0.0), (0.25, 0.0), (0.2501, 1 / 8), (0.4, 1 / 8)):
        samples = reference.copy()
        samples[0, 0] = low
        assert value("dropout_rate", samples, reference) == pytest.approx(error)


def test_a_reference_without_a_positive_value_counts_exact_zeros() -> None:
    assert value("dropout_rate", np.array([[0.0], [0.0], [1e-3], [2.0]]), np.zeros((4, 1))) == pytest.approx(0.5)


@pytest.mark.parametrize("name", PROFILES)
def test_a_property_is_measured_only_on_data_that_have_it(name: str) -> None:
    config = EvaluateConfig(extractor="values", metrics=(build("metric", name),))
    with pytest.raises(
        ConfigError, match=rf"^evaluate\.metrics\[0\]: {name} is for {PROFILES[name]}, and these data are points"
    ):
        Protocol.of(config, load(EightGaussians(number=20)))
