"""A loss of mine."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.losses import Loss


@dataclass(frozen=True, kw_only=True)
class Mine(Loss, name="mine"):
    """The squared error where it is small, the absolute error where it is large."""

    formula: ClassVar[str] = "mean of e^2 / 2 where |e| < {beta:g}, else {beta:g} (|e| - {beta:g} / 2)"

    beta: float = 1.0
    """Where it turns from one to the other, above 0."""

    def measure(self, error: Tensor) -> Tensor:
        """[B] >= 0 from errors [B, ...]."""
        size = error.abs()
        huber = (size < self.beta) * size.square() / 2 + (size >= self.beta) * self.beta * (size - self.beta / 2)
        return huber.flatten(1).mean(1)
