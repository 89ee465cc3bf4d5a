"""Stochastic solvers, whose samples have the same distribution as the ordinary equation at every time."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant
from harness.components.solvers.base import Field, OneStepSolver, Solver
from harness.components.solvers.ordinary import Euler, Heun
from harness.core.config import ADDED, NonNegative, Positive, Range
from harness.core.errors import ConfigError

ROUNDING = 1e-6
"""Tolerance for times in float32: a step that ends at `t_min` still adds noise."""


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
        a = alpha / path.alpha(s)
        kept = (path.sigma(s) / sigma).square()
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
