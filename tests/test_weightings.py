"""Weights w(t): the papers' formulas, their clamps, and their allowed effects."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.components.interpolants import DDPM, GVP, Interpolant, Linear, Scaled
from harness.components.predictions import NoisePrediction, Velocity
from harness.components.time_samplers import CosMap, LogitNormal, Power, TimeSampler
from harness.components.weightings import (
    EDM,
    P2,
    SNR,
    ClippedSNR,
    DataEnd,
    InverseSNR,
    Likelihood,
    MinSNR,
    NoiseEnd,
    Sigmoid,
    TruncatedSNR,
    Weighting,
)
from harness.components.weightings import CosMap as CosMapWeight
from harness.components.weightings import LogitNormal as LogitNormalWeight
from harness.components.weightings import Uniform as One
from harness.core.errors import ConfigError
from harness.core.registry import about, build, find, names

WEIGHTINGS = {name: build("weighting", name) for name in names("weighting")}
PATHS = {name: build("interpolant", name) for name in names("interpolant")} | {"scaled": Scaled(path=Linear(), std=0.3)}
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def fields(weighting: Weighting) -> set[str]:
    return {f.name for f in dataclasses.fields(weighting)}


# The papers' formulas, written out


def linear(t: np.ndarray) -> np.ndarray:
    return (1 - t) ** 2 / t**2


def gvp(t: np.ndarray) -> np.ndarray:
    return 1 / np.tan(math.pi * t / 2) ** 2


def vp_ddpm(t: np.ndarray) -> np.ndarray:
    alpha_squared = np.exp(-0.1 * t - 19.9 * t**2 / 2)
    return alpha_squared / (1 - alpha_squared)


SNRS = {"linear": (Linear(), linear), "gvp": (GVP(), gvp), "vp_ddpm": (DDPM(), vp_ddpm)}


def edm(snr: np.ndarray, sigma_data: float) -> np.ndarray:
    sigma = 1 / np.sqrt(snr)
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def logit_normal(t: np.ndarray, m: float, s: float) -> np.ndarray:
    return np.exp(-((np.log(t / (1 - t)) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


FORMULAS: list[tuple[Weighting, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = [
    (One(), lambda t, snr: np.ones_like(t)),
    (InverseSNR(), lambda t, snr: 1 / snr),
    (SNR(), lambda t, snr: snr),
    (DataEnd(), lambda t, snr: (1 - t) ** 2),
    (DataEnd(power=0.5), lambda t, snr: np.sqrt(1 - t)),
    (NoiseEnd(), lambda t, snr: t**2),
    (NoiseEnd(power=3), lambda t, snr: t**3),
    (MinSNR(), lambda t, snr: np.minimum(snr, 5)),
    (MinSNR(gamma=1), lambda t, snr: np.minimum(snr, 1)),
    (ClippedSNR(), lambda t, snr: np.minimum(snr, 5)),
    (ClippedSNR(gamma=0.5), lambda t, snr: np.minimum(snr, 0.5)),
    (TruncatedSNR(), lambda t, snr: np.maximum(snr, 1)),
    (P2(), lambda t, snr: 1 / (1 + snr)),
    (P2(gamma=0.5, k=2), lambda t, snr: 1 / np.sqrt(2 + snr)),
    (P2(gamma=0), lambda t, snr: np.ones_like(t)),
    (EDM(), lambda t, snr: edm(snr, 0.5)),
    (EDM(sigma_data=2), lambda t, snr: edm(snr, 2)),
    (CosMapWeight(), lambda t, snr: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)),
    (LogitNormalWeight(), lambda t, snr: logit_normal(t, 0, 1)),
    (LogitNormalWeight(mean=0.5, std=0.6), lambda t, snr: logit_normal(t, 0.5, 0.6)),
]


def test_the_list_names_the_error_that_a_weighting_is_stated_for() -> None:
    """`harness list` shows the first line of its docstring."""
    for weighting in WEIGHTINGS.values():
        stated = weighting.stated_for
        words = "whatever error is measured" if stated == "any" else f"the {stated} error"
        assert words in about(type(weighting)), weighting.name


def test_every_member_is_tested_here() -> None:
    own = {name for name in names("weighting") if find("weighting", name).__module__.startswith("harness.")}
    assert own == {weighting.name for weighting, _ in FORMULAS} | {"likelihood", "sigmoid"}


@pytest.mark.parametrize(("path", "snr"), SNRS.values(), ids=SNRS)
@pytest.mark.parametrize(("weighting", "formula"), FORMULAS, ids=[str(weighting) for weighting, _ in FORMULAS])
def test_weights_are_the_papers(weighting: Weighting, formula: Callable, path: Interpolant, snr: Callable) -> None:
    t = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(weighting.weight(torch.from_numpy(t), path).numpy(), formula(t, snr(t)), rtol=1e-9)


@every_path
def test_likelihood_is_half_the_fall_of_log_snr(path: Interpolant) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad((2 * (path.alpha(t).log() - path.sigma(t).log())).sum(), t)[0]
    torch.testing.assert_close(Likelihood().weight(t.detach(), path), -slope / 2)


@every_path
@pytest.mark.parametrize("bias", [2.0, -1.0])
def test_sigmoid_is_a_density_over_log_snr(path: Interpolant, bias: float) -> None:
    """w(t) dt = sigmoid(b - lambda) |d lambda|: its sum over any times is a difference of softplus, its integral."""
    t = torch.linspace(0.01, 0.99, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(Sigmoid(bias=bias).weight(t, path), t).item()
    first, last = path.log_snr(t[[0, -1]]).numpy()
    assert integral == pytest.approx(np.logaddexp(0, bias - last) - np.logaddexp(0, bias - first), rel=1e-5)


def test_likelihood_is_half_the_squared_diffusion_of_ddpm() -> None:
    """Song et al. 2021: g^2 / 2 on the score's error is beta / (2 sigma^2) on the noise's."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = (0.1 + 19.9 * t) / (2 * -torch.expm1(-0.1 * t - 19.9 * t**2 / 2))
    torch.testing.assert_close(Likelihood().weight(t, DDPM()), expected)


