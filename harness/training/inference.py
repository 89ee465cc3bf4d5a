"""A network's forward passes in sampling: their precision, and on a GPU few batch sizes and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.training.graphs import WARM_UP, record
from harness.training.hardware import autocast, matmul_precision, uncompiled


class InPrecision(nn.Module):
    """A network whose forward passes have a precision, fp32, tf32 or bf16, and return float32."""

    def __init__(self, network: nn.Module, precision: str, device: str):
        super().__init__()
        self.network = network
        self._precision = precision
        self._chosen = {"device": device, "precision": precision}

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        """Return the network's output for x [B, ...], times [B] and perhaps classes [B]."""
        # Around each call, so that a graph contains the casts: autocast drops its rounded weights at its end.
        with matmul_precision(self._precision), autocast(self._chosen):
            output: Tensor = self.network(x, *told)
        return output.float()


class Inference(nn.Module):
    """A network without gradients whose smaller batches are filled up to a size that it has had before.

    Compiled code and CUDA graphs then serve the last batch too. The rows that are added are not returned.
    """

    def __init__(self, network: nn.Module, graphs: bool):
        super().__init__()
        self.network = network
        self.graphs = graphs
        self._sizes: list[int] = []
        self._repeats: dict[int, tuple[list[Tensor], Callable[[], Tensor]]] = {}
        self._others: dict[str, Inference] = {}

    def at(self, precision: str, device: str) -> Inference:
        """Return the same network in another precision, with graphs of its own; always the same object."""
        if precision not in self._others:
            self._others[precision] = Inference(InPrecision(self.network, precision, device), self.graphs)
        return self._others[precision]

    @torch.no_grad()
    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        """Return the network's output for x [B, ...], times [B] and perhaps classes [B]."""
        size = len(x)
        whole = min((known for known in self._sizes if known >= size), default=size)
        if whole not in self._sizes:
            self._sizes.append(whole)
        inputs = [_filled(value, whole) for value in (x, *told)]
        output = self._repeated(whole, inputs) if self.graphs else self.network(*inputs)
        return output[:size]

    def _repeated(self, size: int, inputs: list[Tensor]) -> Tensor:
        """Return the output by the graph of a batch size, which is recorded first if there is none."""
        if size not in self._repeats:
            held = [value.clone() for value in inputs]
            for _ in range(WARM_UP):
                self.network(*held)
            self._repeats[size] = held, record(lambda: self.network(*held))
        fixed, repeat = self._repeats[size]
        for old, new in zip(fixed, inputs, strict=True):
            old.copy_(new)
        return repeat().clone()  # the next call writes to the same place


def in_precision(network: nn.Module, precision: str, device: str) -> nn.Module:
    """Return a network whose forward passes have a precision, fp32, tf32 or bf16."""
    if isinstance(network, Inference):
        return network.at(precision, device)
    return InPrecision(network, precision, device)


def plain(network: nn.Module) -> nn.Module:
    """Return a network without `Inference` and without compilation, for gradients and for passes of any size."""
    return uncompiled(network.network if isinstance(network, Inference) else network)


def _filled(value: Tensor, size: int) -> Tensor:
    """Return a batch with its last row repeated up to a size."""
    return value if len(value) == size else torch.cat([value, value[-1:].expand(size - len(value), *value.shape[1:])])
