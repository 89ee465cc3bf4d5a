"""A U-Net for images: conditioned residual blocks, self-attention, down- and upsampling, skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Sinusoidal, TimeEmbedding
from harness.core.config import ADDED, Count, Presets, Range, Width
from harness.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class UNet(Backbone, name="unet"):
    """U-Net for images [C, H, W], conditioned on time and class."""

    source: ClassVar[str] = "Ronneberger et al. 2015; Ho et al. 2020; Dhariwal & Nichol 2021"
    presets: ClassVar[Presets] = {
        "digits": {"channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 4},
        "fashion": {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "groups": 8},
        "torchcfm-cifar10": {
            "channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,), "conditioning": "add",
            "groups": 32, "dropout": 0.1,
        },
        # Lipman et al. 2023, table 3. They name ADM, but not how its levels are resampled: as in ADM is assumed here.
        "adm-256": {
            "channels": 256, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,), "head_channels": 64,
            "conditioning": "film", "groups": 32, "resample": "residual",
        },
    }  # fmt: skip

    channels: Width = 32
    """Width of the first level."""
    multipliers: tuple[Annotated[int, Range(1, 1024, why="no published network widens by more")], ...] = (1, 2)
    """Width of each level, in multiples of `channels`; the image is halved between levels."""
    blocks: Annotated[int, Range(1, 100, why="no published network has more a level")] = 1
    """Residual blocks per level on the way down; the way up has one more per level."""
    attention: tuple[Count, ...] = ()
    """Image heights, in pixels, of the levels with self-attention; if there are any, the middle has it too."""
    head_channels: Count = 64
    """Width of an attention head; a divisor of the width of every wider level. A narrower level has one head."""
    conditioning: Literal["film", "add"] = "film"
    """film: time and class scale and shift a block's activations (Perez et al. 2018); add: they are added to them."""
    groups: Count = 8
    """Groups of the group normalisation; a divisor of the width of every level."""
    dropout: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Share of a block's activations dropped in training."""
    time_embedding: TimeEmbedding = Sinusoidal()
    resample: Literal["convolution", "residual"] = field(default="convolution", metadata=ADDED)
    """How the image is halved and doubled between levels. convolution: by a strided one, and by nearest neighbours
    before one; residual: by averages of 2x2 and nearest neighbours inside a residual block (Dhariwal & Nichol 2021)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = level_widths(self.channels, self.multipliers)
        if any(width % self.groups for width in widths):
            raise ConfigError(
                "groups", f"{self.groups} does not divide every width. Choose a divisor of {self.channels}."
            )
        if self.attention and any(width > self.head_channels and width % self.head_channels for width in widths):
            raise ConfigError(
                "head_channels",
                f"{self.head_channels} does not divide the widths {widths}. Choose a divisor of {self.channels}.",
            )
        if self.resample == "residual" and len(widths) == 1:
            raise ConfigError("resample", "one level is never resampled. Give more multipliers, or leave it out.")

    def heads(self, width: int) -> int:
        """Return the number of attention heads of a level of this width."""
        return max(1, width // self.head_channels)

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        heights = level_heights(self.name, data_shape, len(self.multipliers), self.attention)
        return UNetModule(self, data_shape[0], heights, num_classes)


def level_widths(channels: int, multipliers: Sequence[int]) -> list[int]:
    """Return the width of each level; `ConfigError` if there is no level."""
    if not multipliers:
        raise ConfigError("multipliers", "there is no level. Give at least one, like [1, 2].")
    return [channels * multiplier for multiplier in multipliers]


def level_heights(name: str, data_shape: Sequence[int], levels: int, attention: Sequence[int]) -> list[int]:
    """Return the image height of each level; `ConfigError` if the backbone `name` does not fit the data."""
    if len(data_shape) != 3:
        raise ConfigError("", f"{name} takes images [C, H, W], not {list(data_shape)}. Choose another backbone.")
    _, height, width = data_shape
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ConfigError("multipliers", f"{levels} levels do not halve {height}x{width} evenly. Use fewer.")
    heights = [height // 2**level for level in range(levels)]
    if missing := set(attention) - set(heights):
        raise ConfigError("attention", f"no level has height {min(missing)}. Choose from {heights}.")
    return heights


class UNetModule(Network):
    """The network of a `UNet`; the output layer starts at zero."""

    def __init__(self, config: UNet, data_channels: int, heights: list[int], num_classes: int):
        super().__init__()
        widths = level_widths(config.channels, config.multipliers)
        condition_dim = 4 * config.channels
        self.condition = Condition(config.time_embedding, config.channels // 2 * 2, condition_dim, num_classes)

        def block(inner: int, outer: int, attention: bool, resample: nn.Module | None = None) -> ResidualBlock:
            return ResidualBlock(inner, outer, condition_dim, config, config.heads(outer) if attention else 0, resample)

        residual = config.resample == "residual"
        self.stem = nn.Conv2d(data_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        skips = [widths[0]]
        width = widths[0]
        for level, outer in enumerate(widths):
            if level:
                self.down.append(
                    block(width, width, False, nn.AvgPool2d(2))
                    if residual
                    else nn.Conv2d(width, width, 3, stride=2, padding=1)
                )
                skips.append(width)
            for _ in range(config.blocks):
                self.down.append(block(width, outer, heights[level] in config.attention))
                skips.append(width := outer)
        self.middle = nn.ModuleList([block(width, width, bool(config.attention))])
        if config.attention:
            self.middle.append(block(width, width, False))
        self.up = nn.ModuleList()
        for level, outer in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(width + skips.pop(), outer, heights[level] in config.attention))
                width = outer
            if level:
                self.up.append(block(width, width, False, nn.Upsample(scale_factor=2)) if residual else Upsample(width))
        self.head = nn.Sequential(
            nn.GroupNorm(config.groups, width), nn.SiLU(), nn.Conv2d(width, data_channels, 3, padding=1)
        )
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1] and y [B] to [B, C, H, W]."""
        condition = F.silu(self.condition(t, y))
        skips = [x := self.stem(x)]
        for layer in self.down:
            skips.append(x := layer(x, condition) if isinstance(layer, ResidualBlock) else layer(x))
        for layer in self.middle:
            x = layer(x, condition)
        for layer in self.up:
            if isinstance(layer, ResidualBlock) and layer.resample is None:
                x = torch.cat([x, skips.pop()], 1)
            x = layer(x, condition) if isinstance(layer, ResidualBlock) else layer(x)
        return self.head(x)


