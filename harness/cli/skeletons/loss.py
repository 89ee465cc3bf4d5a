"""The loss `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.losses import Loss


@dataclass(frozen=True, kw_only=True)
class Mine(Loss, name="mine"):
    """Squared for small errors, linear for large ones."""

    formula: ClassVar[str] = "mean of e^2 / 2 where |e| < {beta:g}, else {beta:g} (|e| - {beta:g} / 2)"

    beta: float = 1.0
    """The error at which the loss becomes linear, above 0."""

    def measure(self, error: Tensor) -> Tensor:
        """Map errors [B, ...] to losses [B] >= 0."""
        size = error.abs()
        huber = (size < self.beta) * size.square() / 2 + (size >= self.beta) * self.beta * (size - self.beta / 2)
        return huber.flatten(1).mean(1)
