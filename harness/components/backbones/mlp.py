"""A residual multilayer perceptron for vectors: points and gene expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network, refuse
from harness.components.backbones.embeddings import SinusoidalEmbedding
from harness.config import Count, Positive, Range
from harness.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MLP(Backbone, name="mlp"):
    """Residual MLP with FiLM time conditioning, for vectors [D]."""

    source: ClassVar[str] = "He et al. 2016; Perez et al. 2018"

    width: Annotated[int, Range(4)] = 128
    """Of the residual stream."""
    blocks: Count = 3
    """Residual blocks."""
    time_scale: Positive = 1000.0
    """Factor on t before the sinusoidal embedding."""

    def build(self, data_shape: Sequence[int]) -> Network:
        if len(data_shape) != 1:
            raise ConfigError("", f"mlp takes vectors [D], not {list(data_shape)}. Choose another backbone.")
        return MLPModule(self, data_shape[0])


class MLPModule(Network):
    """The network of an `MLP`; the output layer starts at zero."""

    def __init__(self, config: MLP, features: int):
        super().__init__()
        self.embed_time = nn.Sequential(
            SinusoidalEmbedding(config.width, config.time_scale), nn.Linear(config.width // 2 * 2, config.width), nn.SiLU()
        )
        self.stem = nn.Linear(features, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, features)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, r: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, D] and t [B] in [0, 1] to [B, D]."""
        refuse(y=y, r=r, mask=mask)
        time, x = self.embed_time(t), self.stem(x)
        for block in self.blocks:
            x = block(x, time)
        return self.head(x)


class Block(nn.Module):
    """Two linear layers, whose input time scales and shifts. There is no layer norm: it would take away how far out a point is."""

    def __init__(self, width: int):
        super().__init__()
        self.film = nn.Linear(width, 2 * width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x and the time embedding, both [B, width], to [B, width]."""
        scale, shift = self.film(time).chunk(2, dim=-1)
        return x + self.outer(F.silu(self.inner(x * (1 + scale) + shift)))
