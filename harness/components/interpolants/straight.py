"""Paths that are straight lines in space, at constant or varying speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.interpolants.base import Interpolant, check_times
from harness.core.config import Range


@dataclass(frozen=True, kw_only=True)
class Linear(Interpolant, name="linear"):
    """The straight path of rectified flow and of OT paths with sigma_min = 0."""

    formula: ClassVar[str] = "alpha = 1 - t, sigma = t"
    source: ClassVar[str] = "Liu et al. 2023, eq. 1; Lipman et al. 2023, section 4.1"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        check_times(t)
        return x1 - x0  # equal to the last digit to the result by the derivatives

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True, kw_only=True)
class FlowMatchingOT(Interpolant, name="fm_ot"):
    """Flow matching's optimal transport path, which ends at the data with noise of sigma_min."""

    formula: ClassVar[str] = "alpha = 1 - t, sigma = t + (1 - t) {sigma_min:g}"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 20"

    sigma_min: Annotated[float, Range(0, 0.5)] = 1e-4
    """Noise level sigma at t = 0."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t + (1 - t) * self.sigma_min

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.sigma_min)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        share = torch.sigmoid(-log_snr / 2)  # sigma / (alpha + sigma)
        return ((share - self.sigma_min * (1 - share)) / (1 - self.sigma_min * (1 - share))).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Interpolant, name="polynomial"):
    """A straight line in space, traversed at varying speed."""

    formula: ClassVar[str] = "alpha = (1 - t)^{power:g}, sigma = 1 - alpha"
    source: ClassVar[str] = "a time change of Liu et al. 2023, eq. 1"

    power: Annotated[float, Range(1, 8)] = 2.0
    """Exponent; 1 is `linear`, larger values leave the data faster."""

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) ** self.power

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.power * torch.log1p(-t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.power * (1 - t) ** (self.power - 1)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha_dot(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return -torch.expm1(F.logsigmoid(log_snr / 2) / self.power)
