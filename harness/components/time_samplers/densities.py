"""Densities of training times: logit-normal, beta, mode, EDM's and others.

Densities over a noise level use the interpolant's log SNR; None means the linear interpolant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.components.interpolants import Interpolant, Linear, bisect, derivative
from harness.components.time_samplers.base import TimeSampler
from harness.core.config import Positive, Range
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Power(TimeSampler, name="power"):
    """A power of a uniform time: more times near the data for p > 1."""

    formula: ClassVar[str] = "t = u^{p:g}, p(t) = t^(1 / {p:g} - 1) / {p:g}"

    p: Positive = 2.0
    """Exponent; 1 is uniform, below 1 favours the noise end."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return u**self.p

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return t ** (1 / self.p - 1) / self.p


@dataclass(frozen=True, kw_only=True)
class LogitNormal(TimeSampler, name="logit_normal"):
    """Most times in the middle: the logit of t is normal."""

    formula: ClassVar[str] = "logit(t) ~ N({mean:g}, {std:g}^2)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 19"

    mean: float = 0.0
    """Mean of logit(t); above 0 favours the noise end."""
    std: Positive = 1.0
    """Standard deviation of logit(t)."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return logit_normal_density(t, self.mean, self.std)


def logit_normal_density(t: Tensor, mean: float, std: float) -> Tensor:
    """Density of t whose logit is N(mean, std^2); zero at both ends."""
    logit = torch.logit(t)
    inside = (t > 0) & (t < 1)
    density = _normal_density((logit - mean) / std) / (std * t * (1 - t))
    return torch.where(inside, density, torch.zeros_like(t))


@dataclass(frozen=True, kw_only=True)
class Mode(TimeSampler, name="mode"):
    """SD3's heavy-tailed density with its mode at 1/2, or at both ends for a negative scale."""

    formula: ClassVar[str] = "t = 1 - u - {scale:g} (cos^2(pi u / 2) - 1 + u)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 20"

    scale: Annotated[float, Range(-1, 2 / (math.pi - 2), ends="()")] = 1.29
    """Scale s, in (-1, 1.75); 0 is uniform, above 0 favours the middle, below 0 both ends."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return u - self.scale * (torch.sin(math.pi / 2 * u).square() - u)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        u = bisect(lambda u: self.quantile(u) < t, t)  # its inverse has no closed form
        return 1 / (1 + self.scale - self.scale * math.pi / 2 * torch.sin(math.pi * u))


@dataclass(frozen=True, kw_only=True)
class CosMap(TimeSampler, name="cosmap"):
    """Times that give the linear path the distribution of log SNR of a cosine schedule with uniform times."""

    formula: ClassVar[str] = "t = 1 - 1 / (tan(pi u / 2) + 1), p(t) = 2 / (pi - 2 pi t + 2 pi t^2)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 21"

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        sine, cosine = (torch.sin(math.pi / 2 * share) for share in (u, 1 - u))
        return sine / (sine + cosine)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return cosmap_density(t)


def cosmap_density(t: Tensor) -> Tensor:
    """2 / (pi - 2 pi t + 2 pi t^2)."""
    return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


@dataclass(frozen=True, kw_only=True)
class Beta(TimeSampler, name="beta"):
    """A beta distribution; quantiles by SciPy."""

    formula: ClassVar[str] = "t ~ Beta({a:g}, {b:g})"
    source: ClassVar[str] = "Black et al. 2024 (pi0), appendix B, with time reversed"
    waits: ClassVar[bool] = True

    a: Annotated[float, Range(0, 100, "(]")] = 1.5
    """First shape parameter; larger values move times away from the data."""
    b: Annotated[float, Range(0, 100, "(]")] = 1.0
    """Second shape parameter; larger values move times away from the noise."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        from scipy.special import betaincinv

        return torch.from_numpy(np.asarray(betaincinv(self.a, self.b, u.double().cpu().numpy()))).to(u)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        log_norm = math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        return math.exp(log_norm) * t ** (self.a - 1) * (1 - t) ** (self.b - 1)


