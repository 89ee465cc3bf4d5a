"""The base classes of solvers, and the velocity field that they integrate from t = 1 to t = 0."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.core.errors import ConfigError
from harness.core.registry import Component


class Field(Protocol):
    """The velocity field that a solver integrates. Each `__call__` or `with_score` is one call of the network."""

    interpolant: Interpolant
    variance: Tensor
    """Variance of the noise: a scalar, or shaped like a sample."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """v(x [B, ...], t [B]) -> velocity, shaped like x."""

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and the score of p_t, both shaped like x [B, ...]; t is [B]."""


class Solver(Component, family="solver"):
    """A method that integrates from noise to data."""

    calls_per_step: ClassVar[int]
    """Network calls per step; 0 if steps differ in them, and the solver overrides `steps`."""
    needs_score: ClassVar[bool] = False
    """Whether it needs the score: it works only for Gaussian noise that is independent of the data."""
    adaptive: ClassVar[bool] = False
    """Whether it chooses the number and size of its steps."""

    def calls(self, steps: int) -> int:
        """Return the number of network calls in `steps` steps, at least 1."""
        return steps * self.calls_per_step

    def steps(self, nfe: int) -> int:
        """Return the number of steps that spend exactly `nfe` calls; raise `ConfigError` if there is none.

        nfe = 0 lets an adaptive solver choose.
        """
        if self.calls_per_step < 1:
            reason = f"{self.name} says that a step takes {self.calls_per_step} calls"
            raise ConfigError("nfe", f"{reason}. Correct its calls_per_step, or override its method steps.")
        steps = max(1, -(-nfe // self.calls_per_step))
        if self.calls(steps) != nfe:
            spent = f"{self.calls_per_step} calls a step"
            if fewer := self.calls_per_step - self.calls(1):
                spent = f"{spent}, {fewer} fewer in the last,"
            near = self.calls(max(1, nfe // self.calls_per_step))
            raise ConfigError("nfe", f"{self.name} spends {spent} and cannot spend {nfe}. Use {near}.")
        return steps

    def check(self, path: Interpolant) -> None:
        """Raise `ConfigError` if it cannot integrate on this path."""

    @abstractmethod
    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        """Return x at the last of `times` [steps + 1], from x [B, ...] at the first.

        Stochastic solvers draw their noise from `generator`.
        """


class OneStepSolver(Solver):
    """A one-step method: the result of a step depends only on its start, not on earlier steps."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        """x at t + dt from x [B, ...] at t; both times are scalars, dt is negative."""

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        for t, t_next in itertools.pairwise(times.to(x)):
            x = self.step(field, x, t, t_next - t)
        return x
