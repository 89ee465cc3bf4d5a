"""The solver `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.solvers import Field, OneStepSolver


@dataclass(frozen=True, kw_only=True)
class Mine(OneStepSolver, name="mine"):
    """Ralston's method of order 2: the second call is at two thirds of the step."""

    formula: ClassVar[str] = "k1 = v(x, t), k2 = v(x + 2/3 h k1, t + 2/3 h), x + h (k1 + 3 k2) / 4"
    calls_per_step = 2

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        """Take x [B, ...] from t to t + dt; dt is negative. Each `field(x, times [B])` is one network call."""
        first = field(x, t.expand(len(x)))
        second = field(x + 2 / 3 * dt * first, (t + 2 / 3 * dt).expand(len(x)))
        return x + dt * (first + 3 * second) / 4
