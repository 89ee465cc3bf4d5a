"""The optimizer `mine`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from harness.training.optimizers import Optimizer


@dataclass(frozen=True, kw_only=True)
class Mine(Optimizer, name="mine"):
    """Gradient descent with momentum."""

    formula: ClassVar[str] = "m = {momentum:g} m + g; weights - rate m"
    moments: ClassVar[int] = 1

    momentum: float = 0.9

    def build(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer of the weights; the trainer sets its rate. If fused, it skips bad gradients."""
        return torch.optim.SGD(weights, lr=1.0, momentum=self.momentum, fused=True)
