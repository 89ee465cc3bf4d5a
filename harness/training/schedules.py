"""Schedules of the learning rate, as a share of its peak. The trainer adds a linear warm-up before them."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from harness.core.config import Fraction, Index, Positive
from harness.core.registry import Component


@dataclass(frozen=True, kw_only=True)
class Schedule(Component, family="schedule"):
    """The learning rate after the warm-up."""

    @abstractmethod
    def share(self, step: int, warmup: int, steps: int) -> float:
        """Share of the peak, in [0, 1], at `step` in [warmup, steps), counted from 0."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule, name="constant"):
    """Constant at the peak to the end."""

    formula: ClassVar[str] = "1"

    def share(self, step: int, warmup: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule, name="cosine"):
    """Half a cosine that ends at zero."""

    formula: ClassVar[str] = "(1 + cos(pi (step - warmup) / (steps - warmup))) / 2"
    source: ClassVar[str] = "Loshchilov & Hutter 2017, eq. 5, without restarts"

    def share(self, step: int, warmup: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Schedule, name="inverse_sqrt"):
    """Constant at the peak, then falling as 1 / sqrt(step), independent of the training's length."""

    formula: ClassVar[str] = "1 / sqrt(max(step / {reference_steps}, 1)), 0: the warm-up"
    source: ClassVar[str] = "Vaswani et al. 2017, eq. 3; with reference_steps: Karras et al. 2024 (EDM2), eq. 67"

    reference_steps: Index = 0
    """Step at which the fall begins; 0 is the end of the warm-up."""

    def share(self, step: int, warmup: int, steps: int) -> float:
        return 1 / math.sqrt(max((step + 1) / (self.reference_steps or max(1, warmup)), 1))


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay(Schedule, name="polynomial"):
    """Falls to a floor as a power of the remaining share of the training; linearly by default."""

    formula: ClassVar[str] = "{floor:g} + (1 - {floor:g}) (1 - (step - warmup) / (steps - warmup))^{power:g}"
    source: ClassVar[str] = "Lipman et al. 2023, appendix E (linear, from 5e-4 to 1e-8)"

    power: Positive = 1.0
    """Exponent; 1 is linear, larger values fall faster at first."""
    floor: Fraction = 0.0
    """Share of the peak that the rate falls to."""

    def share(self, step: int, warmup: int, steps: int) -> float:
        left = 1 - (step - warmup) / max(1, steps - warmup)
        return self.floor + (1 - self.floor) * left**self.power
