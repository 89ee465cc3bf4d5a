"""The paths of diffusion models that are given by a noise rate beta(t): DDPM's, latent diffusion's and sub-VP."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.interpolants.base import EarliestTime, Interpolant, bisect
from harness.core.config import ADDED, Positive, Range
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NoiseRate(Interpolant):
    """A variance preserving path given by its noise rate beta(t): alpha = exp(-B(t) / 2), B the integral of beta.

    sigma'(t) has no bound at t = 0, so it is evaluated at max(t, t_min). alpha(1) is small but not zero.
    """

    beta_min: Positive
    """beta at t = 0."""
    beta_max: Positive
    """beta at t = 1."""
    t_min: EarliestTime = 1e-4
    """Time below which sigma' stays constant."""
    steps: Annotated[int, Range(0, 100_000, why="no published schedule has more")] = field(default=0, metadata=ADDED)
    """Steps of a discrete schedule: at t = i / steps, alpha^2 is the product of 1 - beta_j over its first i steps, and
    log alpha is linear in between. 0 is the limit of infinitely many steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.steps <= (most := max(self.beta_min, self.beta_max)):
            raise ConfigError("steps", f"{self.steps} steps of beta / {self.steps} >= 1. Use more than {most:g}.")

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """beta(t), shaped like t."""

    @abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """Integral of beta from 0 to t, shaped like t."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._rate(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.t_min)
        return self._rate(t) / 2 * self.alpha(t).square() / self.sigma(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        integral = F.softplus(-log_snr)  # -log alpha^2
        if not self.steps:
            return self.time_of_integral(integral)
        table = self._table.to(integral)
        i = (torch.searchsorted(table, integral.contiguous()) - 1).clamp(0, self.steps - 1)
        return ((i + (integral - table[i]) / (table[i + 1] - table[i])) / self.steps).clamp(max=1)

    @abstractmethod
    def time_of_integral(self, integral: Tensor) -> Tensor:
        """The inverse of `integral`; 1 above its largest value."""

    def _rate(self, t: Tensor) -> Tensor:
        if not self.steps:
            return self.rate(t)
        return self.steps * self._table.diff().to(t)[self._step(t)]

    def _integral(self, t: Tensor) -> Tensor:
        if not self.steps:
            return self.integral(t)
        table = self._table.to(t)
        i = self._step(t)
        return torch.lerp(table[i], table[i + 1], self.steps * t - i)

    def _step(self, t: Tensor) -> Tensor:
        return (self.steps * t.detach()).long().clamp(max=self.steps - 1)

    @functools.cached_property
    def _table(self) -> Tensor:
        """-log alpha^2 at t = i / steps, float64 [steps + 1]."""
        betas = self.rate(torch.linspace(0, 1, self.steps, dtype=torch.float64, device="cpu")) / self.steps
        return F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))


@dataclass(frozen=True, kw_only=True)
class DDPM(NoiseRate, name="vp_ddpm"):
    """Variance preserving with DDPM's linear noise rate; steps = 1000 is DDPM's own schedule."""

    formula: ClassVar[str] = (
        "alpha = exp(-B(t) / 2), sigma = sqrt(1 - alpha^2), "
        "B(t) = {beta_min:g} t + ({beta_max:g} - {beta_min:g}) t^2 / 2; sigma' at max(t, {t_min:g})"
    )
    source: ClassVar[str] = "Ho et al. 2020; Song et al. 2021, appendix C"

    beta_min: Positive = 0.1
    """beta at t = 0."""
    beta_max: Positive = 20.0
    """beta at t = 1."""

    def rate(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        return (self.beta_min + (self.beta_max - self.beta_min) * t / 2) * t

    def time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        t = 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).clamp(min=0).sqrt())
        return t.nan_to_num(nan=1.0).clamp(max=1)  # an infinite integral gives inf / inf


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion(NoiseRate, name="vp_ldm"):
    """Variance preserving with the noise rate of latent diffusion, whose square root is linear in t."""

    formula: ClassVar[str] = (
        "alpha = exp(-B(t) / 2), sigma = sqrt(1 - alpha^2), B the integral of "
        "(sqrt({beta_min:g}) (1 - t) + sqrt({beta_max:g}) t)^2; sigma' at max(t, {t_min:g})"
    )
    source: ClassVar[str] = "Rombach et al. 2022; Esser et al. 2024 (SD3), section 3 (LDM-linear)"

    beta_min: Positive = 0.85
    """beta at t = 0."""
    beta_max: Positive = 12.0
    """beta at t = 1."""

    def rate(self, t: Tensor) -> Tensor:
        start, slope = self._roots
        return (start + slope * t).square()

    def integral(self, t: Tensor) -> Tensor:
        start, slope = self._roots
        return (start**2 + (start * slope + slope**2 * t / 3) * t) * t

    def time_of_integral(self, integral: Tensor) -> Tensor:
        return bisect(lambda t: self.integral(t) < integral, integral)

    @property
    def _roots(self) -> tuple[float, float]:
        """sqrt(beta) at t = 0, and its slope."""
        return math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)


@dataclass(frozen=True, kw_only=True)
class SubVP(Interpolant, name="sub_vp"):
    """Less noise than variance preserving: the sigma of `vp_ddpm`, squared."""

    formula: ClassVar[str] = (
        "alpha = exp(-B(t) / 2), sigma = 1 - alpha^2, B(t) = {beta_min:g} t + ({beta_max:g} - {beta_min:g}) t^2 / 2"
    )
    source: ClassVar[str] = "Song et al. 2021, eq. 29 (sub-VP)"

    beta_min: Positive = 0.1
    """beta at t = 0."""
    beta_max: Positive = 20.0
    """beta at t = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return self._vp.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._vp.integral(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._vp.alpha_dot(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._vp.rate(t) * self.alpha(t).square()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        log_snr = log_snr.clamp(-1e4, 1e4)
        log_sigma = math.log(2) - F.softplus(F.softplus(log_snr + math.log(4)) / 2)  # of sigma = 1 - SNR sigma^2
        return self._vp.time_of_log_snr(log_snr + log_sigma)

    @functools.cached_property
    def _vp(self) -> DDPM:
        return DDPM(beta_min=self.beta_min, beta_max=self.beta_max)
