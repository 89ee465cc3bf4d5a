"""Averages of the weights over training: weighted sums of the weights that training saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from harness.core.config import Range
from harness.core.errors import ConfigError
from harness.core.registry import Component

WIDTHS = (0.05, 0.10)
"""Widths (sigma_rel) of the power-function averages that snapshots hold, as in EDM2."""
Width = Annotated[float, Range(0, 0.25, ends="()")]


class Term(NamedTuple):
    """A term of an average: saved weights, times a share."""

    name: str
    """Prefix of the weights in the checkpoint or snapshot."""
    share: float
    step: int | None = None
    """Step of the snapshot; None for the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Average(Component, family="average"):
    """An average of the weights over their training."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        """Raise `ConfigError` if a training that keeps these EMA `decays`, and maybe `snapshots`, cannot provide it."""

    @abstractmethod
    def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]:
        """Return the terms whose sum is the average, given snapshots at `steps`; the shares sum to one."""


@dataclass(frozen=True, kw_only=True)
class Ema(Average, name="ema"):
    """An exponential moving average that training kept."""

    formula: ClassVar[str] = "d average + (1 - d) weights at every step, d = {decay:g} (0: train.ema_decay)"

    decay: Annotated[float, Range(0, 1, ends="[)")] = 0.0
    """Decay per step: one of `train.more_ema_decays`, or 0 for `train.ema_decay`."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        if not decays:
            raise ConfigError("", "training keeps none: train.ema_decay is null. Choose last, or set train.ema_decay.")
        if self.decay and self.decay not in decays:
            kept = ", ".join(f"{decay:g}" for decay in decays)
            raise ConfigError(
                "decay", f"training keeps {kept}, not {self.decay:g}. Choose one, or add it to train.more_ema_decays."
            )

    def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]:
        return [Term(f"averages/{ema_name(self.decay or decays[0])}", 1.0)]


@dataclass(frozen=True, kw_only=True)
class Last(Average, name="last"):
    """No average: the trained weights themselves."""

    formula: ClassVar[str] = "the last weights"

    def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]:
        return [Term("network", 1.0)]


@dataclass(frozen=True, kw_only=True)
class PostHoc(Average, name="posthoc"):
    """An average of any length, combined after training from snapshots of two power-function averages."""

    formula: ClassVar[str] = "weights t^g, g such that the sd of t is {width:g} of the training"
    source: ClassVar[str] = "Karras et al. 2024 (EDM2), section C"

    width: Width
    """Standard deviation of the averaging profile, as a share of the training length (sigma_rel), in (0, 0.25)."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        if not snapshots:
            raise ConfigError(
                "", "training keeps no snapshots. Set train.snapshot_every to about a hundredth of train.steps."
            )

    def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]:
        kept = [(step, width) for step in steps for width in WIDTHS]
        ends, gammas = (
            np.array(values, dtype=float) for values in zip(*((s, gamma_of(w)) for s, w in kept), strict=True)
        )
        shares = mixture(ends, gammas, ends.max(), gamma_of(self.width))
        return [Term(power_name(width), float(share), step) for (step, width), share in zip(kept, shares, strict=True)]


def ema_name(decay: float) -> str:
    """Return the name of an exponential average in a checkpoint."""
    return f"ema-{decay:g}"


def power_name(width: float) -> str:
    """Return the name of a power-function average in a snapshot."""
    return f"power-{width:g}"


def gamma_of(width: float) -> float:
    """The exponent of the power-function average whose sd is `width` of the training (Karras et al. 2024, eq. 126)."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def mixture(ends: np.ndarray, gammas: np.ndarray, end: float, gamma: float) -> np.ndarray:
    """Return the snapshots' weights [N] whose sum best fits the average of exponent `gamma` over the first `end` steps.

    Snapshot i is the average of exponent `gammas[i]` over the first `ends[i]` steps. The profile of such an average is
    (gamma + 1) t^gamma / end^(gamma + 1) on [0, end]. The weights minimise the squared difference between the sum of
    profiles and the wanted profile (Karras et al. 2024, section C.3).
    """
    between = _product(ends[:, None], gammas[:, None], ends, gammas)
    wanted = _product(ends, gammas, np.array(float(end)), np.array(gamma))
    return np.linalg.lstsq(between, wanted, rcond=1e-13)[0]


def _product(end_a: np.ndarray, gamma_a: np.ndarray, end_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Return the integral of the product of two profiles."""
    ratio = end_a / end_b
    shorter = np.where(end_a < end_b, ratio**gamma_b, ratio**-gamma_a) / np.maximum(end_a, end_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * shorter