# Weights converted to another error


T = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)


@every_path
def test_snr_on_the_data_error_is_one_on_the_noise_error(path: Interpolant) -> None:
    weight = SNR().weight(T, path) * NoisePrediction().factor(T, path, "data").square()
    torch.testing.assert_close(weight, torch.ones_like(T))


def test_edm_with_unit_data_is_one_on_v() -> None:
    """SNR + 1 on the data error (Salimans & Ho 2022, section 4)."""
    weight = EDM(sigma_data=1).weight(T, GVP()) * Velocity().factor(T, GVP(), "data").square()
    torch.testing.assert_close(weight, torch.full_like(T, (2 / math.pi) ** 2))


@pytest.mark.parametrize("std", [1.0, 0.6])
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_edms_weight_is_one_on_edms_output(path: Interpolant, sigma_data: float, std: float) -> None:
    """lambda c_out^2 = 1 (Karras et al. 2022, table 1), for any standard deviation of the noise."""
    factor = build("prediction", {"name": "edm", "sigma_data": sigma_data}).factor(
        T, path, "data", torch.tensor(std**2, dtype=torch.float64)
    )
    weight = EDM(sigma_data=sigma_data).weight(T, Scaled(path=path, std=std))
    torch.testing.assert_close(weight * factor.square(), torch.ones_like(T))


# Both ends


@every_weighting
def test_weights_are_finite_and_not_negative_up_to_both_ends(weighting: Weighting) -> None:
    for (name, path), dtype in itertools.product(PATHS.items(), [torch.float32, torch.float64]):
        least = torch.finfo(dtype).tiny
        below_one = 1 - torch.finfo(dtype).eps / 2
        t = torch.tensor(
            [0, least, 1e-12, 1e-6, *torch.linspace(0.01, 0.999, 50).tolist(), 1 - 1e-6, below_one, 1], dtype=dtype
        )
        w = weighting.weight(t, path)
        assert (w.shape, w.dtype) == (t.shape, dtype), name
        assert w.isfinite().all(), (name, dtype)
        assert (w >= 0).all(), (name, dtype)
        assert (w > 0).any(), (name, dtype)


ENDS = [(name, end) for name, weighting in WEIGHTINGS.items() for end in ("t_min", "t_max") if end in fields(weighting)]
CLAMPED = {f"{name}.{end}": (WEIGHTINGS[name], end) for name, end in ENDS}
every_clamp = pytest.mark.parametrize(("weighting", "end"), CLAMPED.values(), ids=CLAMPED)


def test_weights_without_a_bound_are_clamped() -> None:
    assert set(CLAMPED) == {
        "inverse_snr.t_max",
        "snr.t_min",
        "truncated_snr.t_min",
        "edm.t_min",
        "likelihood.t_min",
        "likelihood.t_max",
        "sigmoid.t_min",
        "sigmoid.t_max",
    }


