"""The noise `mine`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.components.noises import Noise


@dataclass(frozen=True, kw_only=True)
class Mine(Noise, name="mine"):
    """Each entry is -width or width, with equal probability."""

    formula: ClassVar[str] = "x1 = -{width:g} or {width:g}"

    width: float = 1.0

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        """Draw float32 noise of this shape [B, ...], with mean 0, on the generator's device."""
        return self.width * (2.0 * torch.randint(2, tuple(shape), generator=generator, device=generator.device) - 1)

    def variance(self, state: Mapping[str, Tensor]) -> Tensor:
        """The variance of each entry."""
        return torch.tensor(self.width**2)
