"""Metrics of the flow itself: how straight its paths are, what they cost, and how far it is from the best field."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from harness.components.interpolants import over
from harness.core.config import Count, Range
from harness.core.errors import ConfigError
from harness.core.rng import stream
from harness.evaluation.metric import Comparison, Metric
from harness.flow.formulation import Formulation

SMALL_SET = 20_000
"""Largest training set whose optimal field is computed: every sample is compared with all of it."""


@dataclass(frozen=True)
class Flow:
    """What a trained network does to some noise, encoded."""

    path: Callable[[int, int], Sequence[Tensor]]
    """By steps T and number N: where samples are at equally spaced times from noise to data, T + 1 tensors [N, ...]."""
    field: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """The network's velocity at x [N, ...], t [N] and classes y [N]; None where it is told none."""
    formulation: Formulation
    variance: Tensor
    """Of the noise."""
    real: Callable[[], tuple[Tensor, Tensor | None]]
    """Gives encoded training samples [M, ...] (all, or `SMALL_SET` of them) and their classes [M]; None where the
    network is told none."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class FlowMetric(Metric):
    """A property of the flow without guidance; it does not depend on `evaluate.nfe`.

    A network that is told classes has a flow for each: the property is that of them all, with classes as often as in
    training.
    """

    lower_is_better = True

    samples: Count = 512
    """How many it is measured on."""

    @property
    def nfe(self) -> int:
        """Calls of the network for each: where its value stands."""
        return 1

    @abstractmethod
    def measure(self, flow: Flow) -> float:
        """The metric's value."""


@dataclass(frozen=True, kw_only=True)
class PathMetric(FlowMetric):
    """A property of the paths of samples, by Euler's method in equal steps."""

    steps: Annotated[int, Range(1, 10_000, why="more steps show no other path")] = 64

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
    """Distance of the velocity from the one that minimises the loss on the training samples: 0 is a perfect memory.

    A network that is told classes is told those of the samples, and compared with the best field of each class.
    """

    formula: ClassVar[str] = (
        "sqrt(E|v - v*|^2 / E|v*|^2) at x_t of training pairs, t uniform on [{earliest:g}, {latest:g}]"
    )
    source: ClassVar[str] = "v* = E[velocity | x_t, class if told] over the finite set; Lipman et al. 2023, eq. 8"

    earliest: Annotated[float, Range(0, 1, ends="()")] = 0.02
    latest: Annotated[float, Range(0, 1, ends="()")] = 0.98

    def check(self, formulation: Formulation) -> None:
        super().check(formulation)
        if formulation.loss.name != "mse":
            raise ConfigError(
                "", "the best field is known for the squared error alone. Set loss=mse, or leave field_error out."
            )
        if not formulation.coupling.independent or not formulation.noise.gaussian:
            raise ConfigError(
                "", "the best field is known for independent pairs and Gaussian noise alone. Leave field_error out."
            )

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if given.data.augment:
            raise ConfigError(
                "", "training sees altered samples, whose best field is not that of the samples. Leave field_error out."
            )
        if (number := len(given.data.train)) > SMALL_SET:
            raise ConfigError("", f"{number} training samples are too many for field_error. Leave it out.")

    def measure(self, flow: Flow) -> float:
        real, classes = flow.real()
        random = stream(flow.seed, "field error", device=real.device)
        n = min(self.samples, len(real))
        chosen = torch.randperm(len(real), generator=random, device=random.device)[:n]
        x0 = real[chosen]
        y = None if classes is None else classes[chosen]
        std = flow.variance.to(x0.device).sqrt()
        x1 = std * torch.randn(x0.shape, generator=random, device=random.device)
        t = self.earliest + (self.latest - self.earliest) * torch.rand(n, generator=random, device=random.device)
        xt = flow.formulation.interpolant.interpolate(x0, x1, t)
        best = optimal_velocity(xt, t, y, flow).double()
        found = flow.field(xt, t, y).double()
        return math.sqrt((found - best).square().sum() / best.square().sum())


def optimal_velocity(xt: Tensor, t: Tensor, y: Tensor | None, flow: Flow, at_once: int = 64) -> Tensor:
    """E[velocity | x_t] at xt [N, ...] and t [N] where x0 is a training sample and x1 is normal, independent of it.

    With classes y [N], which must be among the training samples', x0 is one of those of its class.
    """
    path = flow.formulation.interpolant
    out: list[Tensor] = []
    scale = flow.variance.to(xt.device).double().sqrt().expand(xt.shape[1:]).flatten()
    samples, classes = flow.real()
    real = samples.double().flatten(1) / scale
    for rows in torch.arange(len(xt), device=xt.device).split(at_once):
        x = xt[rows]
        time = t[rows].double()
        alpha, sigma = (over(f(time), x.flatten(1)) for f in (path.alpha, path.sigma))
        flat = x.double().flatten(1)
        near = alpha * (flat / scale) @ real.T - alpha.square() / 2 * real.square().sum(1)
        if y is not None:
            assert classes is not None
            near = near.masked_fill(classes != y[rows, None], -math.inf)
        x0 = (near / sigma.square()).softmax(1) @ real * scale
        x1 = (flat - alpha * x0) / sigma
        velocity = over(path.alpha_dot(time), flat) * x0 + over(path.sigma_dot(time), flat) * x1
        out.append(velocity.view_as(x))
    return torch.cat(out)


def straightness(points: Sequence[Tensor]) -> dict[str, float]:
    """`straightness` and `curvature` of paths through `points`, T tensors [B, ...] at equal steps in time.

    Straightness is E int |dx/dt - (x_end - x_start)|^2 dt (Liu et al. 2023, eq. 9) relative to E |x_end - x_start|^2;
    curvature is the mean length of the change of dx/dt along the path, relative to that of the chord. Neither has a
    unit, and 0 is straight.
    """
    path = torch.stack([x.double().flatten(1) for x in points])
    velocity = path.diff(dim=0) * (len(path) - 1)
    chord = path[-1] - path[0]
    apart = (velocity - chord).square().sum(-1).mean() / chord.square().sum(-1).mean()
    turned = velocity.diff(dim=0).norm(dim=-1).sum(0).mean() / chord.norm(dim=-1).mean()
    return {"straightness": apart.item(), "curvature": turned.item()}
