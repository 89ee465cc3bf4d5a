"""The weighting `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.weightings import Weighting


@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="mine"):
    """More weight near the data (t = 0) than near the noise (t = 1)."""

    formula: ClassVar[str] = "(1 - t)^{power:g}"

    power: float = 1.0
    """0 weights all times equally."""

    def weight(self, t: Tensor, interpolant: Interpolant) -> Tensor:
        """Return w(t) >= 0, shaped like the times t [B] in [0, 1]."""
        return (1 - t) ** self.power
