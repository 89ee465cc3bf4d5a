"""The learning rate schedule `mine`."""

from dataclasses import dataclass
from typing import ClassVar

from harness.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Mine(Schedule, name="mine"):
    """Falls linearly from the peak to a share of it."""

    formula: ClassVar[str] = "1 to {last:g}, linear in the step"

    last: float = 0.1
    """Share of the peak at the end, from 0 to 1."""

    def share(self, step: int, warmup: int, steps: int) -> float:
        """Return the share of the peak, from 0 to 1, at a step in [warmup, steps)."""
        return 1 - (1 - self.last) * (step - warmup) / max(1, steps - warmup)
