"""Tools to try promises with: seeded draws, a grid of times, comparisons of tensors."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import USERS_FILES, UserError, in_a_line, place_in
from harness.core.rng import seed_layers

Promises = Iterator[tuple[str, bool]]
"""(promise, whether it is kept)."""


class Note(str):
    """A kept promise that the user should know about: `harness check` prints it."""


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


def told(error: BaseException, component: Any) -> str:
    """Return an exception in one line: the file and line of the user's code if it passed through any, and what it says.

    A path below the working directory is shortened.
    """
    if isinstance(error, UserError):  # names the place already
        return near(str(error))
    files = {*USERS_FILES}
    with contextlib.suppress(OSError, TypeError):  # a class typed in has no file
        files.add(inspect.getfile(type(component)))
    place = place_in(error, files)
    return ": ".join(filter(None, [place and near(place), in_a_line(error)]))


def near(place: str) -> str:
    """Return a place with its path relative to the working directory, if it lies below."""
    return place.removeprefix(f"{Path.cwd()}/")
