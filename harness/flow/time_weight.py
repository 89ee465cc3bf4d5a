"""The weight of an error at time t in training: the weighting, converted to the measured error."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.flow.formulation import Formulation

QUANTILES = 2**20
"""Number of equally likely times (midpoints of their intervals) over which means are taken, in float64."""


class TimeWeight:
    """The weight of a formulation's measured loss at a time: the product of up to four factors.

    They are the weighting; the squared ratio of the stated error to the measured error; 1 over the mean weight, with
    `objective.normalise_weight`; and 1 over the time density, with the time sampler's `importance_correct`.
    """

    def __init__(self, formulation: Formulation, noise_state: Mapping[str, Tensor], device: torch.device | str = "cpu"):
        """Raise `ConfigError` if the ratio of the stated to the measured error differs between features."""
        self.formulation = formulation
        self.variance = formulation.noise.variance(noise_state).to(device)
        """Variance of the noise: a scalar, or shaped like a sample."""
        self.path = formulation.path(noise_state)
        """The interpolant rewritten for noise of unit variance."""
        formulation.refuse_own_variances(self.variance)

    def __call__(self, t: Tensor) -> Tensor:
        """Return the weight [n] of a sample's loss at t [n]."""
        return self._corrected(self._converted(t) / self.mean, t)

    @functools.cached_property
    def mean(self) -> float:
        """Mean weight under the time density, which divides the weight; 1 if `objective.normalise_weight` is off."""
        if not self.formulation.objective.normalise_weight:
            return 1.0
        t = self._times()
        return self._corrected(self._converted(t), t).mean().item()

    def effective_share(self) -> float:
        """Return (E w)^2 / E w^2 in (0, 1], the effective share of a batch (Kish 1965).

        The batch acts as if this share counted equally and the rest not at all. If w^2 has no finite mean, the clamp
        of the weighting determines the value.
        """
        w = self(self._times())
        return (w.mean().square() / w.square().mean()).item()

    def _converted(self, t: Tensor) -> Tensor:
        """Return the weighting, converted to the measured error."""
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
