"""The coupling `mine`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.components.couplings import Coupling, Pair


@dataclass(frozen=True, kw_only=True)
class Mine(Coupling, name="mine"):
    """Pairs the noise with the largest mean with the data with the largest mean, and so on."""

    formula: ClassVar[str] = "x0 and x1 paired by the order of their means"

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        """Pair data x0 and noise x1, both [B, ...], row by row; the data keep their order and classes y [B]."""
        places = x0.flatten(1).mean(1).argsort()
        paired = torch.empty_like(x1)
        paired[places] = x1[x1.flatten(1).mean(1).argsort()]
        return Pair(x0, paired, y)
