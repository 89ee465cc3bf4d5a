"""Paths from data to noise: factors, derivatives and SNR compared with autograd, limits, and the formulas of the
papers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from harness.components.interpolants import (
    DDPM,
    GVP,
    Cosine,
    EDMPath,
    FlowMatchingOT,
    Interpolant,
    LatentDiffusion,
    Linear,
    Polynomial,
    Scaled,
    SubVP,
    VarianceExploding,
    VariancePreserving,
)
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build, names

DEFAULTS: dict[str, Interpolant] = {name: build("interpolant", name) for name in names("interpolant")}
PATHS: dict[str, Interpolant] = DEFAULTS | {
    "vp-0.97": VariancePreserving(t_max=0.97),
    "vp_ddpm-1-10": DDPM(beta_min=1, beta_max=10, t_min=0.02),
    "vp_ddpm-falling": DDPM(beta_min=9, beta_max=2),
    "vp_ddpm-discrete": DDPM(steps=1000),
    "vp_ldm-discrete": LatentDiffusion(steps=30),
    "vp_ldm-even": LatentDiffusion(beta_min=8, beta_max=8),
    "sub_vp-1-10": SubVP(beta_min=1, beta_max=10),
    "edm-5": EDMPath(sigma_max=5),
    "cosine-0.2": Cosine(s=0.2, t_min=0.02),
    "fm_ot-0": FlowMatchingOT(sigma_min=0),
    "fm_ot-0.3": FlowMatchingOT(sigma_min=0.3),
    "polynomial-1": Polynomial(power=1),
    "polynomial-3.5": Polynomial(power=3.5),
    "ve-0.1-5": VarianceExploding(sigma_min=0.1, sigma_max=5),
    "scaled-gvp": Scaled(path=GVP(), std=0.4),
}
CLAMPS = {
    "vp": (0.0, 0.999),
    "vp-0.97": (0.0, 0.97),
    "vp_ddpm": (1e-4, 1.0),
    "vp_ddpm-1-10": (0.02, 1.0),
    "vp_ddpm-falling": (1e-4, 1.0),
    "vp_ldm": (1e-4, 1.0),
    "cosine": (1e-4, 1.0),
    "cosine-0.2": (0.02, 1.0),
}
INSIDE = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
INNER = torch.linspace(0.03, 0.96, 94, dtype=torch.float64)
ELEMENTWISE = ["alpha", "sigma", "alpha_dot", "sigma_dot", "snr", "log_snr", "log_snr_dot"]
every_default = pytest.mark.parametrize("path", DEFAULTS.values(), ids=DEFAULTS)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@dataclass(frozen=True, kw_only=True)
class Bare(Interpolant):
    """Has only alpha and sigma of `path`: everything else comes from the base class."""

    path: Interpolant

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.sigma(t)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return the derivative of an elementwise function, by autograd."""
    t = t.clone().requires_grad_()
    value = function(t)
    return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)