class ResidualBlock(nn.Module):
    """Two convolutions with group norm, conditioned between them; then self-attention if there are heads.

    `resample` acts on the first convolution's input and on the shortcut (BigGAN: Brock et al. 2019, appendix B).
    """

    def __init__(
        self, inner: int, outer: int, condition_dim: int, config: UNet, heads: int, resample: nn.Module | None = None
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, inner)
        self.resample = resample
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.film = config.conditioning == "film"
        self.condition = nn.Linear(condition_dim, 2 * outer if self.film else outer)
        self.norm2 = nn.GroupNorm(config.groups, outer)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        self.attention = SelfAttention(outer, config.groups, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, inner, H, W] and the condition [B, condition_dim] to [B, outer, H, W], resampled if it resamples."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        condition = self.condition(condition)[:, :, None, None]
        if self.film:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + condition)
        return self.attention(self.shortcut(x) + self.conv2(self.dropout(F.silu(h))))


class SelfAttention(nn.Module):
    """Self-attention among all pixels of an image (Vaswani et al. 2017); its output layer starts at zero."""

    def __init__(self, width: int, groups: int, heads: int, eps: float = 1e-5):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width, eps)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.output = nn.Conv2d(width, width, 1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width, H, W] to the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.output(attended.transpose(-1, -2).reshape(x.shape))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
