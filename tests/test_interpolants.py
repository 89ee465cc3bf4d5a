"""Paths from data to noise: derivatives, inverses, ends, clamps, and the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.interpolants import DDPM, Cosine, Interpolant, Scaled, VarianceExploding, VariancePreserving
from harness.errors import ConfigError, UserError
from harness.registry import build, names

INSIDE = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
ALL = torch.linspace(0, 1, 501, dtype=torch.float64)
every_interpolant = pytest.mark.parametrize("path", [build("interpolant", name) for name in names("interpolant")], ids=str)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Of an elementwise function, by autograd."""
    t = t.clone().requires_grad_()
    value = function(t)
    return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)


@every_interpolant
def test_derivatives_are_those_of_autograd(path: Interpolant) -> None:
    torch.testing.assert_close(path.alpha_dot(INSIDE), derivative(path.alpha, INSIDE))
    torch.testing.assert_close(path.sigma_dot(INSIDE), derivative(path.sigma, INSIDE))
    torch.testing.assert_close(path.log_snr_dot(INSIDE), derivative(path.log_snr, INSIDE))


@every_interpolant
def test_time_of_log_snr_inverts_log_snr(path: Interpolant) -> None:
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(INSIDE)), INSIDE, rtol=0, atol=1e-12)
    beyond = path.time_of_log_snr(torch.tensor([200.0, -200.0], dtype=torch.float64))
    torch.testing.assert_close(beyond, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


@every_interpolant
def test_alpha_falls_and_sigma_rises(path: Interpolant) -> None:
    assert (path.alpha(ALL).diff() <= 0).all()
    assert (path.sigma(ALL).diff() > 0).all()
    assert (path.log_snr(ALL).diff() < 0).all()
    torch.testing.assert_close(path.snr(INSIDE).log(), path.log_snr(INSIDE))


ENDS = {  # alpha(0), sigma(0), alpha(1), sigma(1)
    "fm_ot": (1, 1e-4, 0, 1),
    "vp_ddpm": (1, 0, math.exp(-0.25 * 19.9 - 0.05), math.sqrt(1 - math.exp(-0.5 * 19.9 - 0.1))),
    "ve": (1, 0.01, 1, 50),
}


@every_interpolant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_data_and_noise(path: Interpolant, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    values = torch.stack([path.alpha(t), path.sigma(t)], dim=1).flatten()
    expected = torch.tensor(ENDS.get(path.name, (1, 0, 0, 1)), dtype=dtype)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)  # a zero is exactly zero


@every_interpolant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_finite_and_keeps_shape_and_dtype(path: Interpolant, dtype: torch.dtype) -> None:
    t = torch.tensor([[0, 1e-7, 0.3], [0.7, 1 - 1e-7, 1]], dtype=dtype)
    for function in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot):
        value = function(t)
        assert (value.shape, value.dtype) == (t.shape, dtype)
        assert value.isfinite().all()
    log_snr = path.log_snr(t)
    assert torch.equal(log_snr.isfinite(), (path.alpha(t) > 0) & (path.sigma(t) > 0))


@every_interpolant
def test_each_sample_has_its_own_time(path: Interpolant) -> None:
    t = torch.tensor([0.0, 0.3, 1.0])
    x0, x1 = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for function in (path.interpolate, path.velocity):
        whole = function(x0, x1, t)
        assert whole.shape == x0.shape
        for i in range(3):
            torch.testing.assert_close(whole[i : i + 1], function(x0[i : i + 1], x1[i : i + 1], t[i : i + 1]))


