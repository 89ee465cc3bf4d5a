"""Metrics of the flow itself: straightness and cost of its paths, and distance from the optimal velocity field."""

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
from harness.evaluation.metric import Comparison, Estimate, Metric
from harness.flow.formulation import Formulation

SMALL_SET = 20_000
"""Largest training set whose optimal field is computed; every point is compared with the whole set."""


@dataclass(frozen=True)
class Flow:
    """Flow of a trained network from noise to encoded samples."""

    path: Callable[[int, int], Sequence[Tensor]]
    """path(T, N): positions of N samples at T + 1 equally spaced times from noise to data, T + 1 tensors [N, ...]."""
    field: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """field(x, t, y): velocity at x [N, ...], t [N] and classes y [N]; y is None for a network without classes.
    Metrics are measured without gradients; one that needs them calls this under `torch.enable_grad()`."""
    formulation: Formulation
    variance: Tensor
    """Variance of the noise; it broadcasts to the shape of a sample."""
    real: Callable[[], tuple[Tensor, Tensor | None]]
    """real(): encoded training samples [M, ...] (at most `SMALL_SET`) and their classes [M]; None for a network without
    classes."""
    held_out: Callable[[int], tuple[Tensor, Tensor | None]]
    """held_out(N): at most N held-out samples [N, ...] as stored, and their classes [N]; None as in `real`."""
    encode: Callable[[Tensor], Tensor]
    """The data's map from stored to encoded samples."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class FlowMetric(Metric):
    """Base of metrics of the flow without guidance; the value does not depend on `evaluate.nfe`.

    A class-conditional network has one flow per class. The metric measures all of them, with classes as frequent as in
    training.
    """

    lower_is_better = True

    samples: Count = 512
    """Number of samples that are measured."""

    @property
    def nfe(self) -> int:
        """Network calls per sample, 0 if a solver chooses them; results list the value at this NFE."""
        return 1

    @abstractmethod
    def measure(self, flow: Flow) -> float:
        """Return the metric's value."""

    def estimate(self, flow: Flow) -> Estimate:
        """Return the metric's value, with an interval if the metric gives one; `NoValue` if it has none."""
        return Estimate(self.measure(flow))


@dataclass(frozen=True, kw_only=True)
class PathMetric(FlowMetric):
    """Base of metrics of sampling paths, which are computed by Euler's method in equal steps."""

    steps: Annotated[int, Range(1, 10_000, why="more steps show no other path")] = 64

    @property
    def nfe(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class Straightness(PathMetric, name="straightness"):
    """Mean squared distance of the velocity from the chord, relative to the squared chord; 0 is straight."""

    formula: ClassVar[str] = "E int |dx/dt - (x_end - x_start)|^2 dt / E|x_end - x_start|^2"
    source: ClassVar[str] = "Liu et al. 2023, eq. 9, made relative"

    def measure(self, flow: Flow) -> float:
        return straightness(flow.path(self.steps, self.samples))["straightness"]


@dataclass(frozen=True, kw_only=True)
class Curvature(PathMetric, name="curvature"):
    """Mean total change of the velocity along the path, relative to the mean chord length; 0 is straight."""

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
    """Relative distance from the velocity that minimises the loss on the training samples; 0: perfect memorisation.

    A class-conditional network gets the classes of the samples and is compared with the optimal field of each class.
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
                "", "the best field is known only for the squared error. Set loss=mse, or leave field_error out."
            )
        if not formulation.coupling.independent or not formulation.noise.gaussian:
            raise ConfigError(
                "", "the best field is known only for independent pairs and Gaussian noise. Leave field_error out."
            )

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if given.data.augment:
            raise ConfigError(
                "", "training augments the samples, and this changes the best field. Leave field_error out."
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
    """Return E[velocity | x_t] at xt [N, ...] and t [N], for x0 from the training set and independent Gaussian x1.

    With classes y [N], x0 is from the training samples of that class; each class must occur there. `at_once` points are
    computed at a time.
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
    """Return `straightness` and `curvature` of paths through `points`, T tensors [B, ...] at equal steps in time.

    Straightness is E int |dx/dt - (x_end - x_start)|^2 dt (Liu et al. 2023, eq. 9) relative to E |x_end - x_start|^2.
    Curvature is the mean length of the change of dx/dt along the path, relative to the mean chord length. Both have no
    unit, and 0 is straight.
    """
    path = torch.stack([x.double().flatten(1) for x in points])
    velocity = path.diff(dim=0) * (len(path) - 1)
    chord = path[-1] - path[0]
    apart = (velocity - chord).square().sum(-1).mean() / chord.square().sum(-1).mean()
    turned = velocity.diff(dim=0).norm(dim=-1).sum(0).mean() / chord.norm(dim=-1).mean()
    return {"straightness": apart.item(), "curvature": turned.item()}