def closed(dtype: torch.dtype) -> Tensor:
    """Return times on [0, 1] with both ends and their floating-point neighbours."""
    zero, one = torch.tensor([0.0, 1.0], dtype=dtype).split(1)
    near = torch.tensor([1e-30, 1e-12, 1e-8, 1e-5, 1 - 1e-5], dtype=dtype)
    return (
        torch.cat(
            [torch.linspace(0, 1, 201, dtype=dtype), near, torch.nextafter(zero, one), torch.nextafter(one, zero)]
        )
        .sort()
        .values
    )


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return x0 and x1 [3, 1, 4, 4] and their times."""
    x0, x1 = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x0, x1, torch.tensor([0.1, 0.5, 0.8], dtype=dtype)


# derivatives, signal-to-noise ratio


@every_path
def test_derivatives_are_those_of_autograd(path: Interpolant) -> None:
    """Between all clamps."""
    for name in ("alpha", "sigma", "log_snr"):
        torch.testing.assert_close(getattr(path, f"{name}_dot")(INNER), derivative(getattr(path, name), INNER))


@pytest.mark.parametrize("name", CLAMPS)
def test_a_clamped_derivative_is_exact_inside_and_constant_beyond(name: str) -> None:
    path = PATHS[name]
    low, high = CLAMPS[name]
    t = torch.cat(
        [
            torch.linspace(low or 1e-6, high, 2001, dtype=torch.float64)[:-1],
            torch.tensor([high - 1e-9], dtype=torch.float64),
        ]
    )
    for factor in ("alpha", "sigma"):
        torch.testing.assert_close(
            getattr(path, f"{factor}_dot")(t), derivative(getattr(path, factor), t), rtol=1e-9, atol=1e-9
        )
    beyond = (
        torch.linspace(0, low, 11, dtype=torch.float64) if low else torch.linspace(high, 1, 11, dtype=torch.float64)
    )
    slope = path.sigma_dot if low else path.alpha_dot
    edge = torch.full_like(beyond, low or high)
    assert torch.equal(slope(beyond), slope(edge))
    assert not torch.allclose(slope(edge), slope(torch.full_like(edge, 2 * low if low else 2 * high - 1)), rtol=1e-3)


@every_path
def test_without_closed_forms_the_base_class_agrees(path: Interpolant) -> None:
    """Derivatives by autograd, also inside no_grad, and times by bisection."""
    bare = Bare(path=path)
    with torch.no_grad():
        for name in ("alpha_dot", "sigma_dot", "snr", "log_snr", "log_snr_dot"):
            torch.testing.assert_close(getattr(bare, name)(INNER), getattr(path, name)(INNER))
            assert not getattr(bare, name)(INNER).requires_grad
    low, high = (path.log_snr(torch.tensor(end, dtype=torch.float64)).clamp(-25, 25) for end in (1.0, 0.0))
    ratios = torch.linspace(low.item() - 3, high.item() + 3, 301, dtype=torch.float64)
    torch.testing.assert_close(bare.time_of_log_snr(ratios), path.time_of_log_snr(ratios), rtol=0, atol=1e-9)


@every_path
def test_the_default_keeps_the_callers_gradient(path: Interpolant) -> None:
    t = torch.tensor([0.3, 0.6], requires_grad=True)
    Bare(path=path).alpha_dot(t)
    assert t.grad is None
    assert t.requires_grad


@every_path
@both_dtypes
def test_the_time_of_a_log_snr_is_its_inverse(path: Interpolant, dtype: torch.dtype) -> None:
    """At every time where log SNR is finite, the neighbours of both ends included."""
    t = closed(dtype)
    ratios = path.log_snr(t)
    known = ratios.isfinite()
    assert known.sum() > 200
    found = path.time_of_log_snr(ratios[known])
    assert found.dtype == dtype
    torch.testing.assert_close(found, t[known], rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)
    u = torch.linspace(0.001, 0.2, 100, dtype=dtype)  # and near the data, to many digits
    if path.sigma(torch.zeros(1, dtype=dtype)) == 0:
        torch.testing.assert_close(
            path.time_of_log_snr(path.log_snr(u)), u, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0
        )


@every_path
@both_dtypes
def test_a_ratio_that_the_path_does_not_have_is_an_end(path: Interpolant, dtype: torch.dtype) -> None:
    """0 above the largest log SNR and 1 below the smallest."""
    for end, sign in ((0.0, 1), (1.0, -1)):
        limit = path.log_snr(torch.tensor(end, dtype=dtype))
        ratios = sign * torch.tensor([80.0, 1000.0], dtype=dtype)
        ratios = torch.cat([ratios, (limit + sign).view(1)]) if limit.isfinite() else ratios
        torch.testing.assert_close(path.time_of_log_snr(ratios), torch.full_like(ratios, end), rtol=0, atol=1e-4)


@every_path
@both_dtypes
def test_an_infinite_ratio_is_an_end(path: Interpolant, dtype: torch.dtype) -> None:
    ends = torch.tensor([math.inf, -math.inf], dtype=dtype)
    torch.testing.assert_close(path.time_of_log_snr(ends), torch.tensor([0.0, 1.0], dtype=dtype), rtol=0, atol=1e-12)


@every_path
def test_the_signal_to_noise_ratio_is_that_of_the_factors(path: Interpolant) -> None:
    ratio = path.alpha(INSIDE) ** 2 / path.sigma(INSIDE) ** 2
    torch.testing.assert_close(path.snr(INSIDE), ratio)
    torch.testing.assert_close(path.log_snr(INSIDE), ratio.log())
    assert (path.log_snr_dot(INSIDE) < 0).all()


# limits


@every_path
@both_dtypes
def test_everything_is_finite_on_the_closed_interval(path: Interpolant, dtype: torch.dtype) -> None:
    """Log SNR is infinite only where alpha or sigma is zero, with the right sign."""
    t = closed(dtype)
    for name in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        assert getattr(path, name)(t).isfinite().all(), name
    alpha = path.alpha(t)
    sigma = path.sigma(t)
    ratio = path.log_snr(t)
    assert not ratio.isnan().any()
    assert torch.equal(ratio == math.inf, sigma == 0)
    assert torch.equal(ratio == -math.inf, alpha == 0)


@every_path
@both_dtypes
def test_alpha_falls_and_sigma_rises(path: Interpolant, dtype: torch.dtype) -> None:
    """Up to rounding; strictly if times are farther apart; alpha of `ve` and `edm` is constant."""
    t = torch.linspace(0, 1, 10_001, dtype=dtype)
    rounding = 2 * torch.finfo(dtype).eps * path.sigma(t[-1:]).clamp(min=1)
    assert (path.alpha(t).diff() <= rounding).all()
    assert (path.sigma(t).diff() >= -rounding).all()
    assert (path.log_snr(t[1:-1]).diff() < 0).all()
    coarse = torch.linspace(0, 1, 101, dtype=dtype)
    assert (path.sigma(coarse).diff() > 0).all()
    assert (path.alpha(coarse).diff() < 0).all() or path.name in ("ve", "edm")
    assert (path.alpha_dot(t) <= 0).all()
    assert (path.sigma_dot(t) >= 0).all()


def ldm_end() -> float:
    """alpha(1) of latent diffusion: the integral of (a + (b - a) t)^2 is (b^3 - a^3) / (3 (b - a))."""
    a, b = math.sqrt(0.85), math.sqrt(12)
    return math.exp(-(b**3 - a**3) / (3 * (b - a)) / 2)


ENDS = {
    "linear": (1, 0, 0, 1),
    "vp": (1, 0, 0, 1),
    "gvp": (1, 0, 0, 1),
    "vp_ddpm": (1, 0, math.exp(-10.05 / 2), math.sqrt(1 - math.exp(-10.05))),
    "vp_ldm": (1, 0, ldm_end(), math.sqrt(1 - ldm_end() ** 2)),
    "sub_vp": (1, 0, math.exp(-10.05 / 2), 1 - math.exp(-10.05)),
    "cosine": (1, 0, 0, 1),
    "edm": (1, 0, 1, 80),
    "fm_ot": (1, 1e-4, 0, 1),
    "polynomial": (1, 0, 0, 1),
    "ve": (1, 0.01, 1, 50),
}


@every_default
def test_where_the_path_begins_and_ends(path: Interpolant) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = torch.stack([path.alpha(ends), path.sigma(ends)], 1).flatten()
    torch.testing.assert_close(found, torch.tensor(ENDS[path.name], dtype=torch.float64), rtol=1e-12, atol=0)


# shapes, types, digits


@every_path
def test_times_of_any_shape(path: Interpolant) -> None:
    for shape, dtype in itertools.product([(), (5,), (0,), (2, 3), (4, 1, 1)], [torch.float32, torch.float64]):
        t = (0.1 + 0.8 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).to(dtype)
        for member, name in itertools.product((path, Bare(path=path)), [*ELEMENTWISE, "time_of_log_snr"]):
            result = getattr(member, name)(t)
            flat = getattr(member, name)(t.flatten())
            assert (result.shape, result.dtype) == (t.shape, dtype), name
            torch.testing.assert_close(result.flatten(), flat, msg=partial("{}: {}".format, (name, shape)))


@every_path
def test_single_precision_keeps_its_digits(path: Interpolant) -> None:
    """Relative to each value, even a tiny one: differences of nearly equal numbers would lose digits."""
    t = torch.cat([torch.logspace(-6, -0.01, 200), 1 - torch.logspace(-6, -0.01, 200)])
    for name in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        torch.testing.assert_close(
            getattr(path, name)(t).double(), getattr(path, name)(t.double()), rtol=2e-5, atol=0, msg=name
        )
    torch.testing.assert_close(path.log_snr(t).double(), path.log_snr(t.double()), rtol=2e-6, atol=2e-5)


@every_path
@both_dtypes
def test_states_and_velocities_are_made_of_the_factors(path: Interpolant, dtype: torch.dtype) -> None:
    """Each sample has a different time."""
    x0, x1, t = batch(dtype)
    state = path.interpolate(x0, x1, t)
    velocity = path.velocity(x0, x1, t)
    assert (state.shape, state.dtype, velocity.shape, velocity.dtype) == (x0.shape, dtype, x0.shape, dtype)
    for i, time in enumerate(t):
        torch.testing.assert_close(state[i], path.alpha(time) * x0[i] + path.sigma(time) * x1[i])
        torch.testing.assert_close(velocity[i], path.alpha_dot(time) * x0[i] + path.sigma_dot(time) * x1[i])
    for end in (0.0, 1.0):
        assert path.interpolate(x0, x1, torch.full_like(t, end)).isfinite().all()
        assert path.velocity(x0, x1, torch.full_like(t, end)).isfinite().all()


@every_path
def test_the_velocity_is_the_derivative_of_the_state(path: Interpolant) -> None:
    x0, x1, t = batch()
    _, moved = torch.autograd.functional.jvp(lambda t: path.interpolate(x0, x1, t), t, torch.ones_like(t))
    torch.testing.assert_close(path.velocity(x0, x1, t), moved)


# Errors


@every_path
def test_a_time_outside_is_refused(path: Interpolant) -> None:
    for method, wrong in itertools.product(
        ["interpolate", "velocity"], [-0.25, -1e-6, 1.5, 1 + 1e-6, math.nan, math.inf]
    ):
        x0, x1, t = batch()
        t[1] = wrong
        with pytest.raises(UserError) as caught:
            getattr(path, method)(x0, x1, t)
        assert (
            str(caught.value) == f"t: {wrong:g} is outside [0, 1]. Times run from 0 at the data to 1 at the noise."
        ), method
    x0, x1, t = batch()
    assert path.interpolate(x0[:0], x1[:0], t[:0]).shape == x0[:0].shape


@pytest.mark.parametrize(("low", "high"), [(50.0, 50.0), (60.0, 50.0), (0.01, 0.001)])
def test_ve_needs_noise_that_grows(low: float, high: float) -> None:
    with pytest.raises(ConfigError) as caught:
        VarianceExploding(sigma_min=low, sigma_max=high)
    assert str(caught.value) == f"sigma_min: {low:g} is not below sigma_max, {high:g}. Choose a smaller one."
    assert VarianceExploding(sigma_min=high / 2, sigma_max=high).sigma_max == high


# noise of another variance


@every_default
@pytest.mark.parametrize("std", [0.3, 2.5])
def test_scaled_noise_lowers_log_snr(path: Interpolant, std: float) -> None:
    scaled = Scaled(path=path, std=std)
    torch.testing.assert_close(scaled.log_snr(INSIDE), path.log_snr(INSIDE) - 2 * math.log(std))
    torch.testing.assert_close(scaled.log_snr_dot(INSIDE), path.log_snr_dot(INSIDE))
    torch.testing.assert_close(scaled.time_of_log_snr(scaled.log_snr(INSIDE)), INSIDE)
    x0, x1, t = batch()
    torch.testing.assert_close(scaled.interpolate(x0, x1, t), path.interpolate(x0, std * x1, t))
    torch.testing.assert_close(scaled.velocity(x0, x1, t), path.velocity(x0, std * x1, t))


# The papers' formulas, with their direction of time

Factors = tuple[Tensor, Tensor, Tensor, Tensor]


def sit_linear(t: Tensor) -> Factors:
    """SiT's ICPlan: alpha, sigma and their derivatives in SiT's time, which is 1 at the data."""
    return t, 1 - t, torch.ones_like(t), -torch.ones_like(t)


def sit_gvp(t: Tensor) -> Factors:
    """SiT's GVPCPlan."""
    angle = t * math.pi / 2
    return torch.sin(angle), torch.cos(angle), math.pi / 2 * torch.cos(angle), -math.pi / 2 * torch.sin(angle)


