"""The weight average `mine`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.components.averages import Average, Term, ema_name
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mine(Average, name="mine"):
    """Part of the last weights and part of their moving average."""

    formula: ClassVar[str] = "{last:g} of the last weights, the rest of the average with train.ema_decay"

    last: float = 0.5
    """Share of the last weights, from 0 to 1."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        """`ConfigError` if training does not keep the weights that `terms` needs."""
        if not decays:
            raise ConfigError("", "training keeps no average: train.ema_decay is null. Give it a decay.")

    def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]:
        """The terms whose sum is the average; their shares sum to 1."""
        return [Term("network", self.last), Term(f"averages/{ema_name(decays[0])}", 1 - self.last)]
