"""How training times are drawn: a density p(t) on [0, 1] through its quantile function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.config import Positive
from harness.registry import Component


@dataclass(frozen=True, kw_only=True)
class TimeSampler(Component, family="time_sampler"):
    """A density over t. `interpolant` is there for densities defined in log SNR; None means linear."""

    stratify: bool = False
    """Draw one time in each of n equally likely intervals, in random order, which lowers the gradient's variance."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """The inverse of the distribution function: [n] in [0, 1] to t [n]."""
        raise NotImplementedError

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """p(t), [n], which integrates to one over [0, 1]."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator, device: torch.device | str, interpolant: Interpolant | None = None) -> Tensor:
        """n times in [0, 1], float32 [n]."""
        u = torch.rand(n, generator=generator, device=device)
        if self.stratify:
            u = (torch.randperm(n, generator=generator, device=device) + u) / n
        return self.quantile(u, interpolant)


@dataclass(frozen=True, kw_only=True)
class Uniform(TimeSampler, name="uniform"):
    """p(t) = 1."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return u

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class Stratified(Uniform, name="stratified"):
    """p(t) = 1, one time in each of n equal intervals."""

    stratify: bool = True


@dataclass(frozen=True, kw_only=True)
class Power(TimeSampler, name="power"):
    """t = u^p: more times near the data for p > 1; p(t) = t^(1/p - 1) / p."""

    p: Positive = 2.0
    """Exponent; 1 is uniform, below 1 favours the noise end."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return u**self.p

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return t ** (1 / self.p - 1) / self.p
