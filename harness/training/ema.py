"""Exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """A second network whose weights trail those of the first; buffers are copied.

    After n updates the decay is min(decay, (n - 1) / (n + 9)): the first update copies the weights, and a
    short run averages over its last tenth or so instead of remembering its initialisation.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))
        self._averaged: list[Tensor] = list(self.network.parameters())
        self._current: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Follow the weights after optimizer step n, counted from 1."""
        decay = min(self.decay, (n - 1) / (n + 9))
        torch._foreach_lerp_(self._averaged, self._current, 1 - decay)
        for kept, new in self._buffers:
            kept.copy_(new)
