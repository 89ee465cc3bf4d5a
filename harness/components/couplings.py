"""Which noise goes with which data: the joint distribution of x0 and x1 within a batch.

Optimal transport is POT's, on squared Euclidean distances, solved on the whole (global) batch: the result does not
depend on how many processes share it. The data, and with them their classes, keep their places; the noise is moved.
"""

from __future__ import annotations

import functools
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.core.arrays import mapped_array
from harness.core.config import RUN_ONLY, Range
from harness.core.errors import ConfigError, UserError
from harness.core.files import short_hash
from harness.core.reading import Damaged, say_once
from harness.core.registry import Component

EXACT_ITERATIONS = 10**9
"""Of the network simplex at most: POT's own 100,000 end before the optimum of 4,096 pairs."""
ENTROPIC_ITERATIONS = 2000
"""Of Sinkhorn's algorithm at most."""
ENTROPIC_ERROR = 1e-6
"""Error of the plan's sums at which Sinkhorn's algorithm ends before."""
UNEVEN = 0.01
"""Error of the plan's sums, all together 1, from which on it is worth a line."""


class Pair(NamedTuple):
    """Data and noise whose rows belong together."""

    x0: Tensor
    """Data, [B, ...]."""
    x1: Tensor
    """Noise, [B, ...]."""
    y: Tensor | None
    """The classes of the data, int64 [B]."""


class Coupling(Component, family="coupling"):
    """Pairs of data and noise."""

    independent: ClassVar[bool] = False
    """Whether x1 stays independent of x0: only then do x1 and the score of p_t say the same."""
    needs_classes: ClassVar[bool] = False
    """Whether `pair` must be told the classes of the data."""
    brings_data: ClassVar[bool] = False
    """Whether data of its own, and their classes, come in the place of those that were drawn."""

    @abstractmethod
    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        """Pairs from a batch of data and a batch of noise, [B, ...] each; `y` [B] are the data's classes."""

    def check(self, data_shape: Sequence[int], classes: int, conditional: bool = False) -> None:
        """`UserError` when it cannot pair samples of `data_shape` (no batch axis) and so many classes (0: unknown).

        `conditional`: the network is told the classes of the pairs.
        """
        if self.needs_classes and not classes:
            raise ConfigError(
                "coupling", f"{self.name} needs the classes of the data, and there are none. Choose exact_ot."
            )

    def held_bytes(self, batch: int) -> int:
        """What pairing a batch keeps in memory at least, beside it."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """What identifies the content of files that it reads; empty when there are none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Independent(Coupling, name="independent"):
    """Each with its own: as drawn."""

    formula: ClassVar[str] = "(x0, x1) ~ p(x0) p(x1)"
    source: ClassVar[str] = "Lipman et al. 2023; Liu et al. 2023; I-CFM of Tong et al. 2024"
    independent: ClassVar[bool] = True

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        return Pair(x0, x1, y)


@dataclass(frozen=True, kw_only=True)
class ExactOT(Coupling, name="exact_ot"):
    """The permutation of the batch's noise with the least total squared distance to its data."""

    formula: ClassVar[str] = "x1 permuted by argmin sum |x0 - x1|^2"
    source: ClassVar[str] = "Pooladian et al. 2023; Tong et al. 2024, section 3.3"

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        return Pair(x0, x1[_assignment(x0, x1)], y)

    def held_bytes(self, batch: int) -> int:
        return 2 * 8 * batch**2  # the distances and their squares


@dataclass(frozen=True, kw_only=True)
class Sinkhorn(Coupling, name="sinkhorn"):
    """Noise drawn for each sample from its row of the entropic transport plan, with replacement."""

    formula: ClassVar[str] = "x1 ~ rows of argmin <plan, |x0 - x1|^2> - {reg:g} median(|x0 - x1|^2) H(plan)"
    source: ClassVar[str] = "Cuturi 2013; SB-CFM and OT-CFM of Tong et al. 2024"

    reg: Annotated[float, Range(0.005, 1e150)] = 0.05
    """Entropic regularisation, in medians of the batch's squared distances; larger is closer to independent. Below
    0.005 Sinkhorn's iterations do not converge in 2,000, and the noise would lose its distribution."""

    def held_bytes(self, batch: int) -> int:
        return 2 * 8 * batch**2

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        import ot

        cost = _cost(x0, x1)
        limits: dict[str, Any] = {"numItermax": ENTROPIC_ITERATIONS, "stopThr": ENTROPIC_ERROR, "warn": False}
        plan = ot.sinkhorn([], [], cost, self.reg * np.median(cost), method="sinkhorn_log", **limits)
        if np.abs(plan.sum(0) - 1 / len(x0)).sum() > UNEVEN:
            say_once(
                "coupling.reg: Sinkhorn's iterations did not converge, and some noise is drawn too often. "
                "Choose a larger one."
            )
        rows = torch.from_numpy(plan).to(x1.device)
        return Pair(x0, x1[torch.multinomial(rows / rows.sum(1, keepdim=True), 1, generator=generator)[:, 0]], y)


