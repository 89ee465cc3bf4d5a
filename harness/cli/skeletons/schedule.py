"""A schedule of the learning rate of mine."""

from dataclasses import dataclass
from typing import ClassVar

from harness.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Mine(Schedule, name="mine"):
    """A straight line from the peak to a share of it."""

    formula: ClassVar[str] = "1 to {last:g}, linear in the step"

    last: float = 0.1
    """Share of the peak at the end, from 0 to 1."""

    def share(self, step: int, warmup: int, steps: int) -> float:
        """Share of the peak, from 0 to 1, at `step` of [warmup, steps)."""
        return 1 - (1 - self.last) * (step - warmup) / max(1, steps - warmup)
