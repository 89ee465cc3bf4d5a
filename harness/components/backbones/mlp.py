"""A residual multilayer perceptron for vectors: points and gene expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Sinusoidal, TimeEmbedding
from harness.core.config import Depth, Range, Width
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MLP(Backbone, name="mlp"):
    """Residual MLP with FiLM conditioning on time and class, for vectors [D]."""

    source: ClassVar[str] = "He et al. 2016; Perez et al. 2018"

    width: Width = 128
    """Width of the residual stream."""
    blocks: Depth = 3
    """Number of residual blocks."""
    dropout: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Share of a block's inner activations dropped in training."""
    time_embedding: TimeEmbedding = Sinusoidal()

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        if len(data_shape) != 1:
            raise ConfigError("", f"mlp takes vectors [D], not {list(data_shape)}. Choose another backbone.")
        return MLPModule(self, data_shape[0], num_classes)


class MLPModule(Network):
    """The network of an `MLP`; the output layer starts at zero."""

    def __init__(self, config: MLP, features: int, num_classes: int):
        super().__init__()
        self.condition = Condition(config.time_embedding, config.width // 2 * 2, config.width, num_classes)
        self.stem = nn.Linear(features, config.width)
        self.blocks = nn.ModuleList(FiLMBlock(config.width, config.dropout) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, features)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, D], t [B] in [0, 1] and y [B] to [B, D]."""
        condition = F.silu(self.condition(t, y))
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x)


class FiLMBlock(nn.Module):
    """Two linear layers; time and class scale and shift their input (FiLM).

    There is no layer norm: it would remove the distance of a point from the origin.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.film = nn.Linear(width, 2 * width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x and the condition, both [B, width], to [B, width]."""
        scale, shift = self.film(condition).chunk(2, dim=-1)
        return x + self.outer(self.dropout(F.silu(self.inner(x * (1 + scale) + shift))))
