"""The base class of backbones: a configuration that builds a network for a data shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from harness.core.registry import Component


class Network(nn.Module):
    """The network that a backbone builds: it maps x [B, ...] and t [B] in [0, 1] to a tensor shaped like x.

    `y` [B] are classes, -1 for none.
    """

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the estimate of the prediction's target (velocity, data, ...), shaped like x."""


class Backbone(Component, family="backbone"):
    """A configuration of a `Network`."""

    @abstractmethod
    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        """Return the network for samples of `data_shape` (without the batch axis) of `num_classes` classes, 0 for none.

        Raises `ConfigError` if the backbone does not fit this shape.
        """