def sit_vp(t: Tensor) -> Factors:
    """SiT's VPCPlan, with its sigma_min 0.1 and sigma_max 20."""
    low = 0.1
    high = 20.0
    log_mean = -0.25 * (1 - t) ** 2 * (high - low) - 0.5 * (1 - t) * low
    slope = 0.5 * (1 - t) * (high - low) + 0.5 * low
    alpha = torch.exp(log_mean)
    sigma = torch.sqrt(1 - torch.exp(2 * log_mean))
    return alpha, sigma, alpha * slope, torch.exp(2 * log_mean) * 2 * slope / (-2 * sigma)


@pytest.mark.parametrize(
    ("path", "plan"), [(Linear(), sit_linear), (GVP(), sit_gvp), (DDPM(), sit_vp)], ids=["linear", "gvp", "vp_ddpm"]
)
def test_parity_with_sit(path: Interpolant, plan: Callable[[Tensor], Factors]) -> None:
    alpha, sigma, alpha_dot, sigma_dot = plan(1 - INSIDE)
    for ours, theirs in (
        (path.alpha, alpha),
        (path.sigma, sigma),
        (path.alpha_dot, -alpha_dot),
        (path.sigma_dot, -sigma_dot),
    ):
        torch.testing.assert_close(ours(INSIDE), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("s", [0.008, 0.2])
def test_parity_with_improved_ddpm(s: float) -> None:
    """alpha_bar = f(t) / f(0) with f = cos^2((t + s) / (1 + s) pi / 2), which is alpha^2."""
    f = [torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2 for t in (INSIDE, torch.zeros_like(INSIDE))]
    alpha_bar = f[0] / f[1]
    torch.testing.assert_close(Cosine(s=s).alpha(INSIDE).square(), alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(Cosine(s=s).sigma(INSIDE).square(), 1 - alpha_bar, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("low", "high"), [(0.01, 50.0), (0.1, 5.0)])
def test_parity_with_songs_variance_exploding(low: float, high: float) -> None:
    """sigma = low (high / low)^t, and the SDE's g^2 = d sigma^2 / dt = sigma^2 2 log(high / low)."""
    path = VarianceExploding(sigma_min=low, sigma_max=high)
    sigma = low * (high / low) ** INSIDE
    torch.testing.assert_close(path.sigma(INSIDE), sigma)
    torch.testing.assert_close(2 * path.sigma(INSIDE) * path.sigma_dot(INSIDE), sigma**2 * 2 * math.log(high / low))
    assert torch.equal(path.alpha(INSIDE), torch.ones_like(INSIDE))


@pytest.mark.parametrize("sigma_min", [0.0, 1e-4, 0.3])
def test_parity_with_lipmans_optimal_transport(sigma_min: float) -> None:
    """Their eq. 20 and 21 at s = 1 - t: mu = s x1, sigma = 1 - (1 - sigma_min) s, u = (x1 - (1 -
    sigma_min) x) / sigma.
    """
    path = FlowMatchingOT(sigma_min=sigma_min)
    data, noise, t = batch()
    s = 1 - t[:, None, None, None]
    sigma = 1 - (1 - sigma_min) * s
    x = s * data + sigma * noise
    torch.testing.assert_close(path.interpolate(data, noise, t), x)
    torch.testing.assert_close(path.velocity(data, noise, t), -(data - (1 - sigma_min) * x) / sigma)


@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (1.0, 10.0), (9.0, 2.0)])
def test_parity_with_songs_variance_preserving(low: float, high: float) -> None:
    """alpha = exp(-1/2 of the integral of beta), here a sum; the SDE's beta is -2 alpha' / alpha and 2 sigma sigma' /
    alpha^2.
    """
    path = DDPM(beta_min=low, beta_max=high)
    n = 2000
    middles = INSIDE[:, None] * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    integral = INSIDE * (low + (high - low) * middles).mean(1)
    torch.testing.assert_close(path.alpha(INSIDE), torch.exp(-integral / 2), rtol=1e-10, atol=0)
    torch.testing.assert_close(path.sigma(INSIDE), torch.sqrt(1 - torch.exp(-integral)), rtol=1e-10, atol=0)
    beta = low + (high - low) * INSIDE
    torch.testing.assert_close(-2 * path.alpha_dot(INSIDE) / path.alpha(INSIDE), beta)
    torch.testing.assert_close(2 * path.sigma(INSIDE) * path.sigma_dot(INSIDE) / path.alpha(INSIDE).square(), beta)


