"""Time as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of `scale` t at geometric frequencies 1 to 1/10,000 (Vaswani et al. 2017, section 3.5).

    Flow matching's t lies in [0, 1], where most of these frequencies are constant; `scale` = 1000 gives
    them the range that they have in diffusion models.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float):
        super().__init__()
        half = dim // 2
        self.register_buffer("frequencies", scale * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] to [B, dim]."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
