"""The base of all data sets: a configuration that loads samples and the maps to and from a network's input."""

from __future__ import annotations

import functools
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from harness.core.config import largest_path
from harness.core.errors import ConfigError, UserError
from harness.core.memory import Need, require
from harness.core.reading import no_file
from harness.core.registry import Component
from harness.core.rng import stream
from harness.core.tried import Instance, tried

Kind = Literal["image", "latents", "points", "cells", "sequence"]
LARGEST_ROUNDING = 0.01
"""Maximum rounding error of a stored value, in standard deviations of its feature."""


class Samples(Protocol):
    """Stored samples that are fetched on demand. Samples that are all in memory are a tensor [N, ...] instead."""

    workers: int
    """Processes that fetch batches ahead of training; 0 if fetching costs almost nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the samples [B, ...] at indices int64 [B]."""
        ...

    def content(self) -> Iterator[bytes]:
        """Yield bytes that identify these samples."""
        ...


@dataclass(frozen=True)
class Data:
    """A loaded data set: samples as stored, and the maps to and from the values on which a network trains."""

    train: Tensor | Samples
    """Samples [N, ...] for training and for comparison."""
    held_out: Tensor | Samples
    """Samples [M, ...] that are never used for training."""
    encode: Callable[[Tensor], Tensor]
    """Stored samples [B, ...] to float32 [B, ...] of about unit size."""
    decode: Callable[[Tensor], Tensor]
    """The inverse of `encode`; values outside its range are clipped."""
    kind: Kind
    classes: Tensor | None = None
    """The class of each sample of `train`, int64 [N], numbered from 0."""
    held_out_classes: Tensor | None = None
    """The class of each sample of `held_out`, int64 [M]; given exactly if `classes` is."""
    class_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names of the features: genes, channels."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """The fitted constants of `encode` and `decode`; checkpoints store them."""
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    """A random change of stored samples [B, ...], used only in training."""
    known_shape: tuple[int, ...] = ()
    """Shape of one encoded sample, if it is known before a sample is read."""
    notes: tuple[str, ...] = ()
    """Lines on what was left out and how values were scaled; `harness data` and the start of training print them."""

    def __post_init__(self) -> None:
        for split, samples in (("training", self.train), ("held-out", self.held_out)):
            if (
                isinstance(samples, Tensor)
                and samples.is_floating_point()
                and (wrong := int((~samples.isfinite()).sum()))
            ):
                raise UserError(
                    f"dataset: {wrong} of the {samples.numel()} {split} values are NaN or infinite. "
                    "Remove or replace them."
                )
        self._check_classes()

    def _check_classes(self) -> None:
        """Raise `UserError` if the classes do not match the samples, or a class has no training sample."""
        if self.classes is None and self.held_out_classes is None:
            return
        if self.classes is None or self.held_out_classes is None:
            raise UserError(
                "dataset: one of classes and held_out_classes is missing. "
                "Give classes for the samples of both splits, or for none."
            )
        for split, samples, classes in (
            ("training", self.train, self.classes),
            ("held-out", self.held_out, self.held_out_classes),
        ):
            if len(classes) != len(samples):
                raise UserError(
                    f"dataset: {len(classes)} classes are given for {len(samples)} {split} samples. "
                    "Give one class for each sample."
                )
        known = torch.cat([self.classes, self.held_out_classes, torch.tensor([len(self.class_names) - 1]).clamp(min=0)])
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or (self.class_names and highest >= len(self.class_names)):
            allowed = f"from 0 to {len(self.class_names) - 1}" if self.class_names else "from 0 on"
            raise UserError(
                f"dataset: the classes are numbers from {lowest} to {highest}, not {allowed}. Renumber them."
            )
        counts = torch.bincount(self.classes, minlength=highest + 1)
        if len(missing := (counts == 0).nonzero().flatten()):
            first = int(missing[0])
            name = self.class_names[first] if self.class_names else first
            raise UserError(
                f"dataset: the class '{name}' has no training sample. "
                "Add training samples of it, take more samples, or leave the class out."
            )

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded sample."""
        return self.known_shape or tuple(self.encode(self.train[torch.arange(1)]).shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 if the data have no classes."""
        return 0 if self.classes is None else int(self.classes.max()) + 1

    @functools.cached_property
    def fingerprint(self) -> dict[str, str | int]:
        """Sizes of both splits, and 12 hex digits of the SHA-256 of their content and classes."""
        content = hashlib.sha256()
        for values in (self.train, self.held_out, self.classes, self.held_out_classes):
            if values is None:
                continue
            if isinstance(values, Tensor):
                content.update(f"{values.dtype} {tuple(values.shape)};".encode())
                content.update(values.contiguous().numpy().data)
            else:
                for chunk in values.content():
                    content.update(chunk)
        return {"train": len(self.train), "held_out": len(self.held_out), "sha256": content.hexdigest()[:12]}

    @functools.cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the encoded values of `some` training samples."""
        some = self.some()
        return some.mean().item(), some.std().item()

    def some(self, number: int = 2000) -> Tensor:
        """Return encoded training samples: all if they are in memory, otherwise `number` of them, evenly spaced."""
        if isinstance(self.train, Tensor):
            return self.encode(self.train)
        return self.encode(self.train[spaced(number, len(self.train))])


class Dataset(Component, family="dataset"):
    """A data set by name."""

    def held_bytes(self) -> int:
        """Return a lower bound of the memory, in bytes, in which the samples are made; 0 if only the files tell it."""
        return 0

    @abstractmethod
    def load(self) -> Data:
        """Load the samples; `UserError` if a file is missing or damaged."""


@functools.lru_cache(maxsize=4)
def load(dataset: Dataset) -> Data:
    """Load the data of a configuration, once per process; `ConfigError` if they cannot fit into memory."""
    samples = Need(largest_path(dataset, "dataset"), "its samples", dataset.held_bytes())
    require([samples], f"the data set {dataset.name}")
    return tried(dataset, "load", due=Instance((Data,), "a Data"))


def data_folder() -> Path:
    """Return the folder at which relative paths of data begin: HARNESS_DATA, or data/ in the working directory."""
    return Path(os.environ.get("HARNESS_DATA") or "data")


def existing(path: str, what: str) -> Path:
    """Return `path`, below `data_folder` if it is relative; `ConfigError` if it is not a file or folder."""
    found = data_folder() / path
    if not path or not found.exists():
        here = Path(path)
        if path and not here.is_absolute() and here.exists():
            said = f"{os.path.join('.', path)} exists: give its absolute path, {here.absolute()}"
            raise ConfigError("dataset.path", f"{found} does not exist. {said}.")
        reason = f"{found} does not exist. Give {what}; relative paths begin in HARNESS_DATA, or else in data/."
        raise ConfigError("dataset.path", reason)
    if not found.is_dir() and (kind := no_file(found)):  # reading it may never end
        raise ConfigError("dataset.path", f"{found} is {kind}. Give {what}.")
    return found


def spaced(number: int, total: int) -> Tensor:
    """Return evenly spaced indices of `number` of `total` samples, or of all, from the first to the last: int64.

    Exact below 2^63.
    """
    number = min(number, total)
    return torch.arange(number) * (total - 1) // max(1, number - 1)


def held_out(number: int, every: float, strata: Tensor | None = None) -> Tensor:
    """Return which of `number` samples are held out, bool [number]: one in `every`, drawn with a fixed seed.

    Each stratum of `strata` int64 [number], for example a class, is held out in the same share, to within one sample.
    The only sample of a stratum stays in training. `UserError` if either split would be empty.
    """
    order = torch.randperm(number, generator=stream(0, "held out"))
    if strata is not None:
        order = order[strata[order].argsort(stable=True)]
    mask = torch.zeros(number, dtype=torch.bool)
    parts = (torch.arange(number + 1, dtype=torch.float64) / every + 1e-9).floor()
    mask[order[parts.diff() > 0]] = True
    if strata is not None:
        mask &= torch.bincount(strata)[strata] > 1
    if not mask.any() or mask.all():
        samples = "1 sample" if number == 1 else f"{number} samples"
        raise UserError(
            f"dataset: {samples} cannot be split into training samples and one in {every:g} held out. Give more."
        )
    return mask


def parted(classes: Tensor | None, apart: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Split classes [N] into (training classes, held-out classes); `apart` bool [N] marks the held-out samples."""
    return (None, None) if classes is None else (classes[~apart], classes[apart])


class Standardise:
    """(x - mean) / std per feature and its inverse, with mean and std [D] of the training samples."""

    def __init__(self, mean: Tensor, std: Tensor):
        self.statistics = {"mean": mean.float(), "std": std.float()}
        self.mean, self.std = mean.double(), std.double()

    def encode(self, x: Tensor) -> Tensor:
        """Map stored values [B, ..., D] to float32 [B, ..., D]."""
        mean, std = self._on(x.device)
        return ((x.double() - mean) / std).float()

    def decode(self, x: Tensor) -> Tensor:
        """Invert `encode`, in float32."""
        mean, std = self._on(x.device)
        return (x.double() * std + mean).float()

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the statistics on a device, and keep them there: a copy in every step would make a GPU wait."""
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self.mean, self.std


def standardise(values: Tensor, train: Tensor, names: Sequence[str], what: str) -> Standardise:
    """Return the standardisation that the rows `train` bool [N] of `values` float64 [N, D] give.

    `UserError` names a feature that does not vary in these rows, or whose values float32, in which samples are stored,
    cannot resolve: rounding errors up to `LARGEST_ROUNDING` standard deviations are accepted. `what` is the noun for a
    feature.
    """
    chosen = values[train]
    for name, low, high in zip(names, chosen.amin(0), chosen.amax(0), strict=True):
        if low == high:
            raise UserError(f"dataset: the {what} '{name}' never varies. Set dataset.columns to the other {what}s.")
    scale = Standardise(chosen.mean(0), chosen.std(0))
    lost = (values.float().double() - values).abs().amax(0) / scale.std
    if len(worst := (lost > LARGEST_ROUNDING).nonzero().flatten()):
        first = int(worst[0])
        raise UserError(
            f"dataset: the {what} '{names[first]}' varies by {scale.std[first]:.3g} around {scale.mean[first]:.3g}, "
            "too little for float32. Subtract its mean before you save it, or choose another unit."
        )
    return scale