@every_clamp
def test_a_clamped_weight_is_constant_beyond_and_untouched_before(weighting: Weighting, end: str) -> None:
    inside = torch.linspace(0.03, 0.97, 50, dtype=torch.float64)
    least = dataclasses.replace(weighting, **{end: 0.0002 if end == "t_min" else 0.9998})
    for (name, path), reach in itertools.product(PATHS.items(), [0.0002, 0.01, 0.03]):

        def close(found: Tensor, expected: Tensor, at: tuple[str, float] = (name, reach)) -> None:
            torch.testing.assert_close(found, expected, msg=lambda text: f"{at}: {text}")

        held = dataclasses.replace(weighting, **{end: reach if end == "t_min" else 1 - reach})
        beyond = torch.linspace(0, reach, 9, dtype=torch.float64)
        w = held.weight(beyond if end == "t_min" else 1 - beyond, path)
        close(w, w[-1].expand(9))
        close(held.weight(inside, path), weighting.weight(inside, path))
        between = torch.linspace(reach, 0.03, 9, dtype=torch.float64)
        between = between if end == "t_min" else 1 - between
        close(held.weight(between, path), least.weight(between, path))


@every_clamp
def test_a_clamp_stays_near_its_end(weighting: Weighting, end: str) -> None:
    wrong, allowed = {"t_min": ((0.04, 0.0, -0.1), "(0, 0.03]"), "t_max": ((0.96, 1.0, 0.99991), "[0.97, 0.9999]")}[end]
    for value in wrong:
        with pytest.raises(ConfigError, match=rf"^{end}: {value} is outside {re.escape(allowed)}\. "):
            dataclasses.replace(weighting, **{end: value})


def fine_times(number: int) -> tuple[Tensor, Tensor]:
    """Return times that are densest at both ends, and their weights: the mean of f times the weights integrates f."""
    s = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return s**3 * (10 - 15 * s + 6 * s**2), 30 * (s * (1 - s)) ** 2


# The allowed effects of weights


def linear_model_gradients(path: Interpolant, t: Tensor) -> Tensor:
    """Return the gradient [n, 3] at time t [n] of the error of v = a x + b t + c on eight fixed pairs."""
    pairs = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0, x1 = pairs.expand(2, len(t), 8)
    xt = path.interpolate(x0, x1, t)
    features = torch.stack([xt, t[:, None].expand_as(xt), torch.ones_like(xt)], -1)
    error = features @ torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64) - path.velocity(x0, x1, t)
    return 2 * (error[..., None] * features).mean(1)


@every_path
@pytest.mark.parametrize("sampler", [Power(p=2), LogitNormal(), CosMap()], ids=lambda sampler: sampler.name)
def test_a_weight_and_a_density_are_interchangeable(path: Interpolant, sampler: TimeSampler) -> None:
    """(w, p) and (w p, uniform) have the same expected gradient: over quantiles of p, and over a grid of times, both
    fine at the ends.
    """
    grid, density = fine_times(16_384)
    t = sampler.quantile(grid, path)
    gradients = linear_model_gradients(path, t)
    again = linear_model_gradients(path, grid)
    for weighting in WEIGHTINGS.values():
        left = ((weighting.weight(t, path) * density)[:, None] * gradients).mean(0)
        right = ((weighting.weight(grid, path) * sampler.density(grid, path) * density)[:, None] * again).mean(0)
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4, msg=weighting.name)


@every_path
def test_no_weight_moves_a_minimum_that_the_model_can_reach(path: Interpolant) -> None:
    """Data N(0, 1/4): the best field is k(t) x. Weighted least squares over k(t) x, x, t and 1 finds it with any
    weight.
    """
    z = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(z - z.mean(0)).Q * 32**0.5  # exact moments
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    x0, x1 = (q[:, i].expand(len(t), 32) for i in range(2))
    xt = path.interpolate(x0 / 2, x1, t)
    u = path.velocity(x0 / 2, x1, t)
    alpha = path.alpha(t)
    sigma = path.sigma(t)
    k = (path.alpha_dot(t) * alpha / 4 + path.sigma_dot(t) * sigma) / (alpha**2 / 4 + sigma**2)
    features = torch.stack([k[:, None] * xt, xt, t[:, None].expand_as(xt), torch.ones_like(xt)], -1)
    solution = torch.tensor([[1.0], [0], [0], [0]], dtype=torch.float64)
    for weighting in WEIGHTINGS.values():
        root = weighting.weight(t, path).sqrt()[:, None].expand_as(xt)
        found = torch.linalg.lstsq((root[..., None] * features).flatten(0, 1), (root * u).flatten()[:, None]).solution
        torch.testing.assert_close(found, solution, rtol=0, atol=1e-8, msg=weighting.name)
