"""The base class of paths from data to noise: x_t = alpha(t) x0 + sigma(t) x1.

x0 is data and x1 noise; t = 0 at data and 1 at noise, and sampling runs from 1 to 0. The velocity is
u_t = alpha'(t) x0 + sigma'(t) x1. Lipman, Liu, torchcfm and flow_matching run time the other way:
their t is 1 - t, and their velocity has the opposite sign.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.core.config import Positive, Range
from harness.core.errors import UserError
from harness.core.registry import Component

LatestTime = Annotated[float, Range(0.97, 0.9999)]
"""A time near the noise; above it, an unbounded quantity stays constant."""
EarliestTime = Annotated[float, Range(0, 0.03, ends="(]")]
"""A time near the data; below it, an unbounded quantity stays constant."""


class Interpolant(Component, family="interpolant"):
    """A path: alpha(t) falls and sigma(t) rises on [0, 1]. Times t have any shape, and every result has the same.

    A member defines `alpha` and `sigma`. Autograd then gives the derivatives and bisection gives `time_of_log_snr`,
    unless the member has a closed form. All are finite on [0, 1] except log SNR, which is infinite where alpha or sigma
    is zero. An unbounded derivative is evaluated at a clamped time, and the clamp is a field.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return derivative(self.alpha, t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""
        return derivative(self.sigma, t)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2."""
        return (self.alpha(t) / self.sigma(t)).square()

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda = log SNR, which falls with t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def log_snr_dot(self, t: Tensor) -> Tensor:
        """d lambda / dt, negative."""
        return 2 * (self.alpha_dot(t) / self.alpha(t) - self.sigma_dot(t) / self.sigma(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t at which lambda is `log_snr`; 0 above the path's largest and 1 below its smallest."""
        return bisect(lambda t: self.log_snr(t) > log_snr, log_snr)

    def interpolate(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """x_t, shaped like x0 [B, ...]; t is [B]."""
        check_times(t)
        return over(self.alpha(t), x0) * x0 + over(self.sigma(t), x1) * x1

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """u_t = d x_t / dt at fixed x0 and x1, shaped like x0 [B, ...]; t is [B]."""
        check_times(t)
        return over(self.alpha_dot(t), x0) * x0 + over(self.sigma_dot(t), x1) * x1


def over(per_sample: Tensor, like: Tensor) -> Tensor:
    """A [B] tensor with trailing axes, so that it multiplies [B, ...]."""
    return per_sample.view(-1, *[1] * (like.ndim - 1))


def check_times(t: Tensor) -> None:
    """Raise `UserError` if a time lies outside [0, 1]; check nothing on a GPU and in compiled code, to avoid a wait."""
    if t.device.type != "cpu" or torch.compiler.is_compiling() or not t.numel():
        return
    low, high = torch.aminmax(t)
    if not (low.item() >= 0 and high.item() <= 1):
        wrong = t[~((t >= 0) & (t <= 1))][0].item()
        raise UserError(f"t: {wrong:g} is outside [0, 1]. Times run from 0 at the data to 1 at the noise.")


def bisect(before: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return, for each entry, the point in [0, 1] up to which `before` holds, by 60 halvings; shaped like `like`."""
    low = torch.zeros_like(like)
    high = torch.ones_like(like)
    for _ in range(60):
        middle = (low + high) / 2
        earlier = before(middle)
        low = torch.where(earlier, middle, low)
        high = torch.where(earlier, high, middle)
    return (low + high) / 2


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return the derivative at t, by autograd, of a function of each entry; zero if it does not depend on t."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        value = function(t)
        return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class Scaled(Interpolant):
    """`path` rewritten for noise of unit variance: sigma is multiplied by `std`, the sd of the actual noise."""

    path: Interpolant
    std: Positive

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.std * self.path.sigma(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.path.alpha_dot(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.std * self.path.sigma_dot(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.path.time_of_log_snr(log_snr + 2 * math.log(self.std))
