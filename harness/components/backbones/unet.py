"""A U-Net for images: residual blocks with FiLM, down and up sampling, skip connections (Ronneberger et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network, refuse
from harness.components.backbones.embeddings import SinusoidalEmbedding
from harness.config import Count, Positive, Range
from harness.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class UNet(Backbone, name="unet"):
    """U-Net with FiLM time conditioning, for images [C, H, W]."""

    source: ClassVar[str] = "Ronneberger et al. 2015; Ho et al. 2020; Perez et al. 2018"

    channels: Annotated[int, Range(4)] = 32
    """Width of the first level."""
    multipliers: tuple[Count, ...] = (1, 2)
    """Width of each level over `channels`; the image is halved between levels."""
    blocks: Count = 1
    """Residual blocks a level on the way down; one more on the way up."""
    groups: Count = 8
    """Groups of the group normalisation; divides every width."""
    dropout: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Share of a block's activations dropped in training."""
    time_scale: Positive = 1000.0
    """Factor on t before the sinusoidal embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.multipliers:
            raise ConfigError("multipliers", "there is no level. Give at least one, like [1, 2].")
        if any(self.channels * m % self.groups for m in self.multipliers):
            raise ConfigError("groups", f"{self.groups} does not divide every width. Choose a divisor of {self.channels}.")

    def build(self, data_shape: Sequence[int]) -> Network:
        if len(data_shape) != 3:
            raise ConfigError("", f"unet takes images [C, H, W], not {list(data_shape)}. Choose another backbone.")
        factor = 2 ** (len(self.multipliers) - 1)
        if data_shape[1] % factor or data_shape[2] % factor:
            size = f"{data_shape[1]}x{data_shape[2]}"
            raise ConfigError("multipliers", f"{len(self.multipliers)} levels do not halve {size} evenly. Use fewer.")
        return UNetModule(self, data_shape[0])


class UNetModule(Network):
    """The network of a `UNet`; the output layer starts at zero."""

    def __init__(self, config: UNet, data_channels: int):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        time_dim = 4 * config.channels
        self.embed_time = nn.Sequential(
            SinusoidalEmbedding(config.channels, config.time_scale),
            nn.Linear(config.channels // 2 * 2, time_dim),
            nn.SiLU(),
            nn.Linear(time_dim, time_dim),
            nn.SiLU(),
        )

        def block(inner: int, outer: int) -> ResidualBlock:
            return ResidualBlock(inner, outer, time_dim, config.groups, config.dropout)

        self.stem = nn.Conv2d(data_channels, widths[0], 3, padding=1)
        self.down, skips, width = nn.ModuleList(), [widths[0]], widths[0]
        for level, outer in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
            for _ in range(config.blocks):
                self.down.append(block(width, outer))
                skips.append(width := outer)
        self.middle = block(width, width)
        self.up = nn.ModuleList()
        for level, outer in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(width + skips.pop(), outer))
                width = outer
            if level:
                self.up.append(Upsample(width))
        self.head = nn.Sequential(nn.GroupNorm(config.groups, width), nn.SiLU(), nn.Conv2d(width, data_channels, 3, padding=1))
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, r: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] and t [B] in [0, 1] to [B, C, H, W]."""
        refuse(y=y, r=r, mask=mask)
        time = self.embed_time(t)
        skips = [x := self.stem(x)]
        for layer in self.down:
            skips.append(x := layer(x, time) if isinstance(layer, ResidualBlock) else layer(x))
        x = self.middle(x, time)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], 1), time) if isinstance(layer, ResidualBlock) else layer(x)
        return self.head(x)


class ResidualBlock(nn.Module):
    """Two convolutions with group norm; FiLM (Perez et al. 2018) scales and shifts between them by time."""

    def __init__(self, inner: int, outer: int, time_dim: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.film = nn.Linear(time_dim, 2 * outer)
        self.norm2 = nn.GroupNorm(groups, outer)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, inner, H, W] and the time embedding [B, time_dim] to [B, outer, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
