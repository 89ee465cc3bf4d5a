"""Samplers that modify another sampler: stratified, low-discrepancy, shifted and truncated times."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant, bisect
from harness.components.time_samplers.base import TimeSampler, Uniform
from harness.core.config import Fraction, Positive
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Stratified(Uniform, name="stratified"):
    """Uniform, one time in each of n equal intervals."""

    formula: ClassVar[str] = "p(t) = 1, one draw in each of n intervals"
    source: ClassVar[str] = "stratified sampling, Owen 2013, chapter 8"

    stratify: bool = True


@dataclass(frozen=True, kw_only=True)
class LowDiscrepancy(TimeSampler, name="low_discrepancy"):
    """n equally spaced quantiles of any sampler, shifted together by one random number, in random order."""

    formula: ClassVar[str] = "u_i = (u + i / n) mod 1 of {of}"
    source: ClassVar[str] = "Kingma et al. 2021 (VDM), appendix I.1"

    of: TimeSampler = Uniform()
    """The sampler whose quantiles are used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_inner(self.of)
        if self.stratify or _stratified(self.of):
            raise ConfigError(
                "stratify", "low_discrepancy draws one time in each interval already. Leave it false, in `of` too."
            )

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return self.of.quantile(u, interpolant)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return self.of.density(t, interpolant)

    def uniforms(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        shift = torch.rand(1, generator=generator, device=device)
        return ((shift + torch.randperm(n, generator=generator, device=device) / n) % 1).clamp(max=1 - 2**-24)


@dataclass(frozen=True, kw_only=True)
class Shifted(TimeSampler, name="shifted"):
    """Another sampler's times moved towards the noise, as larger images need."""

    formula: ClassVar[str] = "t = {shift:g} s / (1 + ({shift:g} - 1) s), s: {of}"
    source: ClassVar[str] = "Esser et al. 2024 (SD3), eq. 23"

    shift: Positive = 3.0
    """Shift factor; 1 changes nothing, larger values move times towards the noise."""
    of: TimeSampler = Uniform()
    """The sampler whose times are moved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_inner(self.of)
        if self.stratify and _stratified(self.of):
            raise ConfigError("stratify", f"{self.of.name} draws one time in each interval already. Leave it false.")

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        return shift_time(self.of.quantile(u, interpolant), self.shift)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        before = shift_time(t, 1 / self.shift)
        return self.of.density(before, interpolant) * (1 + (self.shift - 1) * before).square() / self.shift

    def uniforms(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        return super().uniforms(n, generator, device) if self.stratify else self.of.uniforms(n, generator, device)


@dataclass(frozen=True, kw_only=True)
class Truncated(TimeSampler, name="truncated"):
    """Another sampler's times, given that they lie between two bounds."""

    formula: ClassVar[str] = "p(t) of {of}, given {low:g} <= t <= {high:g}"
    source: ClassVar[str] = "Song et al. 2021, appendix C (times from 1e-5 on); Liu et al. 2023 (from 1e-3 on)"

    low: Fraction = 1e-5
    """Earliest time."""
    high: Fraction = 1.0
    """Latest time."""
    of: TimeSampler = Uniform()
    """The sampler whose times are cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_inner(self.of)
        if self.low >= self.high:
            raise ConfigError("low", f"{self.low:g} is not below high = {self.high:g}. Choose an earlier time.")
        if self.stratify and _stratified(self.of):
            raise ConfigError("stratify", f"{self.of.name} draws one time in each interval already. Leave it false.")

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        low, high = (_share_before(self.of, end, interpolant) for end in (self.low, self.high))
        return self.of.quantile(low + u * (high - low), interpolant).clamp(self.low, self.high)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        low, high = (_share_before(self.of, end, interpolant) for end in (self.low, self.high))
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, self.of.density(t, interpolant) / (high - low), 0)

    def uniforms(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        return super().uniforms(n, generator, device) if self.stratify else self.of.uniforms(n, generator, device)


@functools.lru_cache
def _share_before(sampler: TimeSampler, t: float, interpolant: Interpolant | None) -> float:
    """The probability that `sampler` draws a time before t."""
    return bisect(lambda u: sampler.quantile(u, interpolant) < t, torch.zeros(1, dtype=torch.float64)).item()


def shift_time(t: Tensor, shift: float) -> Tensor:
    """shift t / (1 + (shift - 1) t); its inverse shifts by 1 / shift."""
    return shift * t / (1 + (shift - 1) * t)


def _refuse_inner(of: TimeSampler) -> None:
    for name in ("importance_correct", "density_floor"):
        if getattr(of, name) != getattr(TimeSampler, name):
            raise ConfigError(f"of.{name}", "the correction uses the outer sampler's density. Set it there.")


def _stratified(sampler: TimeSampler) -> bool:
    """Whether a sampler draws one time in each of n equally likely intervals."""
    inner = sampler.of if isinstance(sampler, LowDiscrepancy | Shifted | Truncated) else None
    return sampler.stratify or isinstance(sampler, LowDiscrepancy) or (inner is not None and _stratified(inner))
