"""Published recipes as a whole, against their equations written out in the papers' own variables."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from harness.components.noises import Gaussian
from harness.core.errors import ConfigError
from harness.core.rng import Streams, stream
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.training.config import TrainConfig

# EDM (Karras et al. 2022)

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0
EDM = Formulation.parse(
    {
        "interpolant": "edm",
        "prediction": {"name": "edm", "time": "log_sigma", "t_min": SIGMA_MIN / SIGMA_MAX, "t_max": 1.0},
        "weighting": {"name": "edm", "t_min": 1e-6},
        "time_sampler": "edm_lognormal",
        "objective": {"space": "data", "normalise_weight": False},
    }
)


class F(nn.Module):
    """A network that depends on its input and on the number that it receives as the time."""

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.tanh(x.flip(1) + 3 * c_noise[:, None]) + 0.3 * x


def denoised(x: Tensor, sigma: Tensor) -> Tensor:
    """D(x; sigma): their eq. 7 with table 1's functions; x [B, D], sigma [B]."""
    total = sigma**2 + SIGMA_DATA**2
    c_skip, c_out, c_in = SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt(), 1 / total.sqrt()
    return c_skip[:, None] * x + c_out[:, None] * F()(c_in[:, None] * x, sigma.log() / 4)


def test_edms_loss() -> None:
    """Their eq. 2 with lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
    x0 = 0.5 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = Objective(EDM, {})
    task = objective.task(x0, Streams(1, 2))
    sigma = SIGMA_MAX * task.t.double()
    noise = torch.randn(x0.shape, generator=stream(1, "noise", 2))
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    error = (denoised(x0 + sigma[:, None] * noise, sigma) - x0).square().mean(1)
    torch.testing.assert_close(objective.measure(F(), task).loss, (weight * error).mean(), rtol=1e-4, atol=0)


def test_edms_times_are_log_normal_levels() -> None:
    t = EDM.time_sampler.sample(100_000, torch.Generator().manual_seed(0), "cpu", EDM.interpolant)
    levels = (SIGMA_MAX * t.double()).log()
    assert levels.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert levels.std().item() == pytest.approx(1.2, abs=0.02)


@pytest.mark.parametrize("steps", [1, 2, 18])
def test_edms_deterministic_sampler(steps: int) -> None:
    """Their algorithm 1: Heun's method over eq. 5's levels, with a last step by Euler's; 2 N - 1 calls."""
    sampling = SamplingConfig.parse(
        {"solver": {"name": "heun", "euler_last": True}, "time_grid": "edm_rho", "batch_size": 5}
    )
    (batch,) = generate(Trained(F(), EDM, {}), sampling, 2 * steps - 1, (3,), 5, (1, "samples"))
    rho = 7
    share = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
    levels = (SIGMA_MAX ** (1 / rho) + share * (SIGMA_MIN ** (1 / rho) - SIGMA_MAX ** (1 / rho))) ** rho
    sigmas = [*levels.tolist(), 0.0]
    x = SIGMA_MAX * torch.randn(5, 3, generator=stream(1, "samples", 0)).double()
    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - denoised(x, torch.full((5,), sigma, dtype=torch.float64))) / sigma
        ahead = x + (after - sigma) * slope
        if after:
            again = (ahead - denoised(ahead, torch.full((5,), after, dtype=torch.float64))) / after
            ahead = x + (after - sigma) * (slope + again) / 2
        x = ahead
    torch.testing.assert_close(batch.x.double(), x, rtol=1e-3, atol=1e-3)


def test_a_noise_level_of_zero_has_no_logarithm() -> None:
    with pytest.raises(ConfigError, match=r"^prediction\.t_min: edm gives no finite velocity at t = 0 on edm\. Choose"):
        Formulation.parse({"interpolant": "edm", "prediction": {"name": "edm", "time": "log_sigma", "t_min": 0.0}})


# Lipman et al. 2023


def test_lipmans_learning_rate() -> None:
    """CIFAR-10: 45,000 steps of warm-up to 5e-4, then linear decay to 1e-8."""
    config = TrainConfig.parse(
        {
            "steps": 391_000,
            "warmup_steps": 45_000,
            "learning_rate": 5e-4,
            "schedule": {"name": "polynomial", "floor": 1e-8 / 5e-4},
        }
    )
    assert config.rate(44_999) == pytest.approx(5e-4)
    assert config.rate(45_000) == pytest.approx(5e-4)
    assert config.rate(218_000) == pytest.approx((5e-4 + 1e-8) / 2)
    assert config.rate(390_999) == pytest.approx(1e-8 + (5e-4 - 1e-8) / 346_000)


def test_a_quadratic_decay() -> None:
    config = TrainConfig.parse({"steps": 100, "warmup_steps": 0, "schedule": {"name": "polynomial", "power": 2}})
    assert config.rate(75) == pytest.approx(config.learning_rate / 16)


# noise for sampling alone (Lee et al. 2025, SourceFM)


def test_sampling_can_start_from_another_noise_than_training() -> None:
    """The same draws, scaled; what the network was trained with keeps the noise of training."""
    made = Formulation()
    usual = Trained(F(), made, {})
    wide, narrow = (
        next(generate(trained, SamplingConfig(batch_size=4), 1, (3,), 4, (1, "samples")))
        for trained in (usual, usual._replace(start=(Gaussian(std=0.25), {})))
    )
    torch.testing.assert_close(narrow.noise, wide.noise / 4)
    ones = torch.ones(4)
    torch.testing.assert_close(narrow.x, narrow.noise - F()(narrow.noise, ones))
    assert math.isclose(narrow.noise.std().item() * 4, wide.noise.std().item(), rel_tol=1e-5)