@pytest.mark.parametrize("t_max", [0.97, 0.999])
def test_vp_holds_its_derivative_above_t_max(t_max: float) -> None:
    vp = VariancePreserving(t_max=t_max)
    t = torch.tensor([t_max - 1e-3, t_max, (1 + t_max) / 2, 1], dtype=torch.float64)
    expected = [-s / (1 - s * s) ** 0.5 for s in (t_max - 1e-3, t_max, t_max, t_max)]
    torch.testing.assert_close(vp.alpha_dot(t), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(vp.alpha(t).square() + vp.sigma(t).square(), torch.ones_like(t))


@pytest.mark.parametrize("path", [DDPM(t_min=0.01), Cosine(t_min=0.01), DDPM(t_min=1e-3), Cosine(t_min=1e-3)], ids=str)
def test_sigma_dot_is_held_below_t_min(path: Any) -> None:
    held = derivative(path.sigma, torch.tensor([path.t_min], dtype=torch.float64))
    below = torch.tensor([0, path.t_min / 2, path.t_min], dtype=torch.float64)
    torch.testing.assert_close(path.sigma_dot(below), held.expand(3))
    above = below[1:] + path.t_min
    torch.testing.assert_close(path.sigma_dot(above), derivative(path.sigma, above))


def ddpm_alpha(t: Tensor) -> Tensor:
    """exp of minus half the integral of beta, which rises from 0.1 to 20 (SiT's VP path; Song et al. 2021)."""
    steps = 20_000
    grid = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return torch.stack([torch.exp(-0.5 * (0.1 + 19.9 * grid * s).mean() * s) for s in t])


FORMULAS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "linear": lambda t: (1 - t, t),
    "gvp": lambda t: (torch.cos(math.pi * t / 2), torch.sin(math.pi * t / 2)),
    "vp": lambda t: ((1 - t**2).sqrt(), t),
    "vp_ddpm": lambda t: (ddpm_alpha(t), (1 - ddpm_alpha(t) ** 2).sqrt()),
    "cosine": lambda t: (
        torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2),
        (1 - (torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2).sqrt(),
    ),
    "fm_ot": lambda t: (1 - t, 1 - (1 - 1e-4) * (1 - t)),  # Lipman et al., eq. 20, with their time reversed
    "polynomial": lambda t: ((1 - t) ** 2, 1 - (1 - t) ** 2),
    "ve": lambda t: (torch.ones_like(t), 0.01 * (50 / 0.01) ** t),
}


@every_interpolant
def test_the_formulas_of_the_papers(path: Interpolant) -> None:
    alpha, sigma = FORMULAS[path.name](INSIDE)
    torch.testing.assert_close(path.alpha(INSIDE), alpha, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.sigma(INSIDE), sigma, rtol=1e-8, atol=1e-8)


@dataclass(frozen=True, kw_only=True)
class Bare(Interpolant):
    """Another path's alpha and sigma, and nothing else: all that a plugin must give."""

    path: Interpolant

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.sigma(t)


@every_interpolant
def test_alpha_and_sigma_are_enough(path: Interpolant) -> None:
    """Derivatives by autograd and inversion by bisection agree with the closed forms, under no_grad as well."""
    bare = Bare(path=path)
    with torch.no_grad():
        torch.testing.assert_close(bare.alpha_dot(INSIDE), path.alpha_dot(INSIDE))
        torch.testing.assert_close(bare.sigma_dot(INSIDE), path.sigma_dot(INSIDE))
        torch.testing.assert_close(bare.time_of_log_snr(path.log_snr(INSIDE)), INSIDE, rtol=0, atol=1e-12)


@every_interpolant
def test_a_wider_noise_lowers_the_signal_to_noise_ratio(path: Interpolant) -> None:
    scaled = Scaled(path=path, std=3.0)
    torch.testing.assert_close(scaled.log_snr(INSIDE), path.log_snr(INSIDE) - 2 * math.log(3))
    torch.testing.assert_close(scaled.time_of_log_snr(scaled.log_snr(INSIDE)), INSIDE, rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled.sigma_dot(INSIDE), derivative(scaled.sigma, INSIDE))
    torch.testing.assert_close(scaled.alpha_dot(INSIDE), path.alpha_dot(INSIDE))


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
@pytest.mark.parametrize("method", ["interpolate", "velocity"])
def test_a_time_outside_the_path_is_named(method: str, wrong: float) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(UserError, match=rf"^t: {wrong:g} is outside \[0, 1\]. Times run from 0 at the data to 1 at the noise.$"):
        getattr(build("interpolant", "linear"), method)(x, x, torch.tensor([0.5, wrong]))


def test_ve_needs_room_between_its_ends() -> None:
    with pytest.raises(ConfigError, match=r"^sigma_min: 5 is not below sigma_max, 2. Choose a smaller one.$"):
        VarianceExploding(sigma_min=5, sigma_max=2)
