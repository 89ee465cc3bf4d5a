"""The time grid `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.time_grids import TimeGrid


@dataclass(frozen=True, kw_only=True)
class Mine(TimeGrid, name="mine"):
    """Shorter steps near the data (t = 0)."""

    formula: ClassVar[str] = "t = u^{power:g}"

    power: float = 1.5
    """1 is a uniform grid."""

    def place(self, u: Tensor, steps: int, interpolant: Interpolant) -> Tensor:
        """Map equally spaced u [steps + 1], which fall from 1 to 0, to times that fall from 1 to 0."""
        return u**self.power
