"""The path from data to noise: x_t = alpha(t) x0 + sigma(t) x1.

x0 is data and x1 noise; t = 0 at data and 1 at noise, and sampling runs from 1 to 0. The velocity is
u_t = alpha'(t) x0 + sigma'(t) x1. Lipman, Liu, torchcfm and flow_matching run time the other way:
their t is 1 - t, and their velocity has the opposite sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.config import Positive, Range
from harness.core.errors import ConfigError, UserError
from harness.core.registry import Component

LatestTime = Annotated[float, Range(0.97, 0.9999)]
EarliestTime = Annotated[float, Range(0, 0.03, ends="(]")]


class Interpolant(Component, family="interpolant"):
    """alpha(t), which falls, and sigma(t), which rises, on [0, 1]; t has any shape, and what is returned has the same.

    A member gives `alpha` and `sigma`; derivatives then come by autograd and `time_of_log_snr` by bisection,
    unless it knows a closed form. All of them are finite on [0, 1] but for log SNR, which is infinite where
    alpha or sigma is zero; a derivative without a bound is evaluated at a clamped time that is a field.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""
        raise NotImplementedError

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
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = (low + high) / 2
            earlier = self.log_snr(middle) > log_snr
            low, high = torch.where(earlier, middle, low), torch.where(earlier, high, middle)
        return (low + high) / 2

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
    """`UserError` when a time lies outside [0, 1]. On a GPU nothing is checked: it would wait for the device."""
    if t.device.type != "cpu" or not t.numel():
        return
    low, high = torch.aminmax(t)
    if not (low.item() >= 0 and high.item() <= 1):
        wrong = t[~((t >= 0) & (t <= 1))][0].item()
        raise UserError(f"t: {wrong:g} is outside [0, 1]. Times run from 0 at the data to 1 at the noise.")


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Of a function that acts entry by entry, at t, by autograd; zero where it does not depend on t."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        value = function(t)
        return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class Scaled(Interpolant):
    """`path` with noise of standard deviation `std` seen as noise of unit variance: sigma is multiplied by it."""

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
        return x1 - x0  # to the last digit what the derivatives give

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


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
class DDPM(Interpolant, name="vp_ddpm"):
    """Variance preserving with DDPM's linear beta(t) = beta_min + (beta_max - beta_min) t.

    sigma'(t) has no bound at t = 0, so it is evaluated at max(t, t_min). alpha(1) is small but not zero.
    """

    formula: ClassVar[str] = (
        "alpha = exp(-B(t) / 2), sigma = sqrt(1 - alpha^2), B(t) = {beta_min:g} t + ({beta_max:g} - {beta_min:g}) t^2 / 2; "
        "sigma' at max(t, {t_min:g})"
    )
    source: ClassVar[str] = "Ho et al. 2020; Song et al. 2021, appendix C"

    beta_min: Positive = 0.1
    """beta at t = 0."""
    beta_max: Positive = 20.0
    """beta at t = 1."""
    t_min: EarliestTime = 1e-4
    """Time below which sigma' stays constant."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        t = t.clamp(min=self.t_min)
        return self._beta(t) / 2 * self.alpha(t).square() / self.sigma(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        integral = F.softplus(-log_snr)  # -log alpha^2
        slope = self.beta_max - self.beta_min
        t = 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).clamp(min=0).sqrt())
        return t.nan_to_num(nan=1.0).clamp(max=1)  # an infinite integral gives inf / inf

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Tensor) -> Tensor:
        return (self.beta_min + (self.beta_max - self.beta_min) * t / 2) * t


@dataclass(frozen=True, kw_only=True)
class Cosine(Interpolant, name="cosine"):
    """Improved DDPM's cosine schedule with offset s.

    sigma'(t) has no bound at t = 0, so it is evaluated at max(t, t_min).
    """

    formula: ClassVar[str] = (
        "alpha = cos(a(t)) / cos(a(0)), sigma = sqrt(1 - alpha^2), a(t) = (pi / 2) (t + {s:g}) / (1 + {s:g}); sigma' at max(t, {t_min:g})"
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
class FlowMatchingOT(Interpolant, name="fm_ot"):
    """Flow matching's optimal transport path, which ends at the data with noise of sigma_min."""

    formula: ClassVar[str] = "alpha = 1 - t, sigma = t + (1 - t) {sigma_min:g}"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 20"

    sigma_min: Annotated[float, Range(0, 0.5)] = 1e-4
    """Noise that is left at the data."""

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
    """A straight line in space that is run through at a changing speed."""

    formula: ClassVar[str] = "alpha = (1 - t)^{power:g}, sigma = 1 - alpha"
    source: ClassVar[str] = "a time change of Liu et al. 2023, eq. 1"

    power: Annotated[float, Range(1, 8)] = 2.0
    """Exponent; 1 is `linear`, larger leaves the data faster."""

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


@dataclass(frozen=True, kw_only=True)
class VarianceExploding(Interpolant, name="ve"):
    """Data that is never scaled, under noise that grows geometrically; sampling starts at sigma_max x1."""

    formula: ClassVar[str] = "alpha = 1, sigma = {sigma_min:g} ({sigma_max:g} / {sigma_min:g})^t"
    source: ClassVar[str] = "Song et al. 2021, appendix C"

    sigma_min: Positive = 0.01
    """Noise that is left at the data."""
    sigma_max: Positive = 50.0
    """Noise at t = 1; many times the data's standard deviation."""

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
