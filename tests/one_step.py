"""One step of an objective, as in training: the task of a batch, then the network's error in it."""

from __future__ import annotations

from torch import Tensor, nn

from harness.core.rng import Streams
from harness.flow.objective import Objective, Step


def one_step(
    objective: Objective, network: nn.Module, x0: Tensor, seed: int, step: int, y: Tensor | None = None
) -> Step:
    """Take a step on encoded data x0 [B, ...] with classes y [B]."""
    return objective.measure(network, objective.task(x0, Streams(seed, step), y))
