"""Weights w(t): their formulas, their means, and what they may and may not change."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from harness.components.interpolants import Interpolant, Linear, VariancePreserving
from harness.components.time_samplers import Power, TimeSampler, Uniform
from harness.components.weightings import DataEnd, InverseSNR, MinSNR, NoiseEnd, Weighting
from harness.components.weightings import Uniform as One
from harness.registry import build, names

every_weighting = pytest.mark.parametrize("weighting", [build("weighting", name) for name in names("weighting")], ids=str)
every_interpolant = pytest.mark.parametrize("interpolant", [build("interpolant", name) for name in names("interpolant")], ids=str)


@pytest.mark.parametrize(
    ("weighting", "interpolant", "formula"),
    [
        (One(), Linear(), lambda t: 1.0),
        (MinSNR(gamma=5), Linear(), lambda t: 5.0 if t < 1 / (1 + 5**0.5) else (1 - t) ** 2 / t**2),
        (MinSNR(gamma=3), VariancePreserving(), lambda t: 3.0 if t < 0.5 else 1 / t**2 - 1),
        (InverseSNR(t_max=0.98), Linear(), lambda t: (min(t, 0.98) / (1 - min(t, 0.98))) ** 2),
        (InverseSNR(t_max=0.98), VariancePreserving(), lambda t: min(t, 0.98) ** 2 / (1 - min(t, 0.98) ** 2)),
        (DataEnd(power=3), Linear(), lambda t: 1 - 3 * t + 3 * t**2 - t**3),
        (NoiseEnd(power=3), Linear(), lambda t: t * t * t),
    ],
    ids=["uniform", "min_snr", "min_snr-vp", "inverse_snr", "inverse_snr-vp", "data_end", "noise_end"],
)
def test_closed_forms(weighting: Weighting, interpolant: Interpolant, formula: Callable[[float], float]) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    expected = torch.tensor([formula(float(s)) for s in t], dtype=torch.float64)
    torch.testing.assert_close(weighting.weight(t, interpolant), expected)


@every_weighting
@every_interpolant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_finite_and_not_negative_up_to_both_ends(weighting: Weighting, interpolant: Interpolant, dtype: torch.dtype) -> None:
    least, below_one = torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps
    t = torch.tensor([0, least, 1e-12, 1e-6, *torch.linspace(0.01, 0.999, 50).tolist(), below_one, 1], dtype=dtype)
    w = weighting.weight(t, interpolant)
    assert (w.shape, w.dtype) == (t.shape, dtype)
    assert w.isfinite().all()
    assert (w >= 0).all()
    assert (w > 0).any()


@every_weighting
@every_interpolant
@pytest.mark.parametrize("time_sampler", [Uniform(), Power(p=2), Power(p=0.5)], ids=str)
def test_the_mean_is_the_integral_over_the_time_density(weighting: Weighting, interpolant: Interpolant, time_sampler: TimeSampler) -> None:
    def integrand(time: float) -> float:
        t = torch.tensor([time], dtype=torch.float64)
        return (weighting.weight(t, interpolant) * time_sampler.density(t, interpolant)).item()

    cuts = [0, 0.25, 0.5, 0.9, 0.99, 0.999, 1]  # inverse_snr has its clamp at 0.999
    integral = sum(quad(integrand, low, high)[0] for low, high in itertools.pairwise(cuts))
    assert weighting.mean(time_sampler, interpolant) == pytest.approx(integral, rel=1e-4)


def linear_model_gradients(interpolant: Interpolant, t: Tensor) -> Tensor:
    """Gradient [n, 3] at time t [n] of the error of v = a x + b t + c on eight fixed pairs."""
    pairs = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0, x1 = pairs.expand(2, len(t), 8)
    xt = interpolant.interpolate(x0, x1, t)
    features = torch.stack([xt, t[:, None].expand_as(xt), torch.ones_like(xt)], -1)
    error = features @ torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64) - interpolant.velocity(x0, x1, t)
    return 2 * (error[..., None] * features).mean(1)


@every_weighting
@every_interpolant
@pytest.mark.parametrize("time_sampler", [Power(p=2), Power(p=0.5)], ids=str)
def test_a_weight_and_a_density_are_interchangeable(weighting: Weighting, interpolant: Interpolant, time_sampler: TimeSampler) -> None:
    """(w, p) and (w p, uniform) have the same expected gradient: the left over quantiles of p, the right over a grid of t = s^4."""
    s = (torch.arange(65_536, dtype=torch.float64) + 0.5) / 65_536
    t = time_sampler.quantile(s, interpolant)
    left = (weighting.weight(t, interpolant)[:, None] * linear_model_gradients(interpolant, t)).mean(0)
    t, dt = s**4, 4 * s**3
    product = weighting.weight(t, interpolant) * time_sampler.density(t, interpolant) * dt
    torch.testing.assert_close(left, (product[:, None] * linear_model_gradients(interpolant, t)).mean(0), rtol=1e-3, atol=1e-5)


@every_weighting
@every_interpolant
def test_no_weight_moves_a_minimum_that_the_model_can_reach(weighting: Weighting, interpolant: Interpolant) -> None:
    """Data N(0, 1/4): the best field is k(t) x. Weighted least squares over k(t) x, x, t and 1 finds it, whatever the weight."""
    z = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(z - z.mean(0)).Q * 32**0.5  # exact moments
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    x0, x1 = (q[:, i].expand(len(t), 32) for i in range(2))
    xt, u = interpolant.interpolate(x0 / 2, x1, t), interpolant.velocity(x0 / 2, x1, t)
    alpha, sigma = interpolant.alpha(t), interpolant.sigma(t)
    k = (interpolant.alpha_dot(t) * alpha / 4 + interpolant.sigma_dot(t) * sigma) / (alpha**2 / 4 + sigma**2)
    features = torch.stack([k[:, None] * xt, xt, t[:, None].expand_as(xt), torch.ones_like(xt)], -1)
    root = weighting.weight(t, interpolant).sqrt()[:, None].expand_as(xt)
    solution = torch.linalg.lstsq((root[..., None] * features).flatten(0, 1), (root * u).flatten()[:, None]).solution
    torch.testing.assert_close(solution.flatten(), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-8)
