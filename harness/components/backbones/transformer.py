"""Transformers conditioned on time and class: the blocks, and the backbone for sequences (dit.py: for images)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Sinusoidal, TimeEmbedding, sine_positions
from harness.core.config import ADDED, Count, Depth, Width
from harness.core.errors import ConfigError

Conditioning = Literal["adaln", "add"]
TIME_DIM = 256
"""Dimension of the time embedding, before it is mapped to the network's width."""


@dataclass(frozen=True, kw_only=True)
class Transformer(Backbone, name="transformer"):
    """Transformer for sequences [L, D] of any length."""

    source: ClassVar[str] = "Vaswani et al. 2017; Peebles & Xie 2023, section 3.2"

    width: Width = 128
    """Width of the residual stream; a multiple of `heads` and of 2."""
    depth: Depth = 4
    """Number of transformer blocks."""
    heads: Count = 4
    """Attention heads per block; a divisor of `width`."""
    conditioning: Conditioning = field(default="adaln", metadata=ADDED)
    """adaln: time and class scale, shift and gate every block (adaLN-Zero); add: they are added to the tokens before
    the first block."""
    time_embedding: TimeEmbedding = Sinusoidal()

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_width(self.width, self.heads, 2)

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        if len(data_shape) != 2:
            raise ConfigError(
                "", f"transformer takes sequences [L, D], not {list(data_shape)}. Choose another backbone."
            )
        return TransformerModule(self, data_shape[1], num_classes)


def refuse_width(width: int, heads: int, factor: int) -> None:
    """Raise `ConfigError` if `width` is not a multiple of `heads` and of `factor`."""
    if width % heads or width % factor:
        raise ConfigError("width", f"{width} is not a multiple of heads ({heads}) and of {factor}. Choose one.")


class TransformerModule(Network):
    """The network of a `Transformer`; the output layer starts at zero."""

    def __init__(self, config: Transformer, channels: int, num_classes: int):
        super().__init__()
        self.stem = nn.Linear(channels, config.width)
        self.condition = Condition(config.time_embedding, TIME_DIM, config.width, num_classes)
        self.trunk = Trunk(config.width, config.depth, config.heads, channels, config.conditioning)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, L, D], t [B] in [0, 1] and y [B] to [B, L, D]."""
        positions = sine_positions(torch.arange(x.shape[1], device=x.device), self.stem.out_features)
        return self.trunk(self.stem(x) + positions.to(x.dtype), self.condition(t, y))


class Trunk(nn.Module):
    """Blocks, then a layer norm and a linear map. That map and all modulation start at zero."""

    def __init__(self, width: int, depth: int, heads: int, outputs: int, conditioning: Conditioning = "adaln"):
        super().__init__()
        modulated = conditioning == "adaln"
        blocks = [TransformerBlock(width, heads, modulated) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width) if modulated else None
        self.head = nn.Linear(width, outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for last in (self.modulation, self.head, *(block.modulation for block in blocks)):
            if last is not None:
                nn.init.zeros_(last.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, L, width] and the condition [B, width] to [B, L, outputs]."""
        condition = F.silu(condition)
        if self.modulation is None:
            x = x + condition[:, None]
        for block in self.blocks:
            x = block(x, condition)
        if self.modulation is None:
            return self.head(self.norm(x))
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.head(modulate(self.norm(x), shift, scale))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each after a layer norm.

    If `modulated`, the condition scales, shifts and gates both; the gates start at zero (Peebles & Xie 2023, figure 3).
    """

    def __init__(self, width: int, heads: int, modulated: bool = True):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width) if modulated else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, L, width] and the activated condition [B, width] to [B, L, width]."""
        if self.modulation is None:
            x = x + self._attend(self.norm(x))
            return x + self.mlp(self.norm(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self._attend(modulate(self.norm(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm(x), shift2, scale2))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.output(attended.transpose(1, 2).flatten(2))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, L, width] scaled and shifted by [B, 1, width]."""
    return torch.addcmul(shift, x, 1 + scale)
