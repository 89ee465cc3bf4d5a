"""The flow matching objective: components and a network to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from harness.components.interpolants import Interpolant
from harness.components.noises import Noise
from harness.components.time_samplers import TimeSampler
from harness.components.weightings import Weighting
from harness.config import Config
from harness.rng import stream


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Config):
    """How the components are put together."""

    normalise_weight: bool = True
    """Divide w(t) by its mean under the time density, so that arms differ in shape and not in scale."""


class Objective:
    """E w(t) |v(x_t, t) - u_t|^2, averaged over the entries of a sample (Lipman et al. 2023, eq. 9, weighted)."""

    def __init__(
        self,
        config: ObjectiveConfig,
        interpolant: Interpolant,
        weighting: Weighting,
        time_sampler: TimeSampler,
        noise: Noise,
        noise_state: Mapping[str, Tensor],
    ):
        self.interpolant, self.weighting, self.time_sampler = interpolant, weighting, time_sampler
        self.noise, self.noise_state = noise, noise_state
        self.weight_mean = weighting.mean(time_sampler, interpolant) if config.normalise_weight else 1.0

    def __call__(self, network: nn.Module, x0: Tensor, seed: int, step: int) -> Tensor:
        """The loss of one step on encoded data x0 [B, ...]: a scalar. Draws depend on seed and step alone."""
        x1 = self.noise.sample(x0.shape, stream(seed, "noise", step, device=x0.device), self.noise_state)
        t = self.time_sampler.sample(len(x0), stream(seed, "time", step, device=x0.device), x0.device, self.interpolant)
        xt = self.interpolant.interpolate(x0, x1, t)
        target = self.interpolant.velocity(x0, x1, t)
        error = (network(xt, t) - target).square().flatten(1).mean(1)
        return (self.weighting.weight(t, self.interpolant) / self.weight_mean * error).mean()
