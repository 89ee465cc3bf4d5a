"""The flow matching objective: the loss of a network under a formulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.components.couplings import transport_cost
from harness.components.interpolants import over
from harness.components.perceptual import Perceptual
from harness.core.rng import Streams
from harness.flow.formulation import Formulation
from harness.flow.time_weight import TimeWeight

Aim = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""The method `Objective.aim`, or its compiled code."""


class Task(NamedTuple):
    """The inputs and targets of a network in one training step, for a whole batch."""

    xt: Tensor
    """Points on the paths, [B, ...]."""
    target: Tensor
    """Targets of the network's output at these points, [B, ...]."""
    t: Tensor
    """Times, [B]."""
    y: Tensor | None
    """Classes that the network receives, int64 [B], -1 for none; None if it receives no classes at all."""
    transport_cost: Tensor
    """Mean |x0 - x1|^2 of the pairs, a scalar."""
    coupling_seconds: float
    """Seconds that it took to pair data and noise."""

    def share(self, number: int, of: int) -> Task:
        """Return share `number` (counted from 0) of `of` equal shares of the batch."""
        if of == 1:
            return self
        size = len(self.t) // of
        rows = slice(number * size, (number + 1) * size)
        return self._replace(
            xt=self.xt[rows], target=self.target[rows], t=self.t[rows], y=None if self.y is None else self.y[rows]
        )


class Step(NamedTuple):
    """The loss and the errors of a network at a task."""

    loss: Tensor
    """Weighted mean of the errors, which training minimises; a scalar."""
    errors: Tensor
    """Unweighted error of each sample, [B]; without a gradient."""


class Objective:
    """E w(t) loss(error at t): Lipman et al. 2023, eq. 9, for every prediction, loss space, weighting and coupling."""

    def __init__(
        self,
        formulation: Formulation,
        noise_state: Mapping[str, Tensor],
        at: float | None = None,
        device: torch.device | str = "cpu",
        perceptual: Perceptual | None = None,
    ):
        """`at`: if given, the only time, with weight 1, instead of the formulation's times and weights.

        `device`: device of the data. `perceptual`: if given, the loss of the samples that one step of Euler's method
        gives from `at` = 1, instead of the formulation's loss of an error.
        """
        self.formulation = formulation
        self.perceptual = perceptual
        self.at = at
        self.noise_state = {name: value.to(device) for name, value in noise_state.items()}
        self.time_weight = TimeWeight(formulation, noise_state, device)
        self.variance = self.time_weight.variance
        """Variance of the noise: a scalar, or shaped like a sample."""
        self.path = self.time_weight.path
        self.weight_mean = 1.0 if at is not None else self.time_weight.mean

    def task(
        self, x0: Tensor, streams: Streams, y: Tensor | None = None, t: Tensor | None = None, *, hide: bool = True,
        aim: Aim | None = None,
    ) -> Task:  # fmt: skip
        """Draw the pairs and times of a step, and return the network's inputs and targets.

        x0 [B, ...] are encoded data of classes y [B]; `streams` are the step's, on the device of x0. Times are drawn
        unless t [B] is given. `hide`: whether some classes are hidden from the network, as in training. `aim`: the
        compiled method `aim`, if there is one.
        """
        f = self.formulation
        device = x0.device
        x1 = f.noise.sample(x0.shape, streams("noise"), self.noise_state)
        started = time.perf_counter()
        x0, x1, y = f.coupling.pair(x0, x1, streams("coupling"), y)
        seconds = time.perf_counter() - started
        if t is None and self.at is not None:
            t = torch.full((len(x0),), self.at, device=device)
        elif t is None:
            t = f.time_sampler.sample(len(x0), streams("time"), device, self.path)
        xt, target, cost = (aim or self.aim)(x0, x1, t)
        shown = self._shown(y, streams) if hide or not f.conditional else y
        return Task(xt, target, t, shown, cost, seconds)

    def aim(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points and targets at t [B] on the paths of pairs [B, ...], and the pairs' transport cost."""
        f = self.formulation
        target = f.prediction.target(x0, x1, t, f.interpolant, self.variance)
        return f.interpolant.interpolate(x0, x1, t), target, transport_cost(x0, x1)

    def measure(self, network: nn.Module, task: Task) -> Step:
        """Return the loss and errors of `network` at a task, or at a share of one."""
        if self.perceptual is None:
            errors = self.formulation.loss.measure(self._error(network, *task[:4]))
        else:
            errors = self.perceptual.compare(*self._samples(network, *task[:4]))
        return Step((self.weight(task.t) * errors).mean(), errors.detach())

    def weight(self, t: Tensor) -> Tensor:
        """Return the weight [B] of a sample's loss at t [B]."""
        return self.time_weight(t) if self.at is None else torch.ones_like(t)

    def _shown(self, y: Tensor | None, streams: Streams) -> Tensor | None:
        """Return the classes that the network receives, -1 for hidden ones; None if it receives no classes at all."""
        dropout = self.formulation.objective.label_dropout
        if dropout is None:
            return None
        assert y is not None
        hidden = torch.rand(len(y), generator=streams("labels"), device=y.device) < dropout
        return torch.where(hidden, -1, y)

    def _output(self, network: nn.Module, xt: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        f = self.formulation
        x = f.prediction.network_input(xt, t, f.interpolant, self.variance)
        told = (f.prediction.network_time(t, f.interpolant, self.variance), *(() if y is None else (y,)))
        return network(x, *told)

    def _samples(
        self, network: nn.Module, xt: Tensor, target: Tensor, t: Tensor, y: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the samples of one step of Euler's method from t = 1 to 0: the network's, and the target's."""
        f = self.formulation
        ours, theirs = (
            xt - f.prediction.convert(output, xt, t, f.interpolant, "velocity", self.variance)
            for output in (self._output(network, xt, t, y), target)
        )
        return ours, theirs

    def _error(self, network: nn.Module, xt: Tensor, target: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        f = self.formulation
        error = self._output(network, xt, t, y) - target
        if f.space == f.prediction.name:
            return error
        return f.prediction.factor(over(t, error), f.interpolant, f.space, self.variance) * error
