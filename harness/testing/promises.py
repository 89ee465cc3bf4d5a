"""What the contracts of all families share: the form of a promise, and the random numbers that it is tried with."""

from __future__ import annotations

from collections.abc import Iterator

import torch

Promises = Iterator[tuple[str, bool]]
"""What is promised, and whether it is kept."""


def generator(seed: int = 0) -> torch.Generator:
    """A new generator on the CPU."""
    return torch.Generator().manual_seed(seed)
