"""Solvers from t = 1 to t = 0: of dx = v(x, t) dt, and of stochastic equations with the same marginals."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.core.config import ADDED, NonNegative, Positive, Range
from harness.core.errors import ConfigError, Unsolvable
from harness.core.registry import Component

ROUNDING = 1e-6
"""Tolerance for times in float32: a step that ends at `t_min` still adds noise."""


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


@dataclass(frozen=True, kw_only=True)
class StochasticSolver(Solver):
    """A solver of dx = (v - w s / 2) dt + sqrt(w) dW, backwards in time.

    For every w(t) >= 0 this equation has the marginals of dx = v dt. The score s grows as 1 / sigma^2, and the term
    w s / 2 with it, so a long step would overshoot and explode. Therefore the solver lowers w until a step adds no more
    noise than x has at the end of the step: w |h| <= sigma^2 Var[x1] (Karras et al. 2022, algorithm 2). Short steps do
    not reach this bound. Steps that end below `t_min`, and the last step, follow the ordinary equation, which has the
    same marginals.
    """

    needs_score: ClassVar[bool] = True
    ordinary: ClassVar[OneStepSolver]
    """Takes the steps without noise, with the same number of calls."""

    diffusion: Literal["constant", "sigma", "kl", "sin2"] = "sigma"
    """w(t): 1, sigma, 2 sigma (sigma' - alpha' sigma / (alpha + eta)) or sin^2(pi t), times `scale`."""
    scale: Positive = 1.0
    """Factor of w(t)."""
    t_min: Annotated[float, Range(0, 1, ends="[)")] = 0.04
    """Steps that end below this time add no noise; the default is the last step size of Ma et al. 2024 (SiT).
    With 0, only the last step adds none."""
    t_max: Annotated[float, Range(0.97, 1)] = 0.99
    """Time above which w stays constant."""
    eta: NonNegative = field(default=0.0, metadata=ADDED)
    """Added to alpha in `kl`, which then has a bound where alpha is 0; Ma et al. 2024 write w^(KL, eta)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta and self.diffusion != "kl":
            raise ConfigError("eta", f"{self.diffusion} does not use it. Leave it 0, or set diffusion=kl.")

    def coefficient(self, t: Tensor, path: Interpolant) -> Tensor:
        """w(t), shaped like t."""
        t = t.clamp(max=self.t_max)
        if self.diffusion == "constant":
            return torch.full_like(t, self.scale)
        if self.diffusion == "sigma":
            return self.scale * path.sigma(t)
        if self.diffusion == "kl":
            alpha, sigma = path.alpha(t), path.sigma(t)
            return self.scale * 2 * sigma * (path.sigma_dot(t) - path.alpha_dot(t) * sigma / (alpha + self.eta))
        return self.scale * torch.sin(math.pi * t).square()

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        noisy = int((times[1:-1] >= self.t_min - ROUNDING).sum())
        for number, (t, t_next) in enumerate(itertools.pairwise(times.to(x))):
            dt = t_next - t
            if number < noisy:
                noise = torch.randn(x.shape, generator=generator, device=x.device).to(x)
                most = field.variance.to(x) * field.interpolant.sigma(t_next).square() / -dt
                x = self.noisy_step(field, x, t, dt, noise, most)
            else:
                x = self.ordinary.step(field, x, t, dt)
        return x

    @abstractmethod
    def noisy_step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor, noise: Tensor, most: Tensor) -> Tensor:
        """Return x at t + dt from x [B, ...] at t and standard normal `noise` [B, ...].

        `most` is the upper bound of w: a scalar, or shaped like a sample.
        """


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(StochasticSolver, name="euler_maruyama"):
    """Euler-Maruyama on the stochastic equation, one call a step."""

    formula: ClassVar[str] = (
        "x + h (v - w s / 2) + sqrt(w |h|) n, w = {scale:g} {diffusion}, w |h| <= sigma(t + h)^2 Var[x1]; "
        "no noise below {t_min:g}"
    )
    source: ClassVar[str] = (
        "Ma et al. 2024 (SiT), section 2 and appendix; Song et al. 2021; Karras et al. 2022, algorithm 2"
    )
    calls_per_step = 1
    ordinary = Euler()

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor, noise: Tensor, most: Tensor) -> Tensor:
        w = torch.minimum(self.coefficient(t, field.interpolant), most)
        return x + dt * drift(field, x, t, w) + noise * (-dt * w).sqrt()