def test_variance_preserving_paths_preserve_it() -> None:
    for name in ("vp", "vp-0.97", "gvp", "vp_ddpm", "vp_ddpm-1-10", "cosine", "cosine-0.2"):
        total = PATHS[name].alpha(INSIDE).square() + PATHS[name].sigma(INSIDE).square()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0, msg=name)
    assert torch.equal(VariancePreserving().sigma(INSIDE), INSIDE)


def test_polynomial_is_linear_at_another_time() -> None:
    for power in (1.0, 2.0, 3.5):
        path = Polynomial(power=power)
        s = 1 - (1 - INSIDE) ** power
        torch.testing.assert_close(path.alpha(INSIDE), Linear().alpha(s))
        torch.testing.assert_close(path.sigma(INSIDE), Linear().sigma(s))


def test_every_interpolant_is_tested_here() -> None:
    assert set(ENDS) == set(names("interpolant"))
    clamped = {name.split("-")[0] for name in CLAMPS}
    assert clamped == {name for name, path in DEFAULTS.items() if {"t_min", "t_max"} & set(vars(path))}


def test_parity_with_songs_sub_vp() -> None:
    """Their eq. 29: mean exp(-B / 2) x0, standard deviation 1 - exp(-B)."""
    integral = 0.1 * INSIDE + (20 - 0.1) * INSIDE**2 / 2
    torch.testing.assert_close(SubVP().alpha(INSIDE), torch.exp(-integral / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(SubVP().sigma(INSIDE), 1 - torch.exp(-integral), rtol=1e-12, atol=0)


BETAS = {
    "ddpm": (DDPM(steps=1000), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "ldm": (LatentDiffusion(steps=1000), torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2),
}


@pytest.mark.parametrize(("path", "betas"), BETAS.values(), ids=BETAS)
def test_parity_with_the_discrete_schedules(path: Interpolant, betas: Tensor) -> None:
    """alpha_bar_i, the product of 1 - beta up to step i, at t = (i + 1) / 1000."""
    alpha_bar = (1 - betas).cumprod(0)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(path.alpha(t).square(), alpha_bar, rtol=1e-10, atol=0)
    torch.testing.assert_close(path.time_of_log_snr((alpha_bar / (1 - alpha_bar)).log()), t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("path", [DDPM(), LatentDiffusion()], ids=["ddpm", "ldm"])
def test_many_steps_approach_the_path_without_steps(path: DDPM | LatentDiffusion) -> None:
    """The sum of -log(1 - beta / N) is the integral of beta plus the integral of beta^2 / 2 N."""
    errors = [
        (path.log_snr(INSIDE) - dataclasses.replace(path, steps=n).log_snr(INSIDE)).abs().max() for n in (1000, 10_000)
    ]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_a_discrete_schedule_needs_steps_that_leave_some_signal() -> None:
    with pytest.raises(ConfigError, match=r"^steps: 20 steps of beta / 20 >= 1\. Use more than 20\.$"):
        DDPM(steps=20)
