"""Which average of a training's weights is judged; any length of it, put together afterwards from snapshots (post-hoc EMA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from torch import Tensor

from harness.config import Range
from harness.errors import ConfigError, UserError
from harness.registry import Component
from harness.training.checkpoint import checkpoints, part, read_intact, step_of
from harness.training.ema import WIDTHS, ema_name, gamma_of, power_name
from harness.training.optimizers import Decay

Width = Annotated[float, Range(0, 0.25, ends="()")]


@dataclass(frozen=True, kw_only=True)
class Average(Component, family="average"):
    """Which average of the weights of a training is judged."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        """`ConfigError` when a training that averages so does not give it."""

    def weights(self, saved: Mapping[str, Tensor], snapshots: Path, decays: Sequence[float]) -> dict[str, Tensor]:
        """The weights by name, from a checkpoint and the folder of snapshots of a training that averaged with `decays`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Ema(Average, name="ema"):
    """An exponential moving average that training kept."""

    decay: Decay | None = None
    """One of `train.ema_decays`; null is their first."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        if not decays:
            raise ConfigError("", "training keeps none: train.ema_decays is empty. Choose last, or name a decay there.")
        if self.decay is not None and self.decay not in decays:
            raise ConfigError("decay", f"{self.decay:g} is not in train.ema_decays {list(decays)}. Choose one that is.")

    def weights(self, saved: Mapping[str, Tensor], snapshots: Path, decays: Sequence[float]) -> dict[str, Tensor]:
        return part(saved, f"averages/{ema_name(decays[0] if self.decay is None else self.decay)}")


@dataclass(frozen=True, kw_only=True)
class Last(Average, name="last"):
    """None: the weights as they were last trained."""

    def weights(self, saved: Mapping[str, Tensor], snapshots: Path, decays: Sequence[float]) -> dict[str, Tensor]:
        return part(saved, "network")


@dataclass(frozen=True, kw_only=True)
class PostHoc(Average, name="posthoc"):
    """An average of any length, put together after training from snapshots of two others."""

    source: ClassVar[str] = "Karras et al. 2024 (EDM2), section C"

    width: Width
    """Standard deviation of the average over the training, as a share of its length (sigma_rel)."""

    def check(self, decays: Sequence[float], snapshots: bool) -> None:
        if not snapshots:
            raise ConfigError("", "training keeps no snapshots. Set train.snapshot_every, to a hundredth of train.steps or so.")

    def weights(self, saved: Mapping[str, Tensor], snapshots: Path, decays: Sequence[float]) -> dict[str, Tensor]:
        return reconstruct(snapshots, self.width)


def reconstruct(folder: Path, width: float) -> dict[str, Tensor]:
    """The weights of the average of a width at the last snapshot, summed in float64; one snapshot is in memory at a time."""
    paths = sorted(checkpoints(folder))
    steps, gammas = np.array([float(step_of(p)) for p in paths]), np.array([gamma_of(w) for w in WIDTHS])
    shares = mixture(steps.repeat(len(WIDTHS)), np.tile(gammas, len(paths)), steps[-1], gamma_of(width)).reshape(len(paths), len(WIDTHS))
    total: dict[str, Tensor] = {}
    for path, of_path in zip(paths, shares, strict=True):
        tensors = read_intact(path, "cpu")
        if tensors is None:
            raise UserError(f"{path}: is damaged. Remove the run and train it again, or choose evaluate.average=ema.")
        for kept, share in zip(WIDTHS, of_path, strict=True):
            for name, value in part(tensors, power_name(kept)).items():
                total[name] = total.get(name, 0) + share * value.double()
    return {name: value.float() for name, value in total.items()}


def mixture(ends: np.ndarray, gammas: np.ndarray, end: float, gamma: float) -> np.ndarray:
    """What each snapshot, of exponent `gammas[i]` after `ends[i]` steps, counts in the average of exponent `gamma` after `end`.

    Least squares between the profiles (g + 1) t^g / T^(g + 1) on [0, T] (Karras et al. 2024, section C.3).
    """
    between = _product(ends[:, None], gammas[:, None], ends, gammas)
    wanted = _product(ends, gammas, np.array(float(end)), np.array(gamma))
    return np.linalg.lstsq(between, wanted, rcond=1e-13)[0]


def _product(end_a: np.ndarray, gamma_a: np.ndarray, end_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """The integral of two profiles' product."""
    ratio = end_a / end_b
    shorter = np.where(end_a < end_b, ratio**gamma_b, ratio**-gamma_a) / np.maximum(end_a, end_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * shorter
