"""w(t): how much the squared error at time t counts.

A paper states its weight for the squared error of one quantity; `stated_for` names it. If `objective.space` measures
another error, the objective multiplies w by the squared ratio of the two errors, so the objective stays the paper's.
The data error is sigma / alpha times the noise error. The velocity error is sigma |d lambda / dt| / 2 times the noise
error. Unbounded weights are held constant beyond a time that a field sets.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from harness.components.interpolants import EarliestTime, Interpolant, LatestTime
from harness.components.time_samplers import cosmap_density, logit_normal_density
from harness.core.config import NonNegative, Positive, Range
from harness.core.registry import Component

Stated = Literal["velocity", "data", "noise", "any"]


class Weighting(Component, family="weighting"):
    """A weight w(t) for each time."""

    stated_for: ClassVar[Stated] = "any"
    """The quantity whose squared error the source weights; `any` weights whatever error is measured."""

    @abstractmethod
    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        """w(t) >= 0, finite on [0, 1], shaped like t [B]."""


@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting, name="uniform"):
    """The same weight for every time, on whatever error is measured."""

    formula: ClassVar[str] = "1"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 9"

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class InverseSNR(Weighting, name="inverse_snr"):
    """Inverse of the SNR, on whatever error is measured.

    It grows without bound towards the noise, so t is clamped at `t_max`.
    """

    formula: ClassVar[str] = "1 / SNR(min(t, {t_max:g}))"

    t_max: LatestTime = 0.999
    """Time above which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return 1 / interpolant.snr(t.clamp(max=self.t_max))


@dataclass(frozen=True, kw_only=True)
class SNR(Weighting, name="snr"):
    """The SNR on the data error, which equals a weight of 1 on the noise error.

    It grows without bound towards the data, so t is clamped at `t_min`.
    """

    formula: ClassVar[str] = "SNR(max(t, {t_min:g}))"
    source: ClassVar[str] = "Salimans & Ho 2022, section 4"
    stated_for: ClassVar[Stated] = "data"

    t_min: EarliestTime = 0.01
    """Time below which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return interpolant.snr(t.clamp(min=self.t_min))


@dataclass(frozen=True, kw_only=True)
class DataEnd(Weighting, name="data_end"):
    """Emphasis on the data end, on whatever error is measured."""

    formula: ClassVar[str] = "(1 - t)^{power:g}"

    power: Positive = 2.0
    """Exponent; larger concentrates the weight closer to t = 0."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return (1 - t) ** self.power


@dataclass(frozen=True, kw_only=True)
class NoiseEnd(Weighting, name="noise_end"):
    """Emphasis on the noise end, on whatever error is measured."""

    formula: ClassVar[str] = "t^{power:g}"

    power: Positive = 2.0
    """Exponent; larger concentrates the weight closer to t = 1."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return t**self.power


@dataclass(frozen=True, kw_only=True)
class ClippedSNR(Weighting, name="clipped_snr"):
    """The SNR up to gamma, on whatever error is measured; on the data error it is `min_snr`."""

    formula: ClassVar[str] = "min(SNR(t), {gamma:g})"

    gamma: Positive = 5.0
    """Largest weight; SNR is capped here."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return interpolant.snr(t).clamp(max=self.gamma)


@dataclass(frozen=True, kw_only=True)
class MinSNR(ClippedSNR, name="min_snr"):
    """Min-SNR: the SNR up to gamma, on the data error.

    This equals min(SNR, gamma) / SNR on the noise error. On a variance preserving path it equals
    min(SNR, gamma) / (SNR + 1) on the error of v = alpha x1 - sigma x0.
    """

    source: ClassVar[str] = "Hang et al. 2023, eq. 8"
    stated_for: ClassVar[Stated] = "data"