@dataclass(frozen=True, kw_only=True)
class HeunSDE(StochasticSolver, name="heun_sde"):
    """Adds the noise of a step, then takes Heun's step for the drift; two calls a step."""

    formula: ClassVar[str] = (
        "z = x + sqrt(w |h|) n, then Heun's step from z with v - w s / 2, w = {scale:g} {diffusion}, "
        "w |h| <= sigma(t + h)^2 Var[x1]; no noise below {t_min:g}"
    )
    source: ClassVar[str] = "Ma et al. 2024 (SiT); Karras et al. 2022, algorithm 2"
    calls_per_step = 2
    ordinary = Heun()

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, dt: Tensor, noise: Tensor, most: Tensor) -> Tensor:
        now, later = (torch.minimum(self.coefficient(time, field.interpolant), most) for time in (t, t + dt))
        x = x + noise * (-dt * now).sqrt()
        slope = drift(field, x, t, now)
        return x + dt / 2 * (slope + drift(field, x + dt * slope, t + dt, later))


@dataclass(frozen=True, kw_only=True)
class Ancestral(Solver, name="ancestral"):
    """DDPM's ancestral sampling on any path: each step draws from q(x_s | x_t, x0) at the estimate of x0; one call.

    The last step adds no noise. With `vp_ddpm` of 1,000 steps and the time grid `respaced` these are DDPM's own steps.
    Learned variances are not supported.
    """

    formula: ClassVar[str] = (
        "a (sigma_s / sigma_t)^2 x + alpha_s (q / sigma_t^2) x0 + noise, a = alpha_t / alpha_s, "
        "q = sigma_t^2 - a^2 sigma_s^2; variance ({variance}) q (sigma_s / sigma_t)^2 or q"
    )
    source: ClassVar[str] = "Ho et al. 2020, eq. 6, 7 and algorithm 2; on any path: Kingma et al. 2021 (VDM), eq. 25"
    calls_per_step = 1
    needs_score: ClassVar[bool] = True

    variance: Literal["small", "large"] = "small"
    """Variance of a step: of q(x_s | x_t, x0) (small), or of q(x_t | x_s) (large)."""

    def integrate(self, field: Field, x: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        for t, s in itertools.pairwise(times.to(x)):
            x, std = self.moments(field, x, t, s)
            if s > times[-1]:
                x = x + std * torch.randn(x.shape, generator=generator, device=x.device).to(x)
        return x

    def check(self, path: Interpolant) -> None:
        if not self._turn(path, torch.ones((), dtype=torch.float64)):
            reason = f"{path.name} starts at velocity 0, which says nothing about x0"
            raise ConfigError("", f"{reason}. Choose another path, or euler_maruyama.")

    def moments(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of x_s given x_t = x [B, ...]; both times are scalars, s < t."""
        path = field.interpolant
        alpha, sigma = path.alpha(t), path.sigma(t)
        velocity = field(x, t.expand(len(x)))
        x0 = (path.sigma_dot(t) * x - sigma * velocity) / self._turn(path, t)
        a, kept = alpha / path.alpha(s), (path.sigma(s) / sigma).square()
        added = 1 - a.square() * kept  # q / sigma_t^2
        variance = sigma.square() * (added * kept if self.variance == "small" else added) * field.variance.to(x)
        return a * kept * x + path.alpha(s) * added * x0, variance.sqrt()

    @staticmethod
    def _turn(path: Interpolant, t: Tensor) -> Tensor:
        """alpha sigma' - sigma alpha'."""
        return path.alpha(t) * path.sigma_dot(t) - path.sigma(t) * path.alpha_dot(t)


def drift(field: Field, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """v - w s / 2 at x [B, ...] and a scalar t."""
    velocity, score = field.with_score(x, t.expand(len(x)))
    return velocity - w / 2 * score
