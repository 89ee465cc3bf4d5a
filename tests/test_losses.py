"""Error measures: their formulas, their limits and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from typed import tensor

from harness.components.losses import MSE, Loss, PseudoHuber
from harness.core.errors import ConfigError
from harness.core.registry import build, names

LOSSES = {name: build("loss", name) for name in names("loss")} | {"pseudo_huber-1": PseudoHuber(c=1.0)}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def errors(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_mse_is_the_mean_square_of_a_sample() -> None:
    e = errors(6, 3, 4)
    expected = [np.mean(row**2) for row in e.numpy()]
    np.testing.assert_allclose(MSE().measure(e), expected)


@pytest.mark.parametrize("c", [0.00054, 0.03, 2.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_pseudo_huber_is_its_formula(c: float, scale: float) -> None:
    e = errors(6, 3, 4, scale=scale)
    expected = [math.sqrt(np.mean(row**2) + c**2) - c for row in e.numpy()]
    np.testing.assert_allclose(PseudoHuber(c=c).measure(e), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3 * 32 * 32,), (3, 8, 8), (2,)], ids=str)
def test_pseudo_huber_is_song_and_dhariwals_over_sqrt_d(shape: tuple[int, ...]) -> None:
    """sqrt(|e|^2 + c^2) - c with c = 0.00054 sqrt(d) (2024, eq. 8)."""
    d = math.prod(shape)
    e = errors(5, *shape, scale=1e-3)
    c = 0.00054 * math.sqrt(d)
    theirs = (e.flatten(1).norm(dim=1) ** 2 + c**2).sqrt() - c
    torch.testing.assert_close(PseudoHuber().measure(e), theirs / math.sqrt(d))


@pytest.mark.parametrize("c", [0.00054, 0.5])
def test_pseudo_huber_is_quadratic_for_small_errors_and_linear_for_large(c: float) -> None:
    e = errors(8, 16)
    e = e / e.square().mean(1, keepdim=True).sqrt()  # root mean square 1
    small = 1e-3 * c
    large = 1e4 * c
    torch.testing.assert_close(
        PseudoHuber(c=c).measure(small * e), MSE().measure(small * e) / (2 * c), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        PseudoHuber(c=c).measure(large * e), torch.full((8,), large - c, dtype=torch.float64), rtol=1e-7, atol=0
    )
    doubled = PseudoHuber(c=c).measure(2 * large * e) / PseudoHuber(c=c).measure(large * e)
    torch.testing.assert_close(doubled, torch.full_like(doubled, 2), rtol=1e-3, atol=0)


@every_loss
def test_one_number_per_sample_that_depends_on_no_other(loss: Loss) -> None:
    e = errors(5, 2, 3)
    measured = loss.measure(e)
    assert measured.shape == (5,)
    assert (measured > 0).all()
    torch.testing.assert_close(torch.cat([loss.measure(row[None]) for row in e]), measured)
    torch.testing.assert_close(loss.measure(-e), measured)
    torch.testing.assert_close(loss.measure(e.reshape(5, 6)), measured)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_error_has_no_loss_and_no_gradient(loss: Loss, dtype: torch.dtype) -> None:
    e = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    measured = loss.measure(e)
    measured.sum().backward()
    assert measured.dtype == dtype
    assert torch.equal(measured, torch.zeros(4, dtype=dtype))
    assert torch.equal(tensor(e.grad), torch.zeros_like(e))


@every_loss
@pytest.mark.parametrize("size", [1e-8, 1e-3, 1.0, 1e6])
def test_gradients_are_finite_and_point_along_the_error(loss: Loss, size: float) -> None:
    e = (size * errors(4, 3)).float().requires_grad_()
    loss.measure(e).sum().backward()
    assert tensor(e.grad).isfinite().all()
    gradient, error = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (tensor(e.grad), e.detach()))
    torch.testing.assert_close(gradient, error, rtol=1e-5, atol=1e-6)


def test_pseudo_huber_bounds_the_gradient_of_an_outlier() -> None:
    """d loss / d e has norm at most 1 / sqrt(d), for any error; for the mean square, the norm has no bound."""
    pulls = []
    for loss in (PseudoHuber(), MSE()):
        e = (1e3 * errors(4, 16)).requires_grad_()
        loss.measure(e).sum().backward()
        pulls.append(tensor(e.grad).norm(dim=1))
    assert (pulls[0] <= 0.25).all()
    assert (pulls[1] > 100).all()


@every_loss
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    assert torch.autograd.gradcheck(loss.measure, errors(3, 4).requires_grad_())


@pytest.mark.parametrize("c", [0, -1.0])
def test_pseudo_huber_needs_a_positive_c(c: float) -> None:
    with pytest.raises(ConfigError, match=r"^c: "):
        PseudoHuber(c=c)
