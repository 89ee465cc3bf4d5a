"""Integrators of dx/dt = v(x, t) from noise at t = 1 to data at t = 0, counted in calls of the network (NFE)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.errors import ConfigError
from harness.registry import Component

Field = Callable[[Tensor, Tensor], Tensor]
"""v(x [B, ...], t [B]) -> velocity, shaped like x."""


class Solver(Component, family="solver"):
    """A one-step method on a uniform grid."""

    calls_per_step: ClassVar[int]

    def steps(self, nfe: int) -> int:
        """How many steps spend exactly `nfe` calls; `ConfigError` when none do."""
        if nfe % self.calls_per_step or nfe < 1:
            near = max(self.calls_per_step, nfe - nfe % self.calls_per_step)
            raise ConfigError("nfe", f"{self.name} spends {self.calls_per_step} calls a step and cannot spend {nfe}. Use {near}.")
        return nfe // self.calls_per_step

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        """x at t + dt from x [B, ...] at t; both times are scalars, dt is negative."""
        raise NotImplementedError

    def integrate(self, field: Field, x: Tensor, nfe: int) -> Tensor:
        """x at t = 0 from x [B, ...] at t = 1 with exactly `nfe` calls of `field`."""
        times = torch.linspace(1, 0, self.steps(nfe) + 1, dtype=x.dtype, device=x.device)
        for t, t_next in itertools.pairwise(times):
            x = self.step(field, x, t, t_next - t)
        return x


@dataclass(frozen=True, kw_only=True)
class Euler(Solver, name="euler"):
    """Explicit Euler, order 1, one call a step."""

    calls_per_step = 1

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return x + dt * field(x, t.expand(len(x)))


@dataclass(frozen=True, kw_only=True)
class Heun(Solver, name="heun"):
    """Heun's trapezoidal method, order 2, two calls a step, the last one included."""

    calls_per_step = 2

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        slope = field(x, t.expand(len(x)))
        ahead = field(x + dt * slope, (t + dt).expand(len(x)))
        return x + dt / 2 * (slope + ahead)
