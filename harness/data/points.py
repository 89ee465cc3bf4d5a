"""Points in the plane whose density is known, with variance one in each coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.config import Count
from harness.data.base import Data, Dataset
from harness.rng import stream


@dataclass(frozen=True, kw_only=True)
class Points(Dataset):
    """Draws [N, 2] that are the same every time."""

    number: Count = 10_000
    """Points to train on; a fifth as many more are held out."""

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """float32 [number, 2], and the component that each point is from, int64 [number]."""
        raise NotImplementedError

    def load(self) -> Data:
        points, classes = self.draw(self.number, stream(0, self.name, "train"))
        held_out, _ = self.draw(max(1, self.number // 5), stream(0, self.name, "held out"))
        return Data(points, held_out, encode=torch.Tensor.float, decode=torch.Tensor.float, classes=classes)


@dataclass(frozen=True, kw_only=True)
class EightGaussians(Points, name="eight_gaussians"):
    """Eight narrow Gaussians on a circle."""

    source: ClassVar[str] = "the usual toy of Grathwohl et al. 2019 (FFJORD), scaled to unit variance"

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        component = torch.randint(8, (number,), generator=generator)
        angle, spread = component * math.pi / 4, 0.1
        centres = math.sqrt(2 * (1 - spread**2)) * torch.stack([angle.cos(), angle.sin()], dim=1)
        return centres + spread * torch.randn(number, 2, generator=generator), component


@dataclass(frozen=True, kw_only=True)
class Checkerboard(Points, name="checkerboard"):
    """Every other square of a board of four by four, evenly filled."""

    source: ClassVar[str] = "the usual toy of Grathwohl et al. 2019 (FFJORD), scaled to unit variance"

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        square = torch.randint(8, (number,), generator=generator)
        row, column = square // 2, square % 2 * 2 + square // 2 % 2
        corner = torch.stack([column, row], dim=1)
        return (corner + torch.rand(number, 2, generator=generator) - 2) * math.sqrt(3) / 2, square
