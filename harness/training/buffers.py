"""Buffers of a network, like the running statistics of batch norm, and a context that protects them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def buffers_apart(network: nn.Module) -> Iterator[None]:
    """A context in which the network changes copies of its buffers, so that no change lasts.

    At the end it has its original tensors again, also if it replaced a buffer instead of changing it.
    """
    own = [
        (module, name, buffer) for module in network.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    copies = {buffer: buffer.clone() for _, _, buffer in own}
    for module, name, buffer in own:
        setattr(module, name, copies[buffer])
    try:
        yield
    finally:
        for module, name, buffer in own:
            setattr(module, name, buffer)
