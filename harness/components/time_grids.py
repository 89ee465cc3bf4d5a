"""Time grids: the times between t = 1 and t = 0 at which a solver steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.time_samplers import shift_time
from harness.core.config import ADDED, Positive, Range
from harness.core.errors import ConfigError
from harness.core.registry import Component


class TimeGrid(Component, family="time_grid"):
    """The times of a solver's steps, which fall from 1 to 0."""

    def times(self, steps: int, interpolant: Interpolant) -> Tensor:
        """Return the times, float64 [steps + 1]: strictly falling, the first exactly 1 and the last exactly 0.

        Raises `ConfigError` if two times are equal in float32.
        """
        times = self.place(torch.linspace(1, 0, steps + 1, dtype=torch.float64), steps, interpolant)
        times[0] = 1
        times[-1] = 0
        if not (times.float().diff() < 0).all():  # networks see float32
            clash = f"{self.name} puts two of {steps + 1} times at the same value"
            raise ConfigError("time_grid", f"{clash}. Choose fewer steps, or noise levels that the path reaches.")
        return times

    @abstractmethod
    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        """Return times for the equally spaced u [steps + 1]; `times` then sets the two ends to 1 and 0."""


@dataclass(frozen=True, kw_only=True)
class UniformGrid(TimeGrid, name="uniform"):
    """Equal steps in t."""

    formula: ClassVar[str] = "t = u"
    source: ClassVar[str] = "Lipman et al. 2023"

    last_step: Annotated[float, Range(0, 1, ends="[)")] = field(default=0.0, metadata=ADDED)
    """Length of the last step; the others share the rest. 0 makes all equal. Ma et al. 2024 (SiT) take 0.04."""

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        if not self.last_step:
            return u.clone()
        return torch.cat([torch.linspace(1, self.last_step, steps, dtype=u.dtype), u[-1:]])


@dataclass(frozen=True, kw_only=True)
class ShiftedGrid(TimeGrid, name="shifted"):
    """Equal steps moved towards the noise."""

    formula: ClassVar[str] = "t = {shift:g} u / (1 + ({shift:g} - 1) u)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 23"

    shift: Positive = 3.0
    """Shift factor; 1 is uniform, larger values put more steps near the noise."""

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        return shift_time(u, self.shift)


@dataclass(frozen=True, kw_only=True)
class QuadraticGrid(TimeGrid, name="quadratic"):
    """Short steps near the data."""

    formula: ClassVar[str] = "t = u^2"
    source: ClassVar[str] = "Song et al. 2021 (DDIM), appendix D.2"

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        return u.square()


@dataclass(frozen=True, kw_only=True)
class EDMRho(TimeGrid, name="edm_rho"):
    """EDM's noise levels s = sigma / alpha, equally spaced in s^(1 / rho), then zero."""

    formula: ClassVar[str] = (
        "s_i = ({sigma_max:g}^(1/{rho:g}) + i / (N - 1) ({sigma_min:g}^(1/{rho:g}) - {sigma_max:g}^(1/{rho:g})))"
        "^{rho:g}, s_N = 0"
    )
    source: ClassVar[str] = "Karras et al. 2022, eq. 5"

    rho: Annotated[float, Range(0.1, 100)] = 7.0
    """Exponent; 1 spaces noise levels equally, larger values put more steps near the data."""
    sigma_min: Positive = 0.002
    """Noise level sigma / alpha before the last step."""
    sigma_max: Positive = 80.0
    """Noise level sigma / alpha at the start. The first time is 1, even if the path has another level there."""

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        share = (torch.arange(steps + 1, dtype=torch.float64) / max(1, steps - 1)).clamp(max=1)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = (high + share * (low - high)) ** self.rho
        return interpolant.time_of_log_snr(-2 * levels.log())


@dataclass(frozen=True, kw_only=True)
class LogSNRGrid(TimeGrid, name="log_snr"):
    """Equal steps in log SNR between two levels; the first and the last step go on to 1 and 0."""

    formula: ClassVar[str] = "lambda = {low:g} + (1 - u) ({high:g} - {low:g})"
    source: ClassVar[str] = "Lu et al. 2022 (DPM-Solver), section 3"

    low: float = -9.0
    """Lowest log SNR, near the noise."""
    high: float = 9.0
    """Highest log SNR, near the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ConfigError("low", f"{self.low:g} is not below high, {self.high:g}. Choose a smaller one.")

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        return interpolant.time_of_log_snr(self.low + (1 - u) * (self.high - self.low))


@dataclass(frozen=True, kw_only=True)
class RespacedGrid(TimeGrid, name="respaced"):
    """Times of a discrete schedule of `of` steps, spread evenly from the first to the last, as `ancestral` needs."""

    formula: ClassVar[str] = "t_i = (round(i ({of} - 1) / (N - 1)) + 1) / {of}, then 0"
    source: ClassVar[str] = "Nichol & Dhariwal 2021, section 4"

    of: Annotated[int, Range(1, 100_000, why="no published schedule has more")] = 1000
    """Steps of the schedule; those of the path."""

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        chosen = torch.linspace(self.of - 1, 0, steps, dtype=u.dtype).round()
        return torch.cat([(chosen + 1) / self.of, u[-1:]])
