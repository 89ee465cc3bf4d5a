"""The formulation: the components that define the objective, and checks that they go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from harness.components.couplings import Coupling, Independent
from harness.components.interpolants import Interpolant, Linear, Scaled
from harness.components.losses import MSE, Loss
from harness.components.noises import Gaussian, Noise
from harness.components.predictions import ONE, Prediction, Velocity
from harness.components.time_samplers import TimeSampler
from harness.components.time_samplers import Uniform as UniformTimes
from harness.components.weightings import Stated, Weighting
from harness.components.weightings import Uniform as UniformWeight
from harness.core.config import Config, Range
from harness.core.declared import is_own
from harness.core.errors import ConfigError
from harness.core.tried import Instance, Like, require, times, tried

SAFE = {"t_min": "a larger one, like 0.01", "t_max": "a smaller one, like 0.99"}
"""Advice for a conversion that is unbounded at the clamped time, by the field that sets the clamp."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Config):
    """How the components combine in the objective."""

    space: Literal["output", "velocity", "data", "noise"] = "output"
    """Quantity whose error is measured: the network's output, or the quantity that it is converted to. A weighting
    that is stated for another error is converted, so the objective stays its paper's."""
    normalise_weight: bool = True
    """Divide the weight by its mean under the time density, so that arms differ in shape and not in scale."""
    label_dropout: Annotated[float, Range(0, 1, ends="[)")] | None = None
    """Probability, in [0, 1), that a sample's class is hidden from the network in training; null trains without
    classes. Guidance needs a value above 0."""


