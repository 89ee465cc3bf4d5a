"""The path from data to noise: x_t = alpha(t) x0 + sigma(t) x1.

x0 is data and x1 noise; t = 0 at data and 1 at noise, and sampling runs from 1 to 0. The velocity is
u_t = alpha'(t) x0 + sigma'(t) x1. Lipman, Liu, torchcfm and flow_matching run time the other way:
their t is 1 - t, and their velocity has the opposite sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.config import Range
from harness.registry import Component


class Interpolant(Component, family="interpolant"):
    """alpha(t) and sigma(t) with their derivatives; t is [B] in [0, 1], and so is what they return."""

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha_dot(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma_dot(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2, [B]; infinite at t = 0."""
        return (self.alpha(t) / self.sigma(t)).square()

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda = log SNR, [B]."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """x_t, shaped like x0 [B, ...]."""
        return over(self.alpha(t), x0) * x0 + over(self.sigma(t), x1) * x1

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """u_t = d x_t / dt at fixed x0 and x1, shaped like x0 [B, ...]."""
        return over(self.alpha_dot(t), x0) * x0 + over(self.sigma_dot(t), x1) * x1


def over(per_sample: Tensor, like: Tensor) -> Tensor:
    """A [B] tensor with trailing axes, so that it multiplies [B, ...]."""
    return per_sample.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Linear(Interpolant, name="linear"):
    """alpha = 1 - t, sigma = t: rectified flow, Liu et al. 2023 (eq. 1), and OT paths, Lipman et al. 2023 (sigma_min = 0)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(Interpolant, name="vp"):
    """alpha = sqrt(1 - t^2), sigma = t: variance preserving with sigma_t = t.

    alpha'(t) = -t / sqrt(1 - t^2) has no bound at t = 1, so it is evaluated at min(t, t_max).
    """

    t_max: Annotated[float, Range(0.97, 0.9999)] = 0.999
    """Time above which alpha' stays constant."""

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t.square()).clamp(min=0).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        t = t.clamp(max=self.t_max)
        return -t / (1 - t.square()).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
