"""The time sampler `mine`: a density of training times."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.time_samplers import TimeSampler


@dataclass(frozen=True, kw_only=True)
class Mine(TimeSampler, name="mine"):
    """More times near the noise (t = 1)."""

    formula: ClassVar[str] = "p(t) = {power:g} t^({power:g} - 1)"

    power: float = 2.0
    """1 is uniform."""

    def quantile(self, u: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """Map u [n] in [0, 1] to times [n] by the inverse of the distribution function."""
        return u ** (1 / self.power)

    def density(self, t: Tensor, interpolant: Interpolant | None = None) -> Tensor:
        """Return p(t), shaped like t."""
        return self.power * t ** (self.power - 1)
