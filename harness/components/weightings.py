"""w(t): how much the squared velocity error at time t counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.time_samplers import TimeSampler
from harness.config import Positive, Range
from harness.registry import Component


class Weighting(Component, family="weighting"):
    """A weight for each time."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        """w(t) >= 0, finite, shaped like t [B]."""
        raise NotImplementedError

    def mean(self, time_sampler: TimeSampler, interpolant: Interpolant) -> float:
        """E[w(t)] under the time density, by the midpoint rule over 2^20 quantiles in float64."""
        u = (torch.arange(2**20, dtype=torch.float64) + 0.5) / 2**20
        return self.weight(time_sampler.quantile(u, interpolant), interpolant).mean().item()


@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting, name="uniform"):
    """1: conditional flow matching, Lipman et al. 2023, eq. 9."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class InverseSNR(Weighting, name="inverse_snr"):
    """1 / SNR(t), which grows without bound towards noise, so t is clamped at `t_max`."""

    t_max: Annotated[float, Range(0.97, 0.9999)] = 0.999
    """Time above which the weight stays constant."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return 1 / interpolant.snr(t.clamp(max=self.t_max))


@dataclass(frozen=True, kw_only=True)
class DataEnd(Weighting, name="data_end"):
    """(1 - t)^power: emphasis on the data end."""

    power: Positive = 2.0
    """Exponent; larger concentrates the weight closer to t = 0."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return (1 - t) ** self.power


@dataclass(frozen=True, kw_only=True)
class NoiseEnd(Weighting, name="noise_end"):
    """t^power: emphasis on the noise end."""

    power: Positive = 2.0
    """Exponent; larger concentrates the weight closer to t = 1."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return t**self.power


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting, name="min_snr"):
    """min(SNR(t), gamma) on the velocity error.

    Hang et al. 2023 (eq. 8) apply min(SNR, gamma) to the error of predicted data; for `linear` that is
    min(SNR, gamma) t^2 on the velocity error, a different weighting.
    """

    gamma: Positive = 5.0
    """Largest weight; SNR is capped here."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        return interpolant.snr(t).clamp(max=self.gamma)
