"""What every data set is: a configuration that loads tensors and knows how to turn them into what a network sees."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from harness.errors import UserError
from harness.registry import Component


@dataclass(frozen=True)
class Data:
    """A loaded data set: samples as stored, and the maps to and from the values that a network is trained on."""

    train: Tensor
    """Samples that are trained on and compared with, [N, ...]."""
    held_out: Tensor
    """Samples never trained on, [M, ...]."""
    encode: Callable[[Tensor], Tensor]
    """Stored samples [B, ...] to float32 [B, ...] around [-1, 1]."""
    decode: Callable[[Tensor], Tensor]
    """The inverse of `encode`; values outside its range are clipped."""
    classes: Tensor | None = None
    """The class of each sample of `train`, int64 [N]."""

    def __post_init__(self) -> None:
        for part, samples in (("training", self.train), ("held-out", self.held_out)):
            if samples.is_floating_point() and (wrong := int((~samples.isfinite()).sum())):
                raise UserError(f"dataset: {wrong} of the {samples.numel()} {part} values are NaN or infinite. Remove or replace them.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.shape[1:])

    @functools.cached_property
    def fingerprint(self) -> dict[str, str | int]:
        """Sizes of the two parts and 12 hex digits over the content of both, and over the classes."""
        content = hashlib.sha256()
        for part in (self.train, self.held_out, *([] if self.classes is None else [self.classes])):
            content.update(f"{part.dtype} {tuple(part.shape)};".encode())
            content.update(part.contiguous().numpy().data)
        return {"train": len(self.train), "held_out": len(self.held_out), "sha256": content.hexdigest()[:12]}


class Dataset(Component, family="dataset"):
    """A data set by name."""

    def load(self) -> Data:
        """The tensors, on the CPU; `UserError` when a file is missing or damaged."""
        raise NotImplementedError


@functools.lru_cache(maxsize=2)
def load(dataset: Dataset) -> Data:
    """The data of a configuration, read once a process."""
    return dataset.load()
