"""Paths from data to noise, held against the exact field of Gaussian data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.components.interpolants import Interpolant, VariancePreserving
from harness.components.solvers import Heun
from harness.registry import build, names

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
INSIDE = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
T_MAX = 0.999
every_interpolant = pytest.mark.parametrize("interpolant", [build("interpolant", name) for name in names("interpolant")], ids=str)


def draws() -> tuple[Tensor, Tensor]:
    """Data of N(MEAN, COVARIANCE) and standard normal noise [64, 2], independent: their sample moments are exact."""
    z = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T.cov(correction=0)), z.T, upper=False).T
    return MEAN + z[:, :2] @ torch.linalg.cholesky(COVARIANCE).T, z[:, 2:]


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Of an elementwise function, by autograd."""
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


def exact_field(interpolant: Interpolant, t: Tensor) -> tuple[Tensor, Tensor]:
    """Slope A and offset b of E[u_t | x_t = x] = A x + b; derivatives by autograd, up to T_MAX where vp's has no bound."""
    alpha, sigma, eye = interpolant.alpha(t), interpolant.sigma(t), torch.eye(2, dtype=torch.float64)
    alpha_dot, sigma_dot = (derivative(f, t.clamp(max=T_MAX)) for f in (interpolant.alpha, interpolant.sigma))
    with_x = alpha_dot * alpha * COVARIANCE + sigma_dot * sigma * eye
    slope = with_x @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * eye)
    return slope, alpha_dot * MEAN - slope @ (alpha * MEAN)


@every_interpolant
def test_the_exact_field_carries_noise_to_data(interpolant: Interpolant) -> None:
    """The flow is affine, so exact moments of the noise must become those of the data, up to the solver and the clamp."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        slope, offset = exact_field(interpolant, t[0])
        return x @ slope.T + offset

    x0 = Heun().integrate(field, draws()[1], nfe=2000)
    clamped = isinstance(interpolant, VariancePreserving)  # part of the mean's way is lost between T_MAX and 1
    torch.testing.assert_close(x0.mean(0), MEAN, rtol=0, atol=1e-2 if clamped else 1e-5)
    torch.testing.assert_close(x0.T.cov(correction=0), COVARIANCE, rtol=0, atol=1e-3 if clamped else 1e-5)


@every_interpolant
@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_velocities_regress_to_the_exact_field(interpolant: Interpolant, time: float) -> None:
    """Least squares of u_t on x_t, whose minimiser flow matching learns, gives the closed form."""
    x0, x1 = draws()
    t = torch.full((64,), time, dtype=torch.float64)
    design = torch.cat([interpolant.interpolate(x0, x1, t), torch.ones(64, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, interpolant.velocity(x0, x1, t)).solution
    slope, offset = exact_field(interpolant, t[0])
    torch.testing.assert_close(solution, torch.cat([slope.T, offset[None]]))


@every_interpolant
def test_derivatives_are_those_of_autograd(interpolant: Interpolant) -> None:
    torch.testing.assert_close(interpolant.alpha_dot(INSIDE), derivative(interpolant.alpha, INSIDE))
    torch.testing.assert_close(interpolant.sigma_dot(INSIDE), derivative(interpolant.sigma, INSIDE))


@every_interpolant
def test_the_path_runs_from_data_to_noise(interpolant: Interpolant) -> None:
    x0, x1 = draws()
    assert torch.equal(interpolant.interpolate(x0, x1, torch.zeros(64, dtype=torch.float64)), x0)
    assert torch.equal(interpolant.interpolate(x0, x1, torch.ones(64, dtype=torch.float64)), x1)


@every_interpolant
def test_signal_to_noise_falls_and_is_the_ratio_of_variances(interpolant: Interpolant) -> None:
    snr = interpolant.snr(INSIDE)
    torch.testing.assert_close(snr, interpolant.alpha(INSIDE) ** 2 / interpolant.sigma(INSIDE) ** 2)
    torch.testing.assert_close(interpolant.log_snr(INSIDE), snr.log())
    assert snr.isfinite().all()
    assert (snr.diff() < 0).all()


@every_interpolant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types_are_kept_and_both_ends_are_finite(interpolant: Interpolant, dtype: torch.dtype) -> None:
    t = torch.tensor([0, 0.3, 1], dtype=dtype)
    x0, x1 = torch.randn(2, 3, 1, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    results: list[tuple[Callable[..., Tensor], tuple[Tensor, ...], torch.Size]] = [
        (interpolant.interpolate, (x0, x1, t), x0.shape),
        (interpolant.velocity, (x0, x1, t), x0.shape),
        *((f, (t,), t.shape) for f in (interpolant.alpha, interpolant.sigma, interpolant.alpha_dot, interpolant.sigma_dot)),
    ]
    for function, arguments, shape in results:
        result = function(*arguments)
        assert (result.shape, result.dtype) == (shape, dtype), function
        assert result.isfinite().all(), function
    one = interpolant.velocity(x0[1:2], x1[1:2], t[1:2])
    torch.testing.assert_close(interpolant.velocity(x0, x1, t)[1:2], one)  # each sample has its own time


@pytest.mark.parametrize("t_max", [0.97, 0.999])
def test_vp_holds_its_derivative_above_t_max(t_max: float) -> None:
    vp = VariancePreserving(t_max=t_max)
    t = torch.tensor([t_max - 1e-3, t_max, (1 + t_max) / 2, 1], dtype=torch.float64)
    expected = [-s / (1 - s * s) ** 0.5 for s in (t_max - 1e-3, t_max, t_max, t_max)]
    torch.testing.assert_close(vp.alpha_dot(t), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(vp.alpha(t).square() + vp.sigma(t).square(), torch.ones_like(t))
