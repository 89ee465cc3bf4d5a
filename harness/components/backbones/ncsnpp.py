"""DDPM++ and NCSN++: the U-Nets of score-based models (Song et al. 2021, appendix H)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Fourier, Sinusoidal, TimeEmbedding
from harness.components.backbones.unet import SelfAttention, level_heights, level_widths
from harness.core.config import Count, Presets, Range, Width
from harness.core.errors import ConfigError

_CIFAR10: dict[str, Any] = {
    "channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 4, "attention": (16,), "dropout": 0.1,
}  # fmt: skip
_EPS = 1e-6
_SQRT_HALF = math.sqrt(0.5)


@dataclass(frozen=True, kw_only=True)
class NCSNpp(Backbone, name="ncsnpp"):
    """DDPM++ and NCSN++, U-Nets for images [C, H, W], conditioned on time and class.

    Residual blocks of BigGAN's kind, also between levels; every sum with a skip connection is divided by sqrt(2).
    NCSN++ also divides its output by sigma; here that belongs to the prediction, not to the network.
    """

    source: ClassVar[str] = "Song et al. 2021, appendix H"
    presets: ClassVar[Presets] = {
        # The paper's code scales t by 999. Liu et al. 2023 train this network with dropout 0.15.
        "ddpmpp-cifar10": {**_CIFAR10, "time_embedding": Sinusoidal(scale=999)},
        # The paper embeds log sigma at 16 cycles per unit. On its path, `ve`, log sigma = log 0.01 + t log 5000: the
        # same waves of t, but for a phase that the next linear layer absorbs.
        "ncsnpp-cifar10": {
            **_CIFAR10, "filter": "fir", "progressive_input": "residual",
            "time_embedding": Fourier(std=16 * math.log(5000)), "time_multiplier": 2,
        },
    }  # fmt: skip

    channels: Width = 32
    """Width of the stem; a multiple of 32, or of 4 if no level is wider than 64."""
    multipliers: tuple[Annotated[int, Range(1, 1024, why="no published network widens by more")], ...] = (1, 2)
    """Width of each level, in multiples of `channels`; the image is halved between levels."""
    blocks: Annotated[int, Range(1, 100, why="no published network has more a level")] = 1
    """Residual blocks per level on the way down; the way up has one more per level."""
    attention: tuple[Count, ...] = ()
    """Image heights, in pixels, of the levels with self-attention: after each block on the way down, after the last on
    the way up. The middle always has it."""
    dropout: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Share of a block's activations dropped in training."""
    filter: Literal["box", "fir"] = "box"
    """How the image is halved and doubled. box: by averages of 2x2 and nearest neighbours; fir: by [1, 3, 3, 1] / 8
    along each axis, with less aliasing (Zhang 2019)."""
    progressive_input: Literal["none", "residual"] = "none"
    """residual: convolutions halve the image itself, level by level, and add it to the features of each level."""
    time_embedding: TimeEmbedding = Sinusoidal()
    time_multiplier: Annotated[int, Range(1, 64, why="no published network has a wider one")] = 1
    """Dimension of the time embedding, in multiples of `channels`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = level_widths(self.channels, self.multipliers)
        if self.channels % 32 and (self.channels % 4 or max(widths) > 64):
            advice = "Choose a multiple of 32, or of 4 if no level is wider than 64."
            raise ConfigError("channels", f"the groups of a norm do not divide every width of {widths}. {advice}")
        for name, usual in (("filter", "box"), ("progressive_input", "none")):
            if len(widths) == 1 and getattr(self, name) != usual:
                raise ConfigError(name, f"one level is never resampled. Give more multipliers, or set {name}={usual}.")

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        heights = level_heights(self.name, data_shape, len(self.multipliers), self.attention)
        return NCSNppModule(self, data_shape[0], heights, num_classes)


class NCSNppModule(Network):
    """The network of an `NCSNpp`.

    All layers start with Glorot's uniform weights and zero biases, except that the last layer of each block, of
    attention and of the network starts at zero.
    """

    def __init__(self, config: NCSNpp, data_channels: int, heights: list[int], num_classes: int):
        super().__init__()
        widths = level_widths(config.channels, config.multipliers)
        condition_dim = 4 * config.channels
        fir = config.filter == "fir"

        def block(inner: int, outer: int, attention: bool = False, resample: nn.Module | None = None) -> ResidualBlock:
            return ResidualBlock(inner, outer, condition_dim, config.dropout, attention, resample)

        self.condition = Condition(
            config.time_embedding, config.time_multiplier * config.channels, condition_dim, num_classes
        )
        self.stem = nn.Conv2d(data_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        skips = [width := config.channels]
        for level, outer in enumerate(widths):
            if level:
                self.down.append(block(width, width, resample=FIR("halve") if fir else nn.AvgPool2d(2)))
                skips.append(width)
            for _ in range(config.blocks):
                self.down.append(block(width, outer, heights[level] in config.attention))
                skips.append(width := outer)
        self.pyramid = nn.ModuleList()
        if config.progressive_input == "residual":
            for inner, outer in itertools.pairwise([data_channels, *widths[:-1]]):
                widen = FIR("smooth") if fir else nn.ZeroPad2d((0, 1, 0, 1))
                self.pyramid.append(nn.Sequential(widen, nn.Conv2d(inner, outer, 3, stride=2)))
        self.middle = nn.ModuleList([block(width, width, attention=True), block(width, width)])
        self.up = nn.ModuleList()
        for level, outer in reversed(list(enumerate(widths))):
            for i in range(config.blocks + 1):
                last = i == config.blocks
                self.up.append(block(width + skips.pop(), outer, last and heights[level] in config.attention))
                width = outer
            if level:
                self.up.append(block(width, width, resample=FIR("double") if fir else nn.Upsample(scale_factor=2)))
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, data_channels, 3, padding=1))
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                weight, bias = layer.parameters()
                nn.init.xavier_uniform_(weight)
                nn.init.zeros_(bias)
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)
        for layer in self.modules():
            if isinstance(layer, ResidualBlock):
                nn.init.zeros_(layer.conv2.weight)
            if isinstance(layer, SelfAttention):
                nn.init.zeros_(layer.output.weight)
                # A tenth of Glorot's variance for each of the three, which share one layer's fan.
                nn.init.xavier_uniform_(layer.qkv.weight, gain=math.sqrt(0.2))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1] and y [B] to [B, C, H, W]."""
        condition = F.silu(self.condition(t, y))
        halvings = iter(self.pyramid)
        skips = [h := self.stem(x)]
        for layer in self.down:
            h = layer(h, condition)
            if self.pyramid and layer.resample is not None:
                h = x = (h + next(halvings)(x)) * _SQRT_HALF
            skips.append(h)
        for layer in self.middle:
            h = layer(h, condition)
        for layer in self.up:
            h = layer(h if layer.resample is not None else torch.cat([h, skips.pop()], 1), condition)
        return self.head(h)


