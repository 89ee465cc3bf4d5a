"""The flow that samples come along: how straight it is, what it costs, and how far it is from the best one on the training data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from harness.components.interpolants import over
from harness.config import Count, Range
from harness.data.base import Data
from harness.errors import ConfigError
from harness.evaluation.metric import Metric
from harness.formulation import Formulation
from harness.rng import stream

SMALL_SET = 20_000
"""Largest training set whose optimal field is computed: every sample is compared with all of it."""


@dataclass(frozen=True)
class Flow:
    """What a trained network does to some noise, encoded."""

    path: Callable[[int, int], Sequence[Tensor]]
    """By steps T and number N: where samples are at equally spaced times from noise to data, T + 1 tensors [N, ...]."""
    field: Callable[[Tensor, Tensor], Tensor]
    """The network's velocity at x [N, ...] and t [N]."""
    formulation: Formulation
    variance: Tensor
    """Of the noise."""
    real: Callable[[], Tensor]
    """Gives the encoded training samples."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class FlowMetric(Metric):
    """A property of the flow without guidance; it does not depend on `evaluate.nfe`."""

    lower_is_better = True
    reads = "flow"

    samples: Count = 512
    """How many it is measured on."""

    def check(self, formulation: Formulation) -> None:
        if formulation.objective.label_dropout == 0:
            raise ConfigError("", f"{self.name} is of the flow without classes, which this network never learns. Leave it out.")

    def check_data(self, data: Data, samples: int, reference: int) -> None:
        """It compares no samples: any number will do."""

    @property
    def nfe(self) -> int:
        """Calls of the network for each: where its value stands."""
        return 1

    def measure(self, flow: Flow) -> float:
        """The metric's value."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PathMetric(FlowMetric):
    """A property of the paths of samples, by Euler's method in equal steps."""

    steps: Count = 64

    @property
    def nfe(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class Straightness(PathMetric, name="straightness"):
    """How far the velocity is from the straight line to the end; 0 is straight."""

    formula: ClassVar[str] = "E int |dx/dt - (x_end - x_start)|^2 dt / E|x_end - x_start|^2"
    source: ClassVar[str] = "Liu et al. 2023, eq. 9, made relative"

    def measure(self, flow: Flow) -> float:
        return straightness(flow.path(self.steps, self.samples))["straightness"]


@dataclass(frozen=True, kw_only=True)
class Curvature(PathMetric, name="curvature"):
    """Mean length of the velocity's change along the path, relative to that of the chord; 0 is straight."""

    formula: ClassVar[str] = "E sum |change of dx/dt| / E|x_end - x_start|"

    def measure(self, flow: Flow) -> float:
        return straightness(flow.path(self.steps, self.samples))["curvature"]


@dataclass(frozen=True, kw_only=True)
class TransportCost(PathMetric, name="transport_cost"):
    """Mean squared distance between the noise and the sample that it becomes."""

    formula: ClassVar[str] = "E|x_end - x_start|^2, summed over features of encoded samples"
    source: ClassVar[str] = "Liu et al. 2023, section 3.2"

    def measure(self, flow: Flow) -> float:
        start, *_, end = flow.path(self.steps, self.samples)
        return (end - start).double().flatten(1).square().sum(1).mean().item()


@dataclass(frozen=True, kw_only=True)
class FieldError(FlowMetric, name="field_error"):
    """Distance of the velocity from the one that minimises the loss on the training samples: 0 only for a perfect memory."""

    formula: ClassVar[str] = "sqrt(E|v - v*|^2 / E|v*|^2) at x_t of training pairs, t uniform on [{earliest:g}, {latest:g}]"
    source: ClassVar[str] = "v* = E[velocity | x_t] over the finite set; Lipman et al. 2023, eq. 8"

    earliest: Annotated[float, Range(0, 1, ends="()")] = 0.02
    latest: Annotated[float, Range(0, 1, ends="()")] = 0.98

    def check(self, formulation: Formulation) -> None:
        super().check(formulation)
        if formulation.loss.name != "mse":
            raise ConfigError("", "the best field is known for the squared error alone. Set loss=mse, or leave field_error out.")
        if not formulation.coupling.independent or not formulation.noise.gaussian:
            raise ConfigError("", "the best field is known for independent pairs and Gaussian noise alone. Leave field_error out.")

    def check_data(self, data: Data, samples: int, reference: int) -> None:
        if data.augment:
            raise ConfigError("", "training sees altered samples, whose best field is not that of the samples. Leave field_error out.")
        if len(data.train) > SMALL_SET:
            raise ConfigError("", f"{len(data.train)} training samples are too many for field_error. Leave it out.")

    def measure(self, flow: Flow) -> float:
        real, path = flow.real(), flow.formulation.interpolant
        random = stream(flow.seed, "field error", device=real.device)
        n = min(self.samples, len(real))
        x0 = real[torch.randperm(len(real), generator=random, device=random.device)[:n]]
        std = flow.variance.to(x0.device).sqrt()
        x1 = std * torch.randn(x0.shape, generator=random, device=random.device)
        t = self.earliest + (self.latest - self.earliest) * torch.rand(n, generator=random, device=random.device)
        xt = path.interpolate(x0, x1, t)
        best, found = optimal_velocity(xt, t, flow).double(), flow.field(xt, t).double()
        return math.sqrt((found - best).square().sum() / best.square().sum())


def optimal_velocity(xt: Tensor, t: Tensor, flow: Flow, at_once: int = 64) -> Tensor:
    """E[velocity | x_t] at xt [N, ...] and t [N] when x0 is one of the training samples and x1 normal, independent of it."""
    path, out = flow.formulation.interpolant, list[Tensor]()
    scale = flow.variance.to(xt.device).double().sqrt().expand(xt.shape[1:]).flatten()
    real = flow.real().double().flatten(1) / scale
    for x, times in zip(xt.split(at_once), t.split(at_once), strict=True):
        time = times.double()
        alpha, sigma = (over(f(time), x.flatten(1)) for f in (path.alpha, path.sigma))
        flat = x.double().flatten(1)
        near = alpha * (flat / scale) @ real.T - alpha.square() / 2 * real.square().sum(1)
        x0 = (near / sigma.square()).softmax(1) @ real * scale
        x1 = (flat - alpha * x0) / sigma
        velocity = over(path.alpha_dot(time), flat) * x0 + over(path.sigma_dot(time), flat) * x1
        out.append(velocity.view_as(x))
    return torch.cat(out)


def straightness(points: Sequence[Tensor]) -> dict[str, float]:
    """`straightness` and `curvature` of paths through `points`, T tensors [B, ...] at equally spaced times; 0 is straight.

    Straightness is E int |dx/dt - (x_end - x_start)|^2 dt (Liu et al. 2023, eq. 9) relative to E |x_end - x_start|^2;
    curvature is the mean length of the change of dx/dt along the path, relative to that of the chord. Neither has a unit.
    """
    path = torch.stack([x.double().flatten(1) for x in points])
    velocity, chord = path.diff(dim=0) * (len(path) - 1), path[-1] - path[0]
    apart = (velocity - chord).square().sum(-1).mean() / chord.square().sum(-1).mean()
    turned = velocity.diff(dim=0).norm(dim=-1).sum(0).mean() / chord.norm(dim=-1).mean()
    return {"straightness": apart.item(), "curvature": turned.item()}
