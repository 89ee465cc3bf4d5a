"""The times of a solver: both ends, the order, and each grid's formula."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.components.interpolants import (
    DDPM,
    EDMPath,
    FlowMatchingOT,
    Interpolant,
    LatentDiffusion,
    Linear,
    VarianceExploding,
)
from harness.components.time_grids import (
    EDMRho,
    LogSNRGrid,
    QuadraticGrid,
    RespacedGrid,
    ShiftedGrid,
    TimeGrid,
    UniformGrid,
)
from harness.core.errors import ConfigError
from harness.core.registry import build, names

GRIDS: dict[str, TimeGrid] = {name: build("time_grid", name) for name in names("time_grid")} | {
    "shifted-0.3": ShiftedGrid(shift=0.3),
    "edm_rho-1": EDMRho(rho=1, sigma_min=0.02, sigma_max=20),
    "log_snr-3": LogSNRGrid(low=-3, high=5),
}
NARROW = {"ve", "edm", "vp_ldm"}
"""Paths that lack some of the levels."""
PATHS: dict[str, Interpolant] = {
    name: build("interpolant", name) for name in names("interpolant") if name not in NARROW
}
PATHS |= {
    "ve-wide": VarianceExploding(sigma_min=0.001, sigma_max=100),
    "edm-wide": EDMPath(sigma_max=100),
    "vp_ldm-wide": LatentDiffusion(beta_max=40),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def levels(path: Interpolant, times: Tensor) -> Tensor:
    """Return EDM's noise levels, sigma / alpha."""
    return path.sigma(times) / path.alpha(times)


@every_grid
def test_times_fall_from_exactly_1_to_exactly_0(grid: TimeGrid) -> None:
    for (name, path), steps in itertools.product(PATHS.items(), [1, 2, 3, 18, 250]):
        times = grid.times(steps, path)
        assert (times.shape, times.dtype) == ((steps + 1,), torch.float64), (name, steps)
        assert (times[0].item(), times[-1].item()) == (1, 0), (name, steps)
        assert (times.diff() < 0).all(), (name, steps)


@every_grid
def test_the_same_grid_twice(grid: TimeGrid) -> None:
    first = grid.times(7, Linear())
    kept = first.clone()
    first.fill_(0)  # a caller may change its times
    assert torch.equal(grid.times(7, Linear()), kept)


@pytest.mark.parametrize("name", ["uniform", "shifted", "quadratic"])
@pytest.mark.parametrize("steps", [1, 5, 32])
def test_grids_in_time_are_the_same_on_every_path(name: str, steps: int) -> None:
    for path in PATHS.values():
        assert torch.equal(GRIDS[name].times(steps, path), GRIDS[name].times(steps, Linear()))


def test_uniform_steps_are_equal() -> None:
    torch.testing.assert_close(
        UniformGrid().times(4, Linear()), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64)
    )


@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 6.0])
def test_the_shift_is_applied_once(shift: float, steps: int) -> None:
    """SD3, eq. 23, at every node: the last interior one is shift(1 / N), not shift(shift(1 / N)) or shift(1 / 1000)."""
    times = ShiftedGrid(shift=shift).times(steps, Linear())
    u = 1 / steps
    assert times[-2].item() == pytest.approx(shift * u / (1 + (shift - 1) * u), rel=1e-12)
    signal = (1 - times[1:-1]) / times[1:-1]  # alpha / sigma of `linear`, which a shift divides
    even = UniformGrid().times(steps, Linear())[1:-1]
    torch.testing.assert_close(signal * shift, (1 - even) / even, rtol=1e-9, atol=0)


def test_quadratic_steps() -> None:
    times = QuadraticGrid().times(4, Linear())
    torch.testing.assert_close(times, torch.tensor([1, 9 / 16, 1 / 4, 1 / 16, 0], dtype=torch.float64))
    for steps in (10, 32):
        expected = [(1 - i / steps) ** 2 for i in range(steps + 1)]
        assert QuadraticGrid().times(steps, Linear()).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("rho", "low", "high"), [(7.0, 0.002, 80.0), (1.0, 0.02, 20.0), (3.0, 0.01, 5.0)])
