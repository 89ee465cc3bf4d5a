"""A network's forward passes in sampling: their precision, and on a GPU few batch sizes and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.training.captured import record
from harness.training.hardware import autocast, matmul_precision, uncompiled

WARM_UP = 3
"""Calls before a recording, in which libraries choose their kernels."""


class InPrecision(nn.Module):
    """A network whose forward passes have a precision, fp32, tf32 or bf16, and return float32."""

    def __init__(self, network: nn.Module, precision: str, device: str):
        super().__init__()
        self.network = network
        self._precision = precision
        self._device = device

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        """Return the network's output for x [B, ...], times [B] and perhaps classes [B]."""
        with matmul_precision(self._precision), autocast({"device": self._device, "precision": self._precision}):
            output: Tensor = self.network(x, *told)
        return output.float()


class Inference(nn.Module):
    """A network without gradients whose smaller batches are filled up to a size that it has had before.

    Compiled code and CUDA graphs then serve the last batch too. The rows that are added are not returned.
    """

    def __init__(self, network: nn.Module, graphs: bool):
        super().__init__()
        self.network = network
        self._graphs = graphs
        self._sizes: list[int] = []
        self._repeats: dict[int, Callable[[], Tensor]] = {}
        self._inputs: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        """Return the network's output for x [B, ...], times [B] and perhaps classes [B]."""
        size = len(x)
        whole = min((known for known in self._sizes if known >= size), default=size)
        if whole not in self._sizes:
            self._sizes.append(whole)
        inputs = [_filled(value, whole) for value in (x, *told)]
        output = self._repeated(whole, inputs) if self._graphs else self.network(*inputs)
        return output[:size]

    def _repeated(self, size: int, inputs: list[Tensor]) -> Tensor:
        """Return the output by the graph of a batch size, which is recorded first if there is none."""
        if size not in self._repeats:
            fixed = [value.clone() for value in inputs]
            for _ in range(WARM_UP):
                self.network(*fixed)
            self._inputs[size] = fixed
            self._repeats[size] = record(lambda: self.network(*fixed))
        for fixed_value, value in zip(self._inputs[size], inputs, strict=True):
            fixed_value.copy_(value)
        return self._repeats[size]().clone()  # the next call writes to the same place


def plain(network: nn.Module) -> nn.Module:
    """Return a network without `Inference` and without compilation, for gradients and for passes of any size."""
    return uncompiled(network.network if isinstance(network, Inference) else network)


def _filled(value: Tensor, size: int) -> Tensor:
    """Return a batch with its last row repeated up to a size."""
    return value if len(value) == size else torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])
