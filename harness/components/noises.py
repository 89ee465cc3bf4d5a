"""The distribution of x1 that training and sampling both start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.config import Range
from harness.registry import Component


class Noise(Component, family="noise"):
    """A base distribution. What it learns from the data is a state that travels in the checkpoint."""

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        """The state, from training data [N, ...]; empty when there is nothing to fit."""
        return {}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        """x1 of the given shape [B, ...] in float32 on the generator's device."""
        raise NotImplementedError


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Noise, name="gaussian"):
    """Standard normal."""

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        return _normal(shape, generator)


@dataclass(frozen=True, kw_only=True)
class Matched(Noise, name="matched"):
    """Normal with the standard deviation of the training data."""

    per_feature: bool = False
    """One standard deviation for each feature instead of one for all."""

    def fit(self, data: Tensor) -> dict[str, Tensor]:
        data = data.double()
        std = data.std(dim=0) if self.per_feature else data.std()
        return {"std": std.float()}

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        return _normal(shape, generator) * state["std"].to(generator.device)


@dataclass(frozen=True, kw_only=True)
class Sparse(Noise, name="sparse"):
    """Standard normal in which each entry is zero with probability `dropout_rate`, like dropout in single-cell counts."""

    dropout_rate: Annotated[float, Range(0, 1, ends="[)")] = 0.1
    """Share of the entries that are zero."""

    def sample(self, shape: Sequence[int], generator: torch.Generator, state: Mapping[str, Tensor]) -> Tensor:
        x1 = _normal(shape, generator)
        return x1 * (torch.rand(x1.shape, generator=generator, device=x1.device) >= self.dropout_rate)
