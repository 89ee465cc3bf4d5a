"""What a network keeps beside its weights: buffers, like the running statistics of batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def buffers_apart(network: nn.Module) -> Iterator[None]:
    """A context in which the network has copies of its buffers: it forgets afterwards what it did to them.

    It has the same tensors again at the end, also where it replaces a buffer instead of changing it.
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
