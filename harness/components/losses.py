"""Losses: the error of each sample, averaged over a batch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.core.config import Positive
from harness.core.registry import Component


class Loss(Component, family="loss"):
    """A non-negative number for the error of each sample."""

    squared: ClassVar[bool] = False
    """Whether k times the error gives k^2 times the loss. Only then can a factor convert a weight of one quantity's
    error into a weight of another quantity's error."""

    @abstractmethod
    def measure(self, error: Tensor) -> Tensor:
        """Return the losses [B] >= 0 of errors [B, ...]; zero where the error is zero."""


@dataclass(frozen=True, kw_only=True)
class MSE(Loss, name="mse"):
    """Mean squared error over a sample's entries."""

    formula: ClassVar[str] = "mean(e^2)"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 9"
    squared: ClassVar[bool] = True

    def measure(self, error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Loss, name="pseudo_huber"):
    """Squared for small errors, linear for large ones, so outliers count less.

    Song & Dhariwal take the norm over d entries and c = 0.00054 sqrt(d). Here c = 0.00054, and the loss is their loss
    divided by sqrt(d).
    """

    formula: ClassVar[str] = "sqrt(mean(e^2) + c^2) - c, c = {c:g}"
    source: ClassVar[str] = "Song & Dhariwal 2024, eq. 8"

    c: Positive = 0.00054
    """Root mean square error at which the loss turns from squared to linear."""

    def measure(self, error: Tensor) -> Tensor:
        square = error.square().flatten(1).mean(1)
        return square / ((square + self.c**2).sqrt() + self.c)  # no cancellation of digits for small errors
