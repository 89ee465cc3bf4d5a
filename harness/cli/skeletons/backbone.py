"""The network `mine`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.embeddings import Condition, Sinusoidal, TimeEmbedding


@dataclass(frozen=True, kw_only=True)
class Mine(Backbone, name="mine"):
    """Two hidden layers for samples of any shape, conditioned on the time and the class."""

    width: int = 128
    """Width of the hidden layers; even."""
    time_embedding: TimeEmbedding = Sinusoidal()

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        """Return the network for samples of this shape, without the batch axis; `num_classes` is 0 without classes."""
        return MineNetwork(self, tuple(data_shape), num_classes)


class MineNetwork(Network):
    """The network that `Mine` builds."""

    def __init__(self, config: Mine, shape: tuple[int, ...], num_classes: int):
        super().__init__()
        size = torch.Size(shape).numel()
        self.condition = Condition(config.time_embedding, config.width, config.width, num_classes)
        self.stem = nn.Linear(size, config.width)
        self.inner = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, size)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Map x [B, ...], times t [B] in [0, 1] and classes y [B] (-1: no class) to a tensor shaped like x."""
        hidden = nn.functional.silu(self.stem(x.flatten(1)) + self.condition(t, y))
        hidden = hidden + nn.functional.silu(self.inner(hidden))
        return self.head(hidden).view(x.shape)
