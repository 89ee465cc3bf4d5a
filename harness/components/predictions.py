"""Predictions: the target of a network's output, and its conversion into velocity, data, noise and score.

Every output estimates a target o = a(t) x0 + b(t) x1, given x_t = alpha(t) x0 + sigma(t) x1. With
D = alpha b - sigma a, the estimates of both ends follow from x_t and the output:

    x0 = (b x_t - sigma o) / D        x1 = (alpha o - a x_t) / D

Any other target c x0 + d x1 follows from these. An error of the output is multiplied by D_other / D in the other
target (`factor`). The objective uses this factor to measure the loss in another space.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from harness.components.interpolants import Interpolant, over
from harness.core.config import ADDED, Range
from harness.core.registry import Component

ONE = torch.ones(())
Coefficients = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Prediction(Component, family="prediction"):
    """The target of a network's output. Conversions clamp the time, because D is zero at an end of some paths."""

    needs_score: ClassVar[bool] = False
    """Whether it needs the score: it has a meaning only for Gaussian noise that is independent of the data."""

    t_min: Annotated[float, Range(0, 0.03)] = 0.01
    """Smallest time in conversions to another quantity; earlier times are clamped to it."""
    t_max: Annotated[float, Range(0.97, 1)] = 0.99
    """Largest time in conversions to another quantity; later times are clamped to it."""

    @abstractmethod
    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        """Return (a, b) of the target a x0 + b x1, shaped like t, which may have trailing axes.

        `variance`: of the noise, a scalar or shaped like a sample.
        """

    def network_input(self, xt: Tensor, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        """Return the network's input for x_t [B, ...], in the same shape."""
        return xt

    def network_time(self, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        """Return the number that the network receives as the time t [B], in the same shape."""
        return t

    def target(self, x0: Tensor, x1: Tensor, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        """Return the target of the network's output, shaped like x0 and x1 [B, ...]; t is [B].

        `variance`: of the noise, a scalar or shaped like a sample.
        """
        a, b = self.coefficients(over(t, x0), path, variance)
        return a * x0 + b * x1

    def convert(
        self, output: Tensor, xt: Tensor, t: Tensor, path: Interpolant, to: str, variance: Tensor = ONE
    ) -> Tensor:
        """Return the network's output at x_t [B, ...], converted to `to`: velocity, data, noise or score."""
        if to == self.name:
            return output
        t = over(t.clamp(self.t_min, self.t_max), xt)
        alpha, sigma = path.alpha(t), path.sigma(t)
        a, b = self.coefficients(t, path, variance)
        determinant = alpha * b - sigma * a
        x0, x1 = (b * xt - sigma * output) / determinant, (alpha * output - a * xt) / determinant
        c, d = SPACES[to].coefficients(t, path, variance)
        return c * x0 + d * x1

    def factor(self, t: Tensor, path: Interpolant, to: str, variance: Tensor = ONE) -> Tensor:
        """Return the ratio of the error in `to` to the error of the output, at the clamped time.

        t and `variance` are broadcast together.
        """
        if to == self.name:
            return torch.ones_like(t)
        t = t.clamp(self.t_min, self.t_max)
        return SPACES[to].determinant(t, path, variance) / self.determinant(t, path, variance)

    def determinant(self, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        """D = alpha b - sigma a; t and `variance` are broadcast together."""
        a, b = self.coefficients(t, path, variance)
        return path.alpha(t) * b - path.sigma(t) * a


@dataclass(frozen=True, kw_only=True)
class Velocity(Prediction, name="velocity"):
    """The velocity u_t, which sampling uses as it is."""

    formula: ClassVar[str] = "target = alpha' x0 + sigma' x1"
    source: ClassVar[str] = "Lipman et al. 2023, eq. 9; Liu et al. 2023, eq. 1"

    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        return path.alpha_dot(t), path.sigma_dot(t)

    def target(self, x0: Tensor, x1: Tensor, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        return path.velocity(x0, x1, t)


@dataclass(frozen=True, kw_only=True)
class DataPrediction(Prediction, name="data"):
    """The data x0."""

    formula: ClassVar[str] = (
        "target = x0; v = alpha' x0 + sigma' (x_t - alpha x0) / sigma, t clamped to [{t_min:g}, {t_max:g}]"
    )
    source: ClassVar[str] = "Salimans & Ho 2022, section 4; Kingma & Gao 2023, table 1"

    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        return torch.ones_like(t), torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class NoisePrediction(Prediction, name="noise"):
    """The noise x1."""

    formula: ClassVar[str] = (
        "target = x1; v = sigma' x1 + alpha' (x_t - sigma x1) / alpha, t clamped to [{t_min:g}, {t_max:g}]"
    )
    source: ClassVar[str] = "Ho et al. 2020, eq. 14; Kingma & Gao 2023, table 1"

    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class Score(Prediction, name="score"):
    """The score of p_t. It is unbounded where sigma falls to zero, so its target is clamped at t_min too."""

    formula: ClassVar[str] = "target = -x1 / (sigma Var[x1]); t clamped to [{t_min:g}, {t_max:g}]"
    source: ClassVar[str] = "Song et al. 2021, eq. 7; Ma et al. 2024 (SiT)"
    needs_score: ClassVar[bool] = True

    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        return torch.zeros_like(t), -1 / (path.sigma(t.clamp(min=self.t_min)) * variance.to(t))


@dataclass(frozen=True, kw_only=True)
class EDM(Prediction, name="edm"):
    """EDM's F on any path: the network sees x_t with unit variance and its target has unit variance.

    EDM's noise level is s = sigma sqrt(Var[x1]) / alpha and its input x_t / alpha; c_skip, c_out and c_in then are
    finite on all of [0, 1]. EDM assumes data of variance sigma_data^2.
    """

    formula: ClassVar[str] = (
        "D(x) = c_skip x / alpha + c_out F(c_in x / alpha, t), s = sigma sd(x1) / alpha, c_skip = d^2 / (s^2 + d^2), "
        "c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), d = {sigma_data:g}"
    )
    source: ClassVar[str] = "Karras et al. 2022, table 1 and eq. 7"

    sigma_data: Annotated[float, Range(1e-6, 1e6)] = 0.5
    """Standard deviation of the encoded data."""
    time: Literal["t", "log_sigma"] = field(default="t", metadata=ADDED)
    """Number that the network receives: t, or EDM's c_noise = ln(s) / 4 at the clamped time. The time embedding of EDM
    for `log_sigma` is sinusoidal with scale 1."""

    def network_time(self, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        if self.time == "t":
            return t
        alpha, sigma, std, _ = self._scales(t.clamp(self.t_min, self.t_max), path, variance)
        return (sigma * std / alpha).log() / 4

    def coefficients(self, t: Tensor, path: Interpolant, variance: Tensor) -> Coefficients:
        alpha, sigma, std, total = self._scales(t, path, variance)
        return sigma * std / (self.sigma_data * total), -alpha * self.sigma_data / (std * total)

    def network_input(self, xt: Tensor, t: Tensor, path: Interpolant, variance: Tensor = ONE) -> Tensor:
        return xt / self._scales(over(t, xt), path, variance)[3]

    def _scales(self, t: Tensor, path: Interpolant, variance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha, sigma, and the standard deviations of the noise (over all features) and of x_t."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        std = variance.mean().sqrt().to(t)
        return alpha, sigma, std, ((sigma * std).square() + (alpha * self.sigma_data).square()).sqrt()


SPACES: dict[str, Prediction] = {
    "velocity": Velocity(),
    "data": DataPrediction(),
    "noise": NoisePrediction(),
    "score": Score(t_min=0),
}
"""The quantities that an output can be converted to, by name."""
