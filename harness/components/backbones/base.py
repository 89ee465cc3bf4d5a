"""What every backbone is: a configuration that builds a network for a data shape."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from harness.core.errors import UserError
from harness.core.registry import Component


class Network(nn.Module):
    """What a backbone builds: x [B, ...] and t [B] in [0, 1] to a tensor shaped like x.

    `y` [B] are classes, -1 for none, `r` [B] a second time (mean flow), `mask` [B, L] is true at the valid places of a
    sequence; a network that takes none of them refuses what it would otherwise ignore.
    """

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, *, r: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError


def refuse(**given: Tensor | None) -> None:
    """`UserError` for an argument of `forward` that a network has no use for."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"backbone: this network takes no {name}. Leave it out, or choose another backbone.")


class Backbone(Component, family="backbone"):
    """A configuration of a `Network`."""

    def build(self, data_shape: Sequence[int], num_classes: int = 0) -> Network:
        """The network for samples of `data_shape` (without the batch axis) of `num_classes` classes, 0 for none.

        `ConfigError` when it does not fit.
        """
        raise NotImplementedError
