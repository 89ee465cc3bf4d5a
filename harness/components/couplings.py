"""Couplings: the joint distribution of data x0 and noise x1 within a batch.

POT solves optimal transport, with squared Euclidean distances, on the whole (global) batch. Therefore the result does
not depend on the number of processes. The data and their classes keep their rows; the noise moves to other rows.
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
"""Largest number of network simplex steps; POT's default of 100,000 ends before the optimum of 4,096 pairs."""
ENTROPIC_ITERATIONS = 2000
"""Largest number of iterations of Sinkhorn's algorithm."""
ENTROPIC_ERROR = 1e-6
"""Error of the plan's marginals at which Sinkhorn's algorithm ends earlier."""
UNEVEN = 0.01
"""Error of the plan's marginal (total mass 1) above which the user is warned."""


class Pair(NamedTuple):
    """Paired data and noise: row i of x0 belongs to row i of x1."""

    x0: Tensor
    """Data, [B, ...]."""
    x1: Tensor
    """Noise, [B, ...]."""
    y: Tensor | None
    """Classes of the data, int64 [B]; None if there are none."""


class Coupling(Component, family="coupling"):
    """A rule that pairs data with noise."""

    independent: ClassVar[bool] = False
    """Whether x1 stays independent of x0. Only then does E[x1 | x_t] give the score of p_t."""
    needs_classes: ClassVar[bool] = False
    """Whether `pair` needs the classes of the data."""
    brings_data: ClassVar[bool] = False
    """Whether it replaces the drawn data and classes by its own data and classes."""

    @abstractmethod
    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        """Pairs from a batch of data and a batch of noise, [B, ...] each; `y` [B] are the data's classes."""

    def check(self, data_shape: Sequence[int], classes: int, conditional: bool = False) -> None:
        """Raise `UserError` if it cannot pair samples of `data_shape`, given without the batch axis.

        `classes`: how many classes the data have, 0: unknown. `conditional`: whether the network receives them.
        """
        if self.needs_classes and not classes:
            raise ConfigError(
                "coupling", f"{self.name} needs the classes of the data, and there are none. Choose exact_ot."
            )

    def held_bytes(self, batch: int) -> int:
        """Return a lower bound of the bytes that it takes to pair a batch, without the batch itself."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """Return hashes of the files that it reads; empty if it reads none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Independent(Coupling, name="independent"):
    """Data and noise paired as drawn."""

    formula: ClassVar[str] = "(x0, x1) ~ p(x0) p(x1)"
    source: ClassVar[str] = "Lipman et al. 2023; Liu et al. 2023; I-CFM of Tong et al. 2024"
    independent: ClassVar[bool] = True

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        return Pair(x0, x1, y)


@dataclass(frozen=True, kw_only=True)
class ExactOT(Coupling, name="exact_ot"):
    """The permutation of a batch's noise with the least total squared distance to the data."""

    formula: ClassVar[str] = "x1 permuted by argmin sum |x0 - x1|^2"
    source: ClassVar[str] = "Pooladian et al. 2023; Tong et al. 2024, section 3.3"
    waits: ClassVar[bool] = True

    def pair(self, x0: Tensor, x1: Tensor, generator: torch.Generator, y: Tensor | None = None) -> Pair:
        return Pair(x0, x1[_assignment(x0, x1)], y)

    def held_bytes(self, batch: int) -> int:
        return 2 * 8 * batch**2  # the distances and their squares


@dataclass(frozen=True, kw_only=True)
class Sinkhorn(Coupling, name="sinkhorn"):
    """Noise drawn for each sample from its row of the entropic transport plan, with replacement."""

    formula: ClassVar[str] = "x1 ~ rows of argmin <plan, |x0 - x1|^2> - {reg:g} median(|x0 - x1|^2) H(plan)"
    source: ClassVar[str] = "Cuturi 2013; SB-CFM and OT-CFM of Tong et al. 2024"
    waits: ClassVar[bool] = True

    reg: Annotated[float, Range(0.005, 1e150)] = 0.05
    """Entropic regularisation, in units of the batch's median squared distance; larger values are closer to
    independent. Below 0.005, 2,000 iterations do not converge, and x1 would no longer follow the noise distribution."""

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
                "Choose a larger value."
            )
        rows = torch.from_numpy(plan).to(x1.device)
        return Pair(x0, x1[torch.multinomial(rows / rows.sum(1, keepdim=True), 1, generator=generator)[:, 0]], y)


@dataclass(frozen=True, kw_only=True)
class ClassConditionalOT(Coupling, name="class_conditional_ot"):
    """Optimal transport within each class, so that every class keeps the whole noise distribution."""

    formula: ClassVar[str] = "x1 permuted by argmin sum |x0 - x1|^2 among the samples of one class"
    source: ClassVar[str] = "the discrete case of Cheng & Schwing 2025 (C2OT)"
    needs_classes: ClassVar[bool] = True
    waits: ClassVar[bool] = True

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
    """Fixed pairs from files, as reflow makes them; rows of the files replace the drawn batch."""

    formula: ClassVar[str] = "(x0, x1) ~ rows of {path}"
    source: ClassVar[str] = "Liu et al. 2023, algorithm 1"
    brings_data: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    path: str = field(metadata=RUN_ONLY)
    """Folder with x0.npy and x1.npy, encoded, float32 [N, ...]; row i of both is a pair. If the network receives
    classes, y.npy holds the classes of x0, int64 [N]."""

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
            reason = f"{found}, but the data have {classes} classes, counted from 0"
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
                f"{self.path} holds samples of shape {list(data.shape[1:])}, but the data have shape "
                f"{list(data_shape)}. Make other pairs.",
            )

    def _arrays(self) -> Arrays:
        """Return x0, x1 and the classes, if there are any, memory-mapped."""
        paths = [Path(self.path) / name for name in ("x0.npy", "x1.npy", "y.npy")]
        return _mapped(self.path, tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in paths))


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@functools.lru_cache(maxsize=2)
def _mapped(folder: str, changed: tuple[int, ...]) -> Arrays:
    """Return x0, x1 and y of a folder; raise `ConfigError` if they are not pairs.

    `changed`: modification times of the files, ns, so that a changed file is read again.
    """
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
            "coupling.path", f"x0.npy and x1.npy in {folder} are not float32 arrays of the same shape. Make them again."
        )
    if rest and not (isinstance(rest[0], np.ndarray) and rest[0].dtype == np.int64 and rest[0].shape == data.shape[:1]):
        raise ConfigError(
            "coupling.path", f"y.npy in {folder} needs one class (int64) for each row of x0.npy. Make it again."
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
            f"coupling: data of shape {list(x0.shape)} and noise of shape {list(x1.shape)} cannot be paired. "
            "Give batches of the same shape."
        )


def _assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """Return, for each row of x0, the row of x1 that the assignment of least total cost gives it."""
    import ot

    # The line below says it once. `catch_warnings` would put back the filters of another thread.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ot\.")
    plan, log = ot.emd([], [], _cost(x0, x1), numItermax=EXACT_ITERATIONS, log=True)
    if log["warning"]:
        say_once(
            f"coupling: optimal transport of {len(x0)} pairs ended early ({log['warning']}). "
            "Choose a smaller train.batch_size."
        )
    return torch.from_numpy(plan.argmax(1)).to(x1.device)
