"""The perceptual loss `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.perceptual import Perceptual


@dataclass(frozen=True, kw_only=True)
class Mine(Perceptual, name="mine"):
    """Compares values and the steps between neighbours."""

    formula: ClassVar[str] = "mean (x - y)^2 + {edges:g} mean (diff x - diff y)^2"

    edges: float = 1.0
    """Weight of the steps between neighbours, at least 0."""

    def compare(self, samples: Tensor, targets: Tensor) -> Tensor:
        """Map samples [B, ...] and their targets [B, ...] to losses [B] >= 0."""
        error = samples - targets
        return error.square().flatten(1).mean(1) + self.edges * error.diff(dim=-1).square().flatten(1).mean(1)
