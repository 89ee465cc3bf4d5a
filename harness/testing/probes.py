"""Tools to try promises with: seeded draws, a grid of times, comparisons of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from harness.core.rng import seed_layers

Promises = Iterator[tuple[str, bool]]
"""(promise, whether it is kept)."""
TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)
"""Times in [0, 1], in steps of 0.005."""


def same(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two mappings hold the same tensors under the same names."""
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def seeded(network: nn.Module, *given: Tensor) -> Tensor:
    """Return the network's output; dropout and other random layers draw the same numbers each time."""
    seed_layers(0, "cpu")
    return network(*given)


def like(value: Tensor, other: Tensor) -> bool:
    """Whether a tensor has the shape, dtype and device of another."""
    return value.shape == other.shape and value.dtype == other.dtype and value.device == other.device


def generator(seed: int = 0) -> torch.Generator:
    """Return a new generator with this seed."""
    return torch.Generator().manual_seed(seed)


def through_safetensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors after they were saved to the bytes of a safetensors file and loaded again."""
    from safetensors.torch import load, save

    return load(save({name: value.contiguous() for name, value in tensors.items()})) if tensors else {}
