"""Solvers of the ordinary equation dx = v(x, t) dt."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from harness.components.solvers.base import Field, OneStepSolver, Solver
from harness.core.config import ADDED, Positive
from harness.core.errors import ConfigError, Unsolvable


@dataclass(frozen=True, kw_only=True)
class Euler(OneStepSolver, name="euler"):
    """Explicit Euler, order 1, one call a step."""

    formula: ClassVar[str] = "x + h v(x, t)"
    calls_per_step = 1

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        return x + dt * field(x, t.expand(len(x)))


@dataclass(frozen=True, kw_only=True)
class Heun(OneStepSolver, name="heun"):
    """Heun's trapezoidal method, order 2, two calls a step."""

    formula: ClassVar[str] = "k1 = v(x, t), k2 = v(x + h k1, t + h), x + h (k1 + k2) / 2"
    source: ClassVar[str] = "Hairer, Norsett & Wanner 1993, section II.1; Karras et al. 2022, algorithm 1"
    calls_per_step = 2

    euler_last: bool = field(default=False, metadata=ADDED)
    """Take the last step, to t = 0, by Euler's method, so that N steps take 2 N - 1 calls and none is at t = 0."""

    def calls(self, steps: int) -> int:
        return super().calls(steps) - self.euler_last

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        if not self.euler_last:
            return super().integrate(field, x, times, generator)
        x = super().integrate(field, x, times[:-1], generator)
        return Euler().integrate(field, x, times[-2:], generator)

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        slope = field(x, t.expand(len(x)))
        ahead = field(x + dt * slope, (t + dt).expand(len(x)))
        return x + dt / 2 * (slope + ahead)


@dataclass(frozen=True, kw_only=True)
class Midpoint(OneStepSolver, name="midpoint"):
    """The explicit midpoint method, order 2, two calls a step; none is at t = 0."""

    formula: ClassVar[str] = "x + h v(x + h v(x, t) / 2, t + h / 2)"
    source: ClassVar[str] = "Hairer, Norsett & Wanner 1993, section II.1"
    calls_per_step = 2

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        half = x + dt / 2 * field(x, t.expand(len(x)))
        return x + dt * field(half, (t + dt / 2).expand(len(x)))


@dataclass(frozen=True, kw_only=True)
class AdamsBashforth2(Solver, name="ab2"):
    """Two-step Adams-Bashforth method on steps of any length, order 2, one call a step; the first step is Euler's."""

    formula: ClassVar[str] = "x + h ((1 + r / 2) v_n - (r / 2) v_(n-1)), r = h_n / h_(n-1)"
    source: ClassVar[str] = "Hairer, Norsett & Wanner 1993, section III.5"
    calls_per_step = 1

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        before: tuple[Tensor, Tensor] | None = None
        for t, t_next in itertools.pairwise(times.to(x)):
            dt = t_next - t
            slope = field(x, t.expand(len(x)))
            if before is None:
                x = x + dt * slope
            else:
                ratio = dt / before[0]
                x = x + dt * ((1 + ratio / 2) * slope - ratio / 2 * before[1])
            before = dt, slope
        return x


@dataclass(frozen=True, kw_only=True)
class RK4(OneStepSolver, name="rk4"):
    """The classical Runge-Kutta method, order 4, four calls a step."""

    formula: ClassVar[str] = "x + h (k1 + 2 k2 + 2 k3 + k4) / 6"
    source: ClassVar[str] = "Hairer, Norsett & Wanner 1993, section II.1"
    calls_per_step = 4

    def step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        start, middle, end = (time.expand(len(x)) for time in (t, t + dt / 2, t + dt))
        k1 = field(x, start)
        k2 = field(x + dt / 2 * k1, middle)
        k3 = field(x + dt / 2 * k2, middle)
        k4 = field(x + dt * k3, end)
        return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True, kw_only=True)
class DormandPrince5(Solver, name="dopri5"):
    """torchdiffeq's adaptive Dormand-Prince method, order 5; its number of calls differs between batches."""

    formula: ClassVar[str] = "steps with error below {atol:g} + {rtol:g} |x|"
    source: ClassVar[str] = "Dormand & Prince 1980; torchdiffeq"
    calls_per_step = 0
    adaptive = True

    rtol: Positive = 1e-5
    """Relative tolerance of the error of a step."""
    atol: Positive = 1e-5
    """Absolute tolerance of the error of a step."""

    def steps(self, nfe: int) -> int:
        if nfe != 0:
            raise ConfigError(
                "nfe", f"dopri5 chooses its own steps and cannot spend exactly {nfe}. Use 0; its calls are counted."
            )
        return 1

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        from torchdiffeq import odeint

        ends = times[[0, -1]].to(x)
        try:
            return odeint(
                lambda t, x: field(x, t.to(x).clamp(0, 1).expand(len(x))),
                x,
                ends,
                rtol=self.rtol,
                atol=self.atol,
                method="dopri5",
                options={"step_t": ends[-1:]},  # without it the last step goes beyond the end, where t is negative
            )[-1]
        except AssertionError as error:  # torchdiffeq raises it when a step becomes too small
            raise Unsolvable(
                f"dopri5 cannot hold its tolerance on this field ({error}). Raise solver.rtol and solver.atol."
            ) from error
