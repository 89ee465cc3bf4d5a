"""Where solvers stop: the formulas, and both ends exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.time_grids import TimeGrid
from harness.errors import ConfigError
from harness.registry import build, names

LINEAR = build("interpolant", "linear")


def grid(spec: object, steps: int, path: Interpolant = LINEAR) -> Tensor:
    return build("time_grid", spec).times(steps, path)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp", "cosine", "vp_ddpm"])
@pytest.mark.parametrize("name", names("time_grid"))
def test_times_fall_from_one_to_zero(name: str, path: str, steps: int) -> None:
    made: TimeGrid = build("time_grid", {"name": "edm_rho", "sigma_max": 50} if name == "edm_rho" else name)
    times = made.times(steps, build("interpolant", path))
    assert times.shape == (steps + 1,)
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


def test_equal_steps() -> None:
    torch.testing.assert_close(grid("uniform", 4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))


@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shifted_grid_is_shifted_once(steps: int, shift: float) -> None:
    times = grid({"name": "shifted", "shift": shift}, steps)
    for u, t in zip(torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist(), times.tolist(), strict=True):
        assert t == pytest.approx(shift * u / (1 + (shift - 1) * u), abs=1e-15)


def test_a_quadratic_grid_halves_its_steps_near_the_data() -> None:
    torch.testing.assert_close(grid("quadratic", 4), torch.tensor([1, 9 / 16, 1 / 4, 1 / 16, 0], dtype=torch.float64))


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_edm_levels_are_karras_formula(path: str) -> None:
    """Eq. 5 with rho = 7, 0.002 to 80 and N = 18: the levels sigma / alpha of the times between the two ends."""
    made, steps = build("interpolant", path), 18
    times = grid("edm_rho", steps, made)[1:-1]
    expected = [(80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(1, steps)]
    levels = made.sigma(times) / made.alpha(times)
    torch.testing.assert_close(levels, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("path", ["linear", "gvp", "cosine"])
def test_log_snr_is_equally_spaced(path: str) -> None:
    made = build("interpolant", path)
    levels = made.log_snr(grid({"name": "log_snr", "low": -6, "high": 8}, 7, made)[1:-1])
    torch.testing.assert_close(levels, torch.linspace(-6, 8, 8, dtype=torch.float64)[1:-1], rtol=1e-8, atol=1e-8)


def test_levels_that_a_path_does_not_have_are_refused() -> None:
    path = build("interpolant", {"name": "fm_ot", "sigma_min": 0.3})
    with pytest.raises(ConfigError, match="edm_rho puts two of 19 times on one place"):
        grid("edm_rho", 18, path)


def test_bounds_in_the_wrong_order() -> None:
    with pytest.raises(ConfigError, match=r"^time_grid.low: 3 is not below high, 2. Choose a smaller one.$"):
        build("time_grid", {"name": "log_snr", "low": 3, "high": 2})
