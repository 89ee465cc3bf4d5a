"""One step of an objective, as training takes it: the task of a batch, then how a network does at it."""

from __future__ import annotations

from torch import Tensor, nn

from harness.flow.objective import Objective, Step


def one_step(
    objective: Objective, network: nn.Module, x0: Tensor, seed: int, step: int, y: Tensor | None = None
) -> Step:
    """On encoded data x0 [B, ...] of classes y [B]."""
    return objective.measure(network, objective.task(x0, seed, step, y))