@dataclass(frozen=True, kw_only=True)
class UShaped(TimeSampler, name="u_shaped"):
    """Most times at both ends, which suits the straight paths of reflow."""

    formula: ClassVar[str] = "p(t) proportional to exp({a:g} t) + exp({a:g} (1 - t))"
    source: ClassVar[str] = "Lee et al. 2024 (2-rectified flow++)"

    a: Annotated[float, Range(0, 100, "(]")] = 4.0
    """Steepness; near 0 the density is almost uniform."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return (0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a).clamp(0, 1)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return self.a * torch.cosh(self.a * (t - 0.5)) / (2 * math.sinh(self.a / 2))


@dataclass(frozen=True, kw_only=True)
class EDMLogNormal(TimeSampler, name="edm_lognormal"):
    """EDM's density over noise levels: sigma / alpha is log-normal, cut to the levels that the path has."""

    formula: ClassVar[str] = "ln(sigma / alpha) ~ N({mean:g}, {std:g}^2)"
    source: ClassVar[str] = "Karras et al. 2022, table 1"

    mean: float = -1.2
    """Mean of ln(sigma / alpha) (P_mean)."""
    std: Positive = 1.2
    """Standard deviation of ln(sigma / alpha) (P_std)."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        path = interpolant or Linear()
        low, high = self._ends(path, u)
        z = torch.special.ndtri(low + u * (high - low))
        return path.time_of_log_snr(-2 * (self.mean + self.std * z))

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        path = interpolant or Linear()
        low, high = self._ends(path, t)
        z = (_log_level(path, t) - self.mean) / self.std
        slope = _log_level_slope(path, t) / self.std
        return torch.where(z.isfinite() & slope.isfinite(), _normal_density(z) * slope / (high - low), 0)

    def _ends(self, path: Interpolant, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the untruncated cumulative distribution function at t = 0 and t = 1."""
        levels = _log_level(path, torch.arange(2, dtype=like.dtype, device=like.device))
        low, high = torch.special.ndtr((levels - self.mean) / self.std)
        return low, high


@dataclass(frozen=True, kw_only=True)
class LogUniform(TimeSampler, name="log_uniform"):
    """Noise levels sigma / alpha whose logarithm is uniform, cut to the levels that the path has."""

    formula: ClassVar[str] = "ln(sigma / alpha) ~ U[ln {sigma_min:g}, ln {sigma_max:g}]"
    source: ClassVar[str] = "Song et al. 2021; Karras et al. 2022, table 1 (VE)"

    sigma_min: Positive = 0.02
    """Lowest noise level sigma / alpha."""
    sigma_max: Positive = 100.0
    """Highest noise level sigma / alpha."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            reason = f"{self.sigma_min:g} is not below sigma_max, {self.sigma_max:g}"
            raise ConfigError("sigma_min", f"{reason}. Choose a smaller one.")

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        path = interpolant or Linear()
        low, high = self._ends(path, u)
        return path.time_of_log_snr(-2 * torch.lerp(low, high, u))

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        path = interpolant or Linear()
        low, high = self._ends(path, t)
        level = _log_level(path, t)
        return torch.where((level >= low) & (level <= high), _log_level_slope(path, t) / (high - low), 0)

    def _ends(self, path: Interpolant, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest ln(sigma / alpha); `ConfigError` if the path has none in between."""
        own = torch.tensor([self.sigma_min, self.sigma_max], dtype=like.dtype, device=like.device).log()
        first, last = _log_level(path, torch.arange(2, dtype=like.dtype, device=like.device))
        low, high = torch.maximum(own[0], first), torch.minimum(own[1], last)
        if like.device.type == "cpu" and not low < high:
            reason = f"{path.name} has no noise level in [{self.sigma_min:g}, {self.sigma_max:g}]"
            raise ConfigError("time_sampler.sigma_min", f"{reason}. Choose levels that the path reaches.")
        return low, high


def _log_level(path: Interpolant, t: Tensor) -> Tensor:
    """ln(sigma / alpha), shaped like t."""
    return -path.log_snr(t) / 2


def _log_level_slope(path: Interpolant, t: Tensor) -> Tensor:
    """d ln(sigma / alpha) / dt, without the clamps of `log_snr_dot`."""
    return -derivative(path.log_snr, t) / 2


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