@dataclass(frozen=True, kw_only=True)
class ClassConditionalOT(Coupling, name="class_conditional_ot"):
    """Optimal transport within each class, so that every class keeps the whole noise distribution."""

    formula: ClassVar[str] = "x1 permuted by argmin sum |x0 - x1|^2 among the samples of one class"
    source: ClassVar[str] = "the discrete case of Cheng & Schwing 2025 (C2OT)"
    needs_classes: ClassVar[bool] = True

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        self.check(x0.shape[1:], classes=0 if y is None else len(y))
        assert y is not None
        _same_shape(x0, x1)
        order = torch.arange(len(x1), device=x1.device)
        for label in y.unique():
            of_class = (y == label).nonzero()[:, 0]
            order[of_class] = of_class[_assignment(x0[of_class], x1[of_class])]
        return Pair(x0, x1[order], y)


@dataclass(frozen=True, kw_only=True)
class Pairs(Coupling, name="pairs"):
    """Fixed pairs from a file, as reflow makes them; the batch that was drawn is replaced by rows of it."""

    formula: ClassVar[str] = "(x0, x1) ~ rows of {path}"
    source: ClassVar[str] = "Liu et al. 2023, algorithm 1"
    brings_data: ClassVar[bool] = True

    path: str = field(metadata=RUN_ONLY)
    """A folder with x0.npy and x1.npy, float32 [N, ...], encoded; rows with the same number belong together. Where a
    network is told classes, y.npy holds those of x0, int64 [N]."""

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        data, noise, classes = self._arrays()
        self._fits(x0.shape[1:], data)
        chosen = torch.randint(len(data), (len(x0),), generator=generator, device=generator.device).cpu().numpy()
        y = None if classes is None else torch.from_numpy(classes[chosen]).to(x0.device)
        return Pair(torch.from_numpy(data[chosen]).to(x0), torch.from_numpy(noise[chosen]).to(x1), y)

    def check(self, data_shape: Sequence[int], classes: int, conditional: bool = False) -> None:
        data, _, known = self._arrays()
        self._fits(data_shape, data)
        if conditional and known is None:
            raise ConfigError(
                "coupling.path",
                f"{self.path} has no y.npy with the classes of x0. Add it, or set objective.label_dropout=null.",
            )
        if conditional and known is not None and not 0 <= known.min() <= known.max() < classes:
            found = f"y.npy in {self.path} has classes from {known.min()} to {known.max()}"
            reason = f"{found}, the data {classes} of them from 0 on"
            raise ConfigError("coupling.path", f"{reason}. Make it again.")

    def fingerprint(self) -> dict[str, str]:
        names = ("x0.npy", "x1.npy") if self._arrays()[2] is None else ("x0.npy", "x1.npy", "y.npy")
        hashes = {}
        for name in names:
            with open(Path(self.path) / name, "rb") as file:
                hashes[name] = short_hash(file)
        return hashes

    def _fits(self, data_shape: Sequence[int], data: np.ndarray) -> None:
        if data.shape[1:] != tuple(data_shape):
            raise ConfigError(
                "coupling.path",
                f"{self.path} holds {list(data.shape[1:])}, the data are {list(data_shape)}. Make others.",
            )

    def _arrays(self) -> Arrays:
        """Both ends and the classes where there are some, memory-mapped."""
        paths = [Path(self.path) / name for name in ("x0.npy", "x1.npy", "y.npy")]
        return _mapped(self.path, tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@functools.lru_cache(maxsize=2)
def _mapped(folder: str, changed: tuple[int, ...]) -> Arrays:
    """x0, x1 and y in a folder whose files were last `changed` then; `ConfigError` when they are no pairs."""
    names = ("x0.npy", "x1.npy", "y.npy") if changed[2] else ("x0.npy", "x1.npy")
    try:
        data, noise, *rest = (mapped_array(Path(folder) / name) for name in names)
    except (Damaged, OSError, ValueError) as error:
        raise ConfigError(
            "coupling.path", f"{folder} cannot be read ({error}). Give a folder with x0.npy and x1.npy."
        ) from error
    arrays = all(isinstance(array, np.ndarray) and array.dtype == np.float32 and array.size for array in (data, noise))
    if not arrays or data.ndim == 0 or data.shape != noise.shape:
        raise ConfigError(
            "coupling.path", f"x0.npy and x1.npy in {folder} are not float32 of one shape. Make them again."
        )
    if rest and not (isinstance(rest[0], np.ndarray) and rest[0].dtype == np.int64 and rest[0].shape == data.shape[:1]):
        raise ConfigError(
            "coupling.path", f"y.npy in {folder} is not one whole number (int64) for each row of x0.npy. Make it again."
        )
    return data, noise, rest[0] if rest else None


def transport_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """Mean over the pairs of |x0 - x1|^2, a scalar."""
    return (x0 - x1).square().flatten(1).sum(1).mean()


def _cost(x0: Tensor, x1: Tensor) -> np.ndarray:
    """Squared distances [B, B] in float64."""
    _same_shape(x0, x1)
    return torch.cdist(x0.flatten(1).double(), x1.flatten(1).double()).square().cpu().numpy()


def _same_shape(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape:
        raise UserError(
            f"coupling: {list(x0.shape)} data and {list(x1.shape)} noise cannot be paired. Give batches of one shape."
        )


def _assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """For each row of x0 the row of x1 that the least total cost gives it."""
    import ot

    with warnings.catch_warnings(action="ignore"):  # said below instead, once
        plan, log = ot.emd([], [], _cost(x0, x1), numItermax=EXACT_ITERATIONS, log=True)
    if log["warning"]:
        say_once(
            f"coupling: optimal transport of {len(x0)} pairs ended early ({log['warning']}). "
            "Choose a smaller train.batch_size."
        )
    return torch.from_numpy(plan.argmax(1)).to(x1.device)
