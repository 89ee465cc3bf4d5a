"""What an error at time t counts in training: the weighting, stated for the error that is measured."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.flow.formulation import Formulation

QUANTILES = 2**20
"""Equally likely times, the middles of their intervals, over which means are taken in float64."""


class TimeWeight:
    """The weight of a formulation's measured loss at a time, all factors in.

    They are the weighting, the square of the error that it is stated for over the error that is measured, 1 over the
    mean of all where that is asked for, and 1 over the time density where the time sampler corrects for it.
    """

    def __init__(self, formulation: Formulation, noise_state: Mapping[str, Tensor], device: torch.device | str = "cpu"):
        """`ConfigError` where the features' own noise variances leave no one factor between the two errors."""
        self.formulation = formulation
        self.variance = formulation.noise.variance(noise_state).to(device)
        """Of the noise: a scalar, or shaped like a sample."""
        self.path = formulation.path(noise_state)
        """The interpolant as seen with noise of unit variance."""
        formulation.refuse_own_variances(self.variance)

    def __call__(self, t: Tensor) -> Tensor:
        """What a sample's loss at t [n] counts, [n]."""
        return self._corrected(self._converted(t) / self.mean, t)

    @functools.cached_property
    def mean(self) -> float:
        """The mean under the time density that is divided by; 1 where `objective.normalise_weight` is off."""
        if not self.formulation.objective.normalise_weight:
            return 1.0
        t = self._times()
        return self._corrected(self._converted(t), t).mean().item()

    def effective_share(self) -> float:
        """(E w)^2 / E w^2 in (0, 1]: as if this share of a batch counted equally and the rest not at all (Kish 1965).

        Where w^2 has no mean, the clamp of the weighting decides.
        """
        w = self(self._times())
        return (w.mean().square() / w.square().mean()).item()

    def _converted(self, t: Tensor) -> Tensor:
        """The weighting, as it is stated for the error that is measured."""
        weight = self.formulation.weighting.weight(t, self.path)
        factor = self.formulation.stated_over_measured(t, self.variance)
        return weight if factor is None else weight * factor.square()

    def _corrected(self, weight: Tensor, t: Tensor) -> Tensor:
        sampler = self.formulation.time_sampler
        return weight * sampler.correction(t, self.path) if sampler.importance_correct else weight

    def _times(self) -> Tensor:
        """Quantiles of the time density."""
        u = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
        return self.formulation.time_sampler.quantile(u, self.path)
