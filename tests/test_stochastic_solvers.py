"""Stochastic solvers end in the marginals of the ordinary equation, whatever the diffusion (ORACLES 6)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.solvers import StochasticSolver
from harness.registry import build

MEAN, STD, NUMBER, STEPS = 0.7, 0.5, 20_000, 250
DIFFUSIONS = ["constant", "sigma", "kl", "sin2"]


class GaussianField:
    """Velocity and score of N(m, s^2) data under standard normal noise."""

    def __init__(self, path: Interpolant):
        self.interpolant = path

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.with_score(x, t)[0]

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        path, t = self.interpolant, t[:, None]
        alpha, sigma = path.alpha(t), path.sigma(t)
        centred = (x - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
        return path.alpha_dot(t) * (MEAN + alpha * STD**2 * centred) + path.sigma_dot(t) * sigma * centred, -centred


def draw(solver: StochasticSolver, path: Interpolant, seed: int = 0, steps: int = STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(NUMBER, 1, generator=generator, dtype=torch.float64)
    return solver.integrate(GaussianField(path), x, torch.linspace(1, 0, steps + 1, dtype=torch.float64), generator)


def solver(name: str, **fields: Any) -> StochasticSolver:
    return build("solver", {"name": name, **fields})


@pytest.mark.parametrize("path", ["linear", "gvp", "cosine"])
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
@pytest.mark.parametrize("name", ["euler_maruyama", "heun_sde"])
def test_the_marginal_at_the_data_is_that_of_the_data(name: str, diffusion: str, path: str) -> None:
    """Within four standard errors and 0.01 for 250 steps."""
    x = draw(solver(name, diffusion=diffusion), build("interpolant", path))
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(NUMBER) + 0.01)
    assert x.std().item() == pytest.approx(STD, abs=4 * STD / math.sqrt(2 * NUMBER) + 0.01)


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_the_score_matters(diffusion: str) -> None:
    """Without it the noise that is added stays: the marginal is then too wide, so the test above can fail."""
    field = GaussianField(build("interpolant", "linear"))
    field.with_score = lambda x, t: (GaussianField.with_score(field, x, t)[0], torch.zeros_like(x))  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUMBER, 1, generator=generator, dtype=torch.float64)
    times = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    assert solver("euler_maruyama", diffusion=diffusion).integrate(field, x, times, generator).std() > STD + 0.05


def test_diffusion_coefficients_are_the_formulas() -> None:
    """Ma et al. 2024 (SiT): 1, sigma, KL's 2 (sigma sigma' - alpha' sigma^2 / alpha) = 2 t / (1 - t) on the linear path, sin^2."""
    t, path = torch.linspace(0.01, 0.99, 9, dtype=torch.float64), build("interpolant", "linear")
    expected = {"constant": torch.ones_like(t), "sigma": t, "kl": 2 * t / (1 - t), "sin2": torch.sin(math.pi * t) ** 2}
    for diffusion, value in expected.items():
        torch.testing.assert_close(solver("heun_sde", diffusion=diffusion).coefficient(t, path), value)
        torch.testing.assert_close(solver("heun_sde", diffusion=diffusion, scale=3).coefficient(t, path), 3 * value)


@pytest.mark.parametrize("diffusion", ["sigma", "kl", "sin2"])
def test_coefficients_are_held_outside_their_times(diffusion: str) -> None:
    made, path = solver("euler_maruyama", diffusion=diffusion, t_min=0.02, t_max=0.98), build("interpolant", "gvp")
    at = made.coefficient(torch.tensor([0, 0.02, 0.98, 1], dtype=torch.float64), path)
    assert at.isfinite().all()
    assert at[0] == at[1]
    assert at[2] == at[3]


def test_the_generator_alone_decides() -> None:
    made, path = solver("euler_maruyama"), build("interpolant", "linear")
    assert torch.equal(draw(made, path, 1, 8), draw(made, path, 1, 8))
    assert not torch.equal(draw(made, path, 1, 8), draw(made, path, 2, 8))
    assert not torch.equal(draw(made, path, 1, 8), draw(solver("euler_maruyama", scale=0.1), path, 1, 8))
