"""What every data set is: a configuration that loads samples and knows how to turn them into what a network sees."""

from __future__ import annotations

import functools
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
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


class Samples(Protocol):
    """Stored samples that are fetched when they are asked for. Where all lie in memory they are a tensor [N, ...]."""

    workers: int
    """Processes that fetch batches ahead of training; 0 where fetching costs next to nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """The samples [B, ...] at indices [B]."""
        ...

    def content(self) -> Iterator[bytes]:
        """Bytes that tell these samples from all others."""
        ...


@dataclass(frozen=True)
class Data:
    """A loaded data set: samples as stored, and the maps to and from the values that a network is trained on."""

    train: Tensor | Samples
    """Samples that are trained on and compared with, [N, ...]."""
    held_out: Tensor | Samples
    """Samples never trained on, [M, ...]."""
    encode: Callable[[Tensor], Tensor]
    """Stored samples [B, ...] to float32 [B, ...] of about unit size."""
    decode: Callable[[Tensor], Tensor]
    """The inverse of `encode`; values outside its range are clipped."""
    kind: Kind
    classes: Tensor | None = None
    """The class of each sample of `train`, int64 [N], counted from 0."""
    held_out_classes: Tensor | None = None
    """The class of each sample of `held_out`, int64 [M]; there where `classes` is."""
    class_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Of the features: genes, channels."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """What `encode` and `decode` were fitted with; it travels in the checkpoint."""
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    """A random change of stored samples [B, ...] that training alone sees."""
    known_shape: tuple[int, ...] = ()
    """Shape of one encoded sample, where it is known before one is read."""
    notes: tuple[str, ...] = ()
    """What was left out and how values were scaled, a line each: `harness data` and the start of a training say it."""

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
        """`UserError` where a class has no sample to learn it from."""
        if self.classes is None and self.held_out_classes is None:
            return
        if self.classes is None or self.held_out_classes is None:
            raise UserError(
                "dataset: one of classes and held_out_classes is missing. "
                "Give the samples of both splits classes, or none."
            )
        for split, samples, classes in (
            ("training", self.train, self.classes),
            ("held-out", self.held_out, self.held_out_classes),
        ):
            if len(classes) != len(samples):
                raise UserError(
                    f"dataset: {len(classes)} classes are given for {len(samples)} {split} samples. "
                    "Give each sample one."
                )
        known = torch.cat([self.classes, self.held_out_classes, torch.tensor([len(self.class_names) - 1]).clamp(min=0)])
        lowest, highest = int(known.min()), int(known.max())
        if lowest < 0 or (self.class_names and highest >= len(self.class_names)):
            allowed = f"from 0 to {len(self.class_names) - 1}" if self.class_names else "from 0 on"
            raise UserError(
                f"dataset: the classes are numbers from {lowest} to {highest}, not {allowed}. Number them so."
            )
        counts = torch.bincount(self.classes, minlength=highest + 1)
        if len(missing := (counts == 0).nonzero().flatten()):
            first = int(missing[0])
            name = self.class_names[first] if self.class_names else first
            raise UserError(
                f"dataset: the class '{name}' has no training sample. "
                "Give it some, take more samples, or leave the class out."
            )

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded sample."""
        return self.known_shape or tuple(self.encode(self.train[torch.arange(1)]).shape[1:])

    @property
    def num_classes(self) -> int:
        """0 where there are no classes."""
        return 0 if self.classes is None else int(self.classes.max()) + 1

    @functools.cached_property
    def fingerprint(self) -> dict[str, str | int]:
        """Sizes of the two splits and 12 hex digits over the content of both, and over their classes."""
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
        """Encoded training samples: all where they lie in memory, else so many, evenly spaced."""
        if isinstance(self.train, Tensor):
            return self.encode(self.train)
        return self.encode(self.train[spaced(number, len(self.train))])


class Dataset(Component, family="dataset"):
    """A data set by name."""

    def held_bytes(self) -> int:
        """What its samples take in memory at least while they are made; 0 where files alone say it."""
        return 0

    @abstractmethod
    def load(self) -> Data:
        """Its samples; `UserError` when a file is missing or damaged."""


@functools.lru_cache(maxsize=4)
def load(dataset: Dataset) -> Data:
    """The data of a configuration, read once a process; `ConfigError` where they cannot fit into memory."""
    samples = Need(largest_path(dataset, "dataset"), "its samples", dataset.held_bytes())
    require([samples], f"the data set {dataset.name}")
    return tried(dataset, "load", due=Instance((Data,), "a Data"))


def data_folder() -> Path:
    """Where relative paths of data begin: HARNESS_DATA, or data/ below the working directory."""
    return Path(os.environ.get("HARNESS_DATA") or "data")


def existing(path: str, what: str) -> Path:
    """`path`, from `data_folder` where it is relative; `ConfigError` when no file or folder is there."""
    found = data_folder() / path
    if not path or not found.exists():
        reason = f"{found} does not exist. Give {what}; relative paths begin in HARNESS_DATA, or else in data/."
        raise ConfigError("dataset.path", reason)
    if not found.is_dir() and (kind := no_file(found)):  # reading it may never end
        raise ConfigError("dataset.path", f"{found} is {kind}. Give {what}.")
    return found


def spaced(number: int, total: int) -> Tensor:
    """Indices of `number` of `total` samples, or of all: from the first to the last, evenly spaced, int64.

    Exact below 2^63.
    """
    number = min(number, total)
    return torch.arange(number) * (total - 1) // max(1, number - 1)


def held_out(number: int, every: int, strata: Tensor | None = None) -> Tensor:
    """Which of `number` samples are held out, bool [number]: one in `every`, drawn by a fixed seed.

    `strata` int64 [number], classes perhaps, are each held out in the same share, to within one sample; the only sample
    of one is left to train on. `UserError` where nothing can be held out, or nothing is left.
    """
    order = torch.randperm(number, generator=stream(0, "held out"))
    if strata is not None:
        order = order[strata[order].argsort(stable=True)]
    mask = torch.zeros(number, dtype=torch.bool)
    mask[order[every - 1 :: every]] = True
    if strata is not None:
        mask &= torch.bincount(strata)[strata] > 1
    if not mask.any() or mask.all():
        raise UserError(
            f"dataset: {number} samples cannot be split into training and one in {every} held out. Give more."
        )
    return mask


def parted(classes: Tensor | None, apart: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The classes [N] of the training and of the held-out samples, where `apart` [N] says which are held out."""
    return (None, None) if classes is None else (classes[~apart], classes[apart])


class Standardise:
    """(x - mean) / std per feature, with the statistics of training samples; and back."""

    def __init__(self, mean: Tensor, std: Tensor):
        self.statistics = {"mean": mean.float(), "std": std.float()}
        self.mean, self.std = mean.double(), std.double()

    def encode(self, x: Tensor) -> Tensor:
        """Stored [B, ..., D] to float32."""
        mean, std = self._on(x.device)
        return ((x.double() - mean) / std).float()

    def decode(self, x: Tensor) -> Tensor:
        """The inverse, in float32."""
        mean, std = self._on(x.device)
        return (x.double() * std + mean).float()

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The statistics, which stay where they were asked for last: a copy in every step would make a GPU wait."""
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self.mean, self.std