def test_edms_levels_are_those_of_karras(rho: float, low: float, high: float) -> None:
    """Their eq. 5; the first time is 1 for any level of the path there, and the level after the last is 0."""
    for (name, path), steps in itertools.product(PATHS.items(), [2, 3, 18, 100]):
        times = EDMRho(rho=rho, sigma_min=low, sigma_max=high).times(steps, path)
        expected = [
            (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
            for i in range(1, steps)
        ]
        assert levels(path, times[1:-1]).tolist() == pytest.approx(expected, rel=1e-7, abs=0), (name, steps)
        assert levels(path, times[-2:-1]).item() == pytest.approx(low, rel=1e-7), (name, steps)


@pytest.mark.parametrize(("low", "high"), [(-9.0, 9.0), (-3.0, 5.0), (-8.0, -1.0)])
def test_log_snr_is_equally_spaced(low: float, high: float) -> None:
    for (name, path), steps in itertools.product(PATHS.items(), [2, 3, 18, 100]):
        ratios = path.log_snr(LogSNRGrid(low=low, high=high).times(steps, path)[1:-1])
        expected = [low + i / steps * (high - low) for i in range(1, steps)]
        assert ratios.tolist() == pytest.approx(expected, rel=0, abs=1e-7), (name, steps)


@pytest.mark.parametrize(("low", "high"), [(3.0, 3.0), (4.0, 3.0)])
def test_log_snr_needs_two_levels(low: float, high: float) -> None:
    with pytest.raises(ConfigError) as caught:
        build("time_grid", {"name": "log_snr", "low": low, "high": high})
    assert str(caught.value) == f"time_grid.low: {low:g} is not below high, {high:g}. Choose a smaller one."


# Errors

COLLISIONS: dict[str, tuple[Any, Any, int]] = {
    "levels below those of ve": ("edm_rho", "ve", 2),
    "ratios above those of ve": ("log_snr", "ve", 16),
    "levels below those of fm_ot": ("edm_rho", {"name": "fm_ot", "sigma_min": 0.3}, 18),
    "ratios above those of fm_ot": ("log_snr", {"name": "fm_ot", "sigma_min": 0.5}, 18),
    "levels above those of vp_ddpm": ("edm_rho", {"name": "vp_ddpm", "beta_max": 2}, 18),
    "ratios below those of vp_ddpm": ("log_snr", {"name": "vp_ddpm", "beta_max": 2}, 18),
    "all at the noise": ({"name": "shifted", "shift": 1e20}, "linear", 3),
    "levels that rise": ({"name": "edm_rho", "sigma_min": 80, "sigma_max": 0.002}, "linear", 8),
}


@pytest.mark.parametrize(("grid", "path", "steps"), COLLISIONS.values(), ids=COLLISIONS)
def test_two_equal_times_are_refused(grid: Any, path: Any, steps: int) -> None:
    made = build("time_grid", grid)
    interpolant = build("interpolant", path)
    with pytest.raises(ConfigError) as caught:
        made.times(steps, interpolant)
    assert caught.value.path.endswith("time_grid")
    assert caught.value.message.startswith(f"{made.name} puts two of {steps + 1} times at the same value")
    assert len(made.times(1, interpolant)) == 2


def test_nearly_equal_times_are_accepted() -> None:
    assert len(EDMRho(sigma_min=0.4).times(18, FlowMatchingOT(sigma_min=0.3))) == 19
    assert len(LogSNRGrid(high=1.3).times(18, FlowMatchingOT(sigma_min=0.5))) == 19
    assert len(EDMRho(sigma_max=1.3).times(18, DDPM(beta_max=2))) == 19


@dataclass(frozen=True, kw_only=True)
class Made(TimeGrid):
    """A grid with given times."""

    name = "made"

    second: float

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        return torch.tensor([0.7, self.second, 0.2, 0.1], dtype=torch.float64)


def test_a_grid_returns_its_interior_and_the_ends_are_added() -> None:
    assert Made(second=0.5).times(3, Linear()).tolist() == [1, 0.5, 0.2, 0]


@pytest.mark.parametrize("second", [0.2, 0.1, 1.0, 1.5])
def test_times_that_do_not_fall_are_refused(second: float) -> None:
    with pytest.raises(ConfigError, match="made puts two of 4 times at the same value"):
        Made(second=second).times(3, Linear())


def test_a_nan_time_is_refused() -> None:
    grid = Made(second=0.5)
    object.__setattr__(grid, "second", math.nan)
    with pytest.raises(ConfigError):
        grid.times(3, Linear())


def test_levels_without_a_bound_are_refused() -> None:
    """80^(1 / rho) exceeds the range of a float."""
    with pytest.raises(ConfigError):
        EDMRho(rho=0.005).times(3, Linear())


@pytest.mark.parametrize("steps", [2, 5, 250])
def test_a_longer_last_step(steps: int) -> None:
    """SiT's: even steps from 1 to 0.04, then one to 0."""
    times = UniformGrid(last_step=0.04).times(steps, Linear())
    expected = [1 - i * 0.96 / (steps - 1) for i in range(steps)]
    assert times.tolist() == pytest.approx([*expected, 0], abs=1e-12)


@pytest.mark.parametrize(("steps", "of"), [(250, 1000), (18, 1000), (4, 4), (1, 4)])
def test_respaced_times_are_those_of_a_discrete_schedule(steps: int, of: int) -> None:
    """Nichol & Dhariwal, section 4: evenly spaced between 1 and T, rounded to the nearest integer."""
    times = RespacedGrid(of=of).times(steps, Linear())
    whole = np.linspace(1, of, steps).round() if steps > 1 else np.array([of])
    assert times.tolist() == pytest.approx([*(whole[::-1] / of), 0], abs=1e-12)


def test_more_steps_than_a_discrete_schedule_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"respaced puts two of 6 times at the same value\. Choose fewer steps"):
        RespacedGrid(of=4).times(5, Linear())
