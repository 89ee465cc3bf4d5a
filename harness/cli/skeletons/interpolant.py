"""The interpolant `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.interpolants import Interpolant


@dataclass(frozen=True, kw_only=True)
class Mine(Interpolant, name="mine"):
    """x_t = alpha(t) x0 + sigma(t) x1, from data (t = 0) to noise (t = 1). Autograd computes the derivatives."""

    formula: ClassVar[str] = "alpha = 1 - t^{power:g}, sigma = t^{power:g}"

    power: float = 2.0
    """1 is the straight path at constant speed."""

    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient of the data, shaped like t: 1 at t = 0, and it falls."""
        return 1 - t**self.power

    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient of the noise, shaped like t; it rises."""
        return t**self.power
