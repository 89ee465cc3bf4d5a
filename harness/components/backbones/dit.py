"""The diffusion transformer: an image as a sequence of patches (Peebles & Xie 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Sinusoidal, TimeEmbedding, sine_positions
from harness.components.backbones.transformer import TIME_DIM, Trunk, refuse_width
from harness.core.config import Count, Depth, Presets, Range, Width
from harness.core.errors import ConfigError, UserError

_SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
"""Width, depth and heads: Peebles & Xie 2023, table 1."""


@dataclass(frozen=True, kw_only=True)
class DiT(Backbone, name="dit"):
    """Diffusion transformer for images or latents [C, H, W]; it works at other sizes than it was trained at."""

    source: ClassVar[str] = "Peebles & Xie 2023"
    presets: ClassVar[Presets] = {
        "digits": {"width": 64, "depth": 4, "heads": 4, "patch": 2},
        **{
            f"{size}/{patch}": {"width": width, "depth": depth, "heads": heads, "patch": patch}
            for size, (width, depth, heads) in _SIZES.items()
            for patch in (2, 4, 8)
        },
    }

    width: Width = 384
    """Width of the residual stream; a multiple of `heads` and of 4."""
    depth: Depth = 12
    """Number of transformer blocks."""
    heads: Count = 6
    """Attention heads per block; a divisor of `width`."""
    patch: Annotated[int, Range(1, 1024, why="no picture has larger patches")] = 2
    """Side of the square patches, in pixels; a divisor of the image's height and width."""
    time_embedding: TimeEmbedding = Sinusoidal()

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_width(self.width, self.heads, 4)

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        if len(data_shape) != 3:
            raise ConfigError("", f"dit takes images [C, H, W], not {list(data_shape)}. Choose another backbone.")
        channels, height, width = data_shape
        if height % self.patch or width % self.patch:
            raise ConfigError("patch", f"{self.patch} does not divide {height}x{width}. Choose a divisor.")
        return DiTModule(self, channels, num_classes)


class DiTModule(Network):
    """The network of a `DiT`; the output layer starts at zero."""

    def __init__(self, config: DiT, channels: int, num_classes: int):
        super().__init__()
        self.patch = config.patch
        self.width = config.width
        self.stem = nn.Linear(channels * config.patch**2, config.width)
        nn.init.xavier_uniform_(self.stem.weight)
        nn.init.zeros_(self.stem.bias)
        self.condition = Condition(config.time_embedding, TIME_DIM, config.width, num_classes)
        for parameter in self.condition.parameters():
            nn.init.normal_(parameter, std=0.02) if parameter.ndim == 2 else nn.init.zeros_(parameter)
        self.trunk = Trunk(config.width, config.depth, config.heads, channels * config.patch**2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1] and y [B] to [B, C, H, W]; `patch` divides H and W, else `UserError`."""
        _, channels, height, width = x.shape
        p = self.patch
        if height % p or width % p:
            raise UserError(f"backbone: patches of {p} do not divide {height}x{width}. Choose a size that they divide.")
        rows, columns = height // p, width // p
        patches = (
            x.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        )
        tokens = self.stem(patches) + self._positions(rows, columns, x.device).to(x.dtype)
        out = self.trunk(tokens, self.condition(t, y)).view(-1, rows, columns, channels, p, p)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """[rows * columns, width]: half of the width encodes the row, half the column."""
        row, column = (sine_positions(torch.arange(n, device=device), self.width // 2) for n in (rows, columns))
        return torch.cat([row[:, None].expand(-1, columns, -1), column.expand(rows, -1, -1)], dim=-1).flatten(0, 1)
