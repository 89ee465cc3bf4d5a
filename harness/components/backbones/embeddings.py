"""Embeddings of time and class."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.core.config import Positive
from harness.core.registry import Component


class TimeEmbedding(Component, family="time_embedding"):
    """A map from the time t to a vector."""

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """Return a module that maps t [B] in [0, 1] to [B, dim]; `dim` is even."""


@dataclass(frozen=True, kw_only=True)
class Sinusoidal(TimeEmbedding, name="sinusoidal"):
    """Sines and cosines of `scale` t at geometric frequencies from 1 to 1/10,000.

    In flow matching t lies in [0, 1], where most of these waves are almost constant. `scale` = 1000 gives them the
    range that they have in diffusion models.
    """

    source: ClassVar[str] = "Vaswani et al. 2017, section 3.5"

    scale: Positive = 1000.0
    """Factor that multiplies t; 1 leaves t in [0, 1]."""

    def build(self, dim: int) -> nn.Module:
        half = dim // 2
        return Waves(self.scale * torch.exp(-math.log(10_000) * torch.arange(half, device="cpu") / max(1, half - 1)))


@dataclass(frozen=True, kw_only=True)
class Fourier(TimeEmbedding, name="fourier"):
    """Sines and cosines of t at random frequencies, drawn once and saved with the network."""

    source: ClassVar[str] = "Tancik et al. 2020, section 5; Song et al. 2021, appendix C"

    std: Positive = 16.0
    """Standard deviation of the frequencies, in cycles over [0, 1]."""

    def build(self, dim: int) -> nn.Module:
        return Waves(2 * math.pi * self.std * torch.randn(dim // 2, device="cpu"), persistent=True)


@dataclass(frozen=True, kw_only=True)
class Learned(TimeEmbedding, name="learned"):
    """A learned function of t: two linear layers with SiLU between them."""

    def build(self, dim: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, dim), nn.SiLU(), nn.Linear(dim, dim))


class Waves(nn.Module):
    """Sines and cosines of t at given angular frequencies [dim / 2].

    The caller computes the frequencies on the CPU, even for a network on the meta device. There, torch would use its
    compiler to multiply, and to import the compiler takes two seconds.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Tensor, persistent: bool = False):
        super().__init__()
        self.register_buffer("frequencies", frequencies.to(torch.get_default_device()), persistent=persistent)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] to [B, dim]."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Condition(nn.Module):
    """Embeds the time, and the class if there are classes, in one vector that conditions every block of a network."""

    def __init__(self, embedding: TimeEmbedding, dim: int, width: int, num_classes: int):
        super().__init__()
        self.time = nn.Sequential(embedding.build(dim), nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        """Row 0 stands for no class, row y + 1 for class y."""

    def forward(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t [B] in [0, 1] and classes y [B], -1 for none, to [B, width]; y = None means none for all."""
        time = self.time(t)
        if self.classes is None:
            assert y is None, "a network without classes was given some"
            return time
        return time + self.classes(torch.zeros_like(t, dtype=torch.long) if y is None else y + 1)


def sine_positions(positions: Tensor, width: int) -> Tensor:
    """Return sines and cosines [L, width] of integer positions [L] (Vaswani et al. 2017, section 3.5)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=positions.device) / (width // 2))
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
