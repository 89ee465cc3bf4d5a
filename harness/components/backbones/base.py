"""What every backbone is: a configuration that builds a network for a data shape."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from harness.registry import Component


class Backbone(Component, family="backbone"):
    """`build` makes a module whose `forward(x [B, ...], t [B])` returns a tensor shaped like x."""

    def build(self, data_shape: Sequence[int]) -> nn.Module:
        """The network for samples of `data_shape` (without the batch axis); `ConfigError` when it does not fit."""
        raise NotImplementedError
