"""The paths of diffusion models in closed form: variance preserving and variance exploding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from harness.components.interpolants.base import EarliestTime, Interpolant, LatestTime
from harness.core.config import Positive, Range
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(Interpolant, name="vp"):
    """Variance preserving with sigma_t = t.

    alpha'(t) = -t / sqrt(1 - t^2) has no bound at t = 1, so it is evaluated at min(t, t_max).
    """

    formula: ClassVar[str] = "alpha = sqrt(1 - t^2), sigma = t; alpha' at min(t, {t_max:g})"
    source: ClassVar[str] = "Song et al. 2021 (variance preserving), at sigma_t = t"

    t_max: LatestTime = 0.999
    """Time above which alpha' stays constant."""

    def alpha(self, t: Tensor) -> Tensor:
        return ((1 - t) * (1 + t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        t = t.clamp(max=self.t_max)
        return -t / self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr).sqrt()


@dataclass(frozen=True, kw_only=True)
class GVP(Interpolant, name="gvp"):
    """Generalised variance preserving: a quarter of a circle at constant speed."""

    formula: ClassVar[str] = "alpha = cos(pi t / 2), sigma = sin(pi t / 2)"
    source: ClassVar[str] = "Albergo & Vanden-Eijnden 2023; Ma et al. 2024 (SiT), table 1"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))  # exactly zero at t = 1, where cos(pi / 2) is not

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-log_snr / 2))


@dataclass(frozen=True, kw_only=True)
class Cosine(Interpolant, name="cosine"):
    """Improved DDPM's cosine schedule with offset s.

    sigma'(t) has no bound at t = 0, so it is evaluated at max(t, t_min).
    """

    formula: ClassVar[str] = (
        "alpha = cos(a(t)) / cos(a(0)), sigma = sqrt(1 - alpha^2), a(t) = (pi / 2) (t + {s:g}) / (1 + {s:g}); "
        "sigma' at max(t, {t_min:g})"
    )
    source: ClassVar[str] = "Nichol & Dhariwal 2021, eq. 17"

    s: Annotated[float, Range(0, 1, ends="(]")] = 0.008
    """Offset that keeps the first steps from being too small."""
    t_min: EarliestTime = 1e-4
    """Time below which sigma' stays constant."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._rate * (1 - t)) / math.cos(self._start)

    def sigma(self, t: Tensor) -> Tensor:
        # 1 - alpha^2 = sin(a - a0) sin(a + a0) / cos(a0)^2 keeps its digits where alpha is near one
        return (torch.sin(self._rate * t) * torch.sin(2 * self._start + self._rate * t)).clamp(min=0).sqrt() / math.cos(
            self._start
        )

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._rate * torch.cos(self._rate * (1 - t)) / math.cos(self._start)

    def sigma_dot(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.t_min)
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.s)

    @property
    def _start(self) -> float:
        return self._rate * self.s


@dataclass(frozen=True, kw_only=True)
class VarianceExploding(Interpolant, name="ve"):
    """Unscaled data plus noise that grows geometrically; sampling starts at sigma_max x1."""

    formula: ClassVar[str] = "alpha = 1, sigma = {sigma_min:g} ({sigma_max:g} / {sigma_min:g})^t"
    source: ClassVar[str] = "Song et al. 2021, appendix C"

    sigma_min: Positive = 0.01
    """Noise level sigma at t = 0."""
    sigma_max: Positive = 50.0
    """Noise level sigma at t = 1; should be many times the data's standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(
                "sigma_min", f"{self.sigma_min:g} is not below sigma_max, {self.sigma_max:g}. Choose a smaller one."
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return ((-log_snr / 2 - math.log(self.sigma_min)) / self._rate).clamp(0, 1)

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True, kw_only=True)
class EDMPath(Interpolant, name="edm"):
    """Unscaled data plus noise that grows evenly, so that time is the noise level: EDM's sigma(t) = t in its own units.

    Sampling starts at sigma_max x1, and ends at the data without noise.
    """

    formula: ClassVar[str] = "alpha = 1, sigma = {sigma_max:g} t"
    source: ClassVar[str] = "Karras et al. 2022, table 1 and section 3"

    sigma_max: Positive = 80.0
    """Noise level sigma at t = 1; should be many times the data's standard deviation."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr / 2) / self.sigma_max).clamp(max=1)
