"""The time embedding `mine`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.components.backbones.embeddings import TimeEmbedding


@dataclass(frozen=True, kw_only=True)
class Mine(TimeEmbedding, name="mine"):
    """Powers of the time."""

    def build(self, dim: int) -> nn.Module:
        """Return a module that maps times [B] in [0, 1] to [B, dim]."""
        return Powers(dim)


class Powers(nn.Module):
    """t, t^2, ..., t^dim."""

    exponents: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("exponents", torch.arange(1.0, dim + 1))

    def forward(self, t: Tensor) -> Tensor:
        """Map [B] to [B, dim]."""
        return t[:, None] ** self.exponents