@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weighting, name="truncated_snr"):
    """The SNR, but at least 1, on the data error.

    It has no bound towards the data, so t is clamped at `t_min`.
    """

    formula: ClassVar[str] = "max(SNR(max(t, {t_min:g})), 1)"
    source: ClassVar[str] = "Salimans & Ho 2022, section 4"
    stated_for: ClassVar[Stated] = "data"

    t_min: EarliestTime = 0.01
    """Time below which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return interpolant.snr(t.clamp(min=self.t_min)).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting, name="p2"):
    """Perception-prioritised, on the noise error: less weight at low noise levels."""

    formula: ClassVar[str] = "1 / ({k:g} + SNR(t))^{gamma:g}"
    source: ClassVar[str] = "Choi et al. 2022, eq. 8"
    stated_for: ClassVar[Stated] = "noise"

    gamma: NonNegative = 1.0
    """Strength; 0 is uniform."""
    k: Positive = 1.0
    """Constant added to the SNR; bounds the weight where the SNR is small."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return (self.k + interpolant.snr(t)) ** -self.gamma


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting, name="sigmoid"):
    """A sigmoid of log SNR on the noise error, as a weight per unit of log SNR.

    Kingma & Gao integrate over log SNR, so the weight at a uniform time has the factor -d lambda / dt. For other times,
    turn on the time sampler's `importance_correct` to train their objective. The factor has no bound at the ends of
    most paths, so t is clamped.
    """

    formula: ClassVar[str] = "-(d lambda / dt) sigmoid({bias:g} - lambda) at t clamped to [{t_min:g}, {t_max:g}]"
    source: ClassVar[str] = "Kingma & Gao 2023, section 5"
    stated_for: ClassVar[Stated] = "noise"

    bias: float = 2.0
    """log SNR at which the sigmoid is 1/2; above it, the sigmoid falls to zero."""
    t_min: EarliestTime = 0.01
    """Time below which the weight stays constant."""
    t_max: LatestTime = 0.99
    """Time above which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        t = t.clamp(self.t_min, self.t_max)
        return -interpolant.log_snr_dot(t) * torch.sigmoid(self.bias - interpolant.log_snr(t))


@dataclass(frozen=True, kw_only=True)
class EDM(Weighting, name="edm"):
    """EDM's weight on the data error, which equals a weight of 1 on the error of EDM's output at every noise level.

    It has no bound towards the data, so t is clamped at `t_min`.
    """

    formula: ClassVar[str] = "(s^2 + {sigma_data:g}^2) / ({sigma_data:g} s)^2, s = sigma / alpha at max(t, {t_min:g})"
    source: ClassVar[str] = "Karras et al. 2022, table 1"
    stated_for: ClassVar[Stated] = "data"

    sigma_data: Annotated[float, Range(1e-6, 1e6)] = 0.5
    """Standard deviation of the encoded data, in [1e-6, 1e6] so that float32 can hold its square."""
    t_min: EarliestTime = 0.01
    """Time below which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return self.sigma_data**-2 + interpolant.snr(t.clamp(min=self.t_min))


@dataclass(frozen=True, kw_only=True)
class Likelihood(Weighting, name="likelihood"):
    """The weight on the noise error that makes the loss a bound of the negative log-likelihood.

    Both papers integrate over time. For times that are not uniform, turn on the time sampler's `importance_correct` to
    train their objective. The weight has no bound at either end, so t is clamped.
    """

    formula: ClassVar[str] = "-(d lambda / dt) / 2 at t clamped to [{t_min:g}, {t_max:g}]"
    source: ClassVar[str] = "Song et al. 2021 (maximum likelihood), theorem 1; Kingma et al. 2021 (VDM)"
    stated_for: ClassVar[Stated] = "noise"

    t_min: EarliestTime = 0.01
    """Time below which the weight stays constant."""
    t_max: LatestTime = 0.99
    """Time above which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return -interpolant.log_snr_dot(t.clamp(self.t_min, self.t_max)) / 2


@dataclass(frozen=True, kw_only=True)
class CosMap(Weighting, name="cosmap"):
    """The density of the `cosmap` time sampler, as a weight of the velocity error."""

    formula: ClassVar[str] = "2 / (pi - 2 pi t + 2 pi t^2)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 21"
    stated_for: ClassVar[Stated] = "velocity"

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return cosmap_density(t)


@dataclass(frozen=True, kw_only=True)
class LogitNormal(Weighting, name="logit_normal"):
    """The density of the `logit_normal` time sampler, as a weight of the velocity error."""

    formula: ClassVar[str] = "density at t of logit(t) ~ N({mean:g}, {std:g}^2)"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 18 and 19"
    stated_for: ClassVar[Stated] = "velocity"

    mean: float = 0.0
    """Mean of logit(t); above 0 favours the noise end."""
    std: Positive = 1.0
    """Standard deviation of logit(t)."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return logit_normal_density(t, self.mean, self.std)
