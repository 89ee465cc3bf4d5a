"""The base class of time samplers: a density p(t) on [0, 1], given by its quantile function.

Densities over a noise level use the interpolant's log SNR; None means the linear interpolant.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.core.config import Positive
from harness.core.registry import Component


@dataclass(frozen=True, kw_only=True)
class TimeSampler(Component, family="time_sampler"):
    """A density over t."""

    stratify: bool = False
    """Draw one time in each of n equally likely intervals, in random order, which lowers the gradient's variance."""
    importance_correct: bool = False
    """Divide each sample's weight by p(t), so that the density changes only the variance of the loss, not its mean."""
    density_floor: Positive = 1e-3
    """Density below which the correction stays constant; without it, the correction has no bound."""

    @abstractmethod
    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """The inverse of the cumulative distribution function: u [n] in [0, 1] to t [n]."""

    @abstractmethod
    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """p(t), [n], which integrates to one over [0, 1]."""

    def sample(
        self, n: int, generator: torch.Generator, device: torch.device | str, interpolant: Interpolant | None = None
    ) -> Tensor:
        """n times in [0, 1], float32 [n]."""
        return self.quantile(self.uniforms(n, generator, device), interpolant)

    def uniforms(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """n numbers [n], each uniform in [0, 1), whose quantiles are the times."""
        u = torch.rand(n, generator=generator, device=device)
        if self.stratify:
            u = ((torch.randperm(n, generator=generator, device=device) + u) / n).clamp(max=1 - 2**-24)
        return u

    def correction(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """Return the factor [n] of each sample's weight: 1 / p(t) if `importance_correct`, else 1."""
        if not self.importance_correct:
            return torch.ones_like(t)
        return 1 / self.density(t, interpolant).clamp(min=self.density_floor)


@dataclass(frozen=True, kw_only=True)
class Uniform(TimeSampler, name="uniform"):
    """Uniform times."""

    formula: ClassVar[str] = "p(t) = 1"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 9"

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return u

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return torch.ones_like(t)