class ResidualBlock(nn.Module):
    """Two convolutions with group norm, the condition added between them; then self-attention with one head, if any.

    `resample` acts on the first convolution's input and on the shortcut, which then has a convolution at any width.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        condition_dim: int,
        dropout: float,
        attention: bool = False,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.norm1 = group_norm(inner)
        self.resample = resample
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.condition = nn.Linear(condition_dim, outer)
        self.norm2 = group_norm(outer)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.shortcut = nn.Conv2d(inner, outer, 1) if inner != outer or resample is not None else nn.Identity()
        self.attention = SelfAttention(outer, groups_of(outer), 1, _EPS) if attention else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, inner, H, W] and the condition [B, condition_dim] to [B, outer, H, W], resampled if it resamples."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h) + self.condition(condition)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        x = (self.shortcut(x) + h) * _SQRT_HALF
        return x if self.attention is None else self.attention(x) * _SQRT_HALF


class FIR(nn.Module):
    """Filters an image [B, C, H, W] by [1, 3, 3, 1] / 8 along each axis; beyond its edges are zeros.

    halve: to [B, C, H / 2, W / 2]. double: to [B, C, 2 H, 2 W], where zeros between the pixels are filtered too.
    smooth: to [B, C, H + 1, W + 1], for a strided convolution of 3x3 without padding.
    """

    kernel: Tensor

    def __init__(self, task: Literal["halve", "double", "smooth"]):
        super().__init__()
        self.task = task
        taps = (1, 3, 3, 1)
        total = 16 if task == "double" else 64  # the zeros between its pixels are three of four
        self.register_buffer("kernel", torch.tensor([[a * b / total for b in taps] for a in taps]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        if self.task == "double":
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
        stride, padding = (2, 1) if self.task == "halve" else (1, 2)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def groups_of(width: int) -> int:
    """Return the number of groups of a group norm: 32, or fewer with four channels each."""
    return min(width // 4, 32)


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups_of(width), width, _EPS)