@dataclass(frozen=True, kw_only=True)
class Formulation(Config):
    """The components of the objective. Construction raises `ConfigError` for a combination that has no meaning."""

    interpolant: Interpolant = Linear()
    prediction: Prediction = Velocity()
    weighting: Weighting = UniformWeight()
    loss: Loss = MSE()
    time_sampler: TimeSampler = UniformTimes()
    noise: Noise = Gaussian()
    coupling: Coupling = Independent()
    objective: ObjectiveConfig = ObjectiveConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._try_out()
        if self.prediction.needs_score:
            require_score("prediction", self.prediction.name, "velocity", self)
        for space in dict.fromkeys(("velocity", self.space)):
            self.refuse_unbounded(space)
        self._check_weighting()

    def _try_out(self) -> None:
        """Raise `UserError` if a user's path or prediction returns values that the checks below cannot use."""
        t = times(3, torch.float64)
        if not is_own(type(self.interpolant)):
            for method in ("alpha", "sigma"):
                tried(self.interpolant, method, t, due=Like(t))
        if not is_own(type(self.prediction)):
            due = Instance((tuple,), "a pair of tensors")
            of_each = Instance((Tensor,), "a tensor")
            pair = tried(self.prediction, "coefficients", t, self.interpolant, ONE, due=due)
            for value in pair if len(pair) == 2 else [pair]:
                require(self.prediction, "coefficients", value, of_each, "a coefficient")

    @property
    def drawing(self) -> tuple[Noise, Coupling, TimeSampler]:
        """The components that draw the noise, the pairs and the times of a step."""
        return self.noise, self.coupling, self.time_sampler

    @property
    def space(self) -> str:
        """The quantity whose error is measured."""
        return self.prediction.name if self.objective.space == "output" else self.objective.space

    @property
    def stated_for(self) -> str:
        """The quantity whose squared error the weighting weights."""
        stated = self.weighting.stated_for
        return self.space if stated == "any" else stated

    def stated_over_measured(self, t: Tensor, variance: Tensor = ONE) -> Tensor | None:
        """Return the ratio of the stated error to the measured error, at the prediction's clamped time.

        The stated error is the one that the weighting weights. t and `variance` of the noise are broadcast together.
        None if both errors are of the same quantity.
        """
        if self.stated_for == self.space:
            return None
        stated, measured = (
            self.prediction.factor(t, self.interpolant, of, variance) for of in (self.stated_for, self.space)
        )
        return stated / measured

    @property
    def conditional(self) -> bool:
        """Whether the network receives classes."""
        return self.objective.label_dropout is not None

    def path(self, noise_state: Mapping[str, Tensor]) -> Interpolant:
        """Return the interpolant rewritten for noise of unit variance, so that its SNR is the true one."""
        std = self.noise.variance(noise_state).mean().sqrt().item()
        return self.interpolant if std == 1 else Scaled(path=self.interpolant, std=std)

    def refuse_unbounded(self, space: str) -> None:
        """Raise `ConfigError` if the prediction's target, or its conversion to `space`, is unbounded at a clamp."""
        prediction = self.prediction
        path = self.interpolant
        for end in ("t_min", "t_max"):
            t = torch.tensor([getattr(prediction, end)], dtype=torch.float64)
            told = prediction.network_time(t, path, ONE)
            values = (prediction.factor(t, path, space), *prediction.coefficients(t, path, ONE), told)
            if not all(value.isfinite().all() for value in values):
                raise ConfigError(
                    f"prediction.{end}",
                    f"{prediction.name} gives no finite {space} at t = {t.item():g} on {path.name}. "
                    f"Choose {SAFE[end]}.",
                )

    def _check_weighting(self) -> None:
        """Raise `ConfigError` if no weight of the measured loss gives the objective that the weighting states."""
        name = self.weighting.name
        stated = self.weighting.stated_for
        if stated not in get_args(Stated):
            reason = f"{name} is stated for {stated!r}, which is not a quantity"
            raise ConfigError("weighting", f"{reason}. Set its stated_for to one of {', '.join(get_args(Stated))}.")
        if self.stated_for == self.space:
            return
        instead = f"objective.space={stated}"
        if not self.loss.squared:
            reason = f"{name} weights the squared error of the {stated}, but {self.loss.name} is not a squared loss"
            advice = f"Set {instead}, or choose loss=mse."
            raise ConfigError(
                "objective.space", f"{reason}: no weight of the {self.space} error gives the same objective. {advice}"
            )
        for end in ("t_min", "t_max"):
            t = torch.tensor([getattr(self.prediction, end)], dtype=torch.float64)
            factor = self.stated_over_measured(t)
            if factor is not None and not factor.isfinite().all():
                reason = f"{name} weights the {stated} error, which is not a finite multiple of the {self.space} error"
                where = f"at t = {t.item():g} on {self.interpolant.name}"
                raise ConfigError(f"prediction.{end}", f"{reason} {where}. Choose {SAFE[end]}, or {instead}.")

    def refuse_own_variances(self, variance: Tensor) -> None:
        """Raise `ConfigError` if the noise variance, and with it the weight, would differ from feature to feature."""
        factor = self.stated_over_measured(torch.tensor(0.5), variance)
        if factor is not None and factor.numel() > 1:
            stated = self.stated_for
            reason = f"{self.weighting.name} weights the {stated} error, whose ratio to the {self.space} error"
            reason = f"{reason} differs between features, because their noise variances differ"
            raise ConfigError("objective.space", f"{reason}. Set objective.space={stated}.")


def require_score(path: str, name: str, instead: str, formulation: Formulation) -> None:
    """Raise `ConfigError` if x1 does not give the score that the setting `name` at `path` uses.

    E[x1 | x_t] = -sigma Var[x1] score holds only for x1 that is normal and independent of x0. `instead` is the value
    that the error advises.
    """
    if not formulation.noise.gaussian:
        reason = f"{name} needs the score, which {formulation.noise.name} noise does not give"
        raise ConfigError(path, f"{reason}. Choose noise=gaussian or {path}={instead}.")
    if not formulation.coupling.independent:
        reason = f"{name} needs the score, which the coupling {formulation.coupling.name} does not give"
        other = "" if formulation.coupling.brings_data else "coupling=independent or "
        raise ConfigError(path, f"{reason}. Choose {other}{path}={instead}.")
