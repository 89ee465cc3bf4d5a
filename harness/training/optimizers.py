"""Fused optimizers: one kernel for all weights, which skips the step if the trainer found a bad gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn

from harness.core.config import NonNegative, Positive, Range
from harness.core.registry import Component

Decay = Annotated[float, Range(0, 1, ends="[)")]


@dataclass(frozen=True, kw_only=True)
class Optimizer(Component, family="optimizer"):
    """A rule that changes the weights by their gradient."""

    moments: ClassVar[int] = 0
    """Numbers that it keeps for each weight; 0 if unknown."""

    @abstractmethod
    def build(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's optimizer over `weights`; the trainer sets its learning rate at every step."""


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer, name="adam"):
    """Adam, without weight decay."""

    formula: ClassVar[str] = "Adam, betas {beta1:g}, {beta2:g}, eps {eps:g}"
    source: ClassVar[str] = "Kingma & Ba 2015, algorithm 1"
    moments: ClassVar[int] = 2

    beta1: Decay = 0.9
    """Decay of the average of gradients, in [0, 1)."""
    beta2: Decay = 0.999
    """Decay of the average of squared gradients, in [0, 1); short runs need a smaller one."""
    eps: Positive = 1e-8
    """Constant added to the denominator of the update."""

    def build(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(weights, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam, name="adamw"):
    """Adam with decoupled weight decay."""

    formula: ClassVar[str] = (
        "Adam, betas {beta1:g}, {beta2:g}, eps {eps:g}; weights <- (1 - {weight_decay:g} rate) weights"
    )
    source: ClassVar[str] = "Loshchilov & Hutter 2019, algorithm 2"

    weight_decay: NonNegative = 0.01
    """At every step, the weights shrink by this share times the learning rate."""

    def build(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            weights, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay, fused=True
        )
