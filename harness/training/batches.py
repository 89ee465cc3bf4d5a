"""The samples of each step, and their way to the device."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.core.errors import UserError
from harness.core.rng import stream
from harness.data.base import Data, Samples


class StoredBatch(NamedTuple):
    """The data of a step, on the device."""

    samples: Tensor
    """As they are stored, [B, ...]."""
    classes: Tensor | None
    """[B]; None if there are none."""


RESIDENT_BYTES = 4 << 30
"""Data up to this many bytes stay on the device as a whole; larger data are fetched batch by batch."""


class DataOrder:
    """The permutations of all epochs, one after another, cut into batches; kept on the device, so no step waits."""

    def __init__(self, size: int, batch_size: int, seed: int, device: str = "cpu"):
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.long)

    def indices(self, step: int) -> Tensor:
        """Return the indices [batch_size] of the samples of a step."""
        return torch.cat(list(self._pieces(step * self.batch_size, self.batch_size)))

    def _pieces(self, start: int, count: int) -> Iterator[Tensor]:
        while count:
            epoch, offset = divmod(start, self.size)
            if epoch != self._epoch:
                self._epoch = epoch
                drawn = torch.randperm(self.size, generator=stream(self.seed, "order", epoch))
                self._permutation = drawn.to(self.device, non_blocking=True)
            piece = self._permutation[offset : offset + count]
            yield piece
            start += len(piece)
            count -= len(piece)


def batches(
    data: Data, batch_size: int, seed: int, start: int, end: int, device: str
) -> Generator[StoredBatch, None, None]:
    """Yield the batches of steps `start` to `end` - 1; they depend neither on `start` nor on the way of fetching."""
    classes = None if data.classes is None else data.classes.to(device)
    if isinstance(data.train, Tensor) and data.train.nbytes <= RESIDENT_BYTES:
        train = data.train.to(device)
        order = DataOrder(len(data.train), batch_size, seed, device)
        for step in range(start, end):
            rows = order.indices(step)
            yield StoredBatch(train[rows], None if classes is None else classes[rows])
        return
    workers = 0 if isinstance(data.train, Tensor) else data.train.workers
    fetch = _Fetch(data.train, DataOrder(len(data.train), batch_size, seed))
    fetched: DataLoader = DataLoader(
        fetch, sampler=range(start, end), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None,
        pin_memory=device == "cuda", multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # otherwise the loader would draw from the stream of dropout
    )  # fmt: skip
    for rows, samples, error in fetched:
        if error:
            raise UserError(error)
        yield StoredBatch(
            samples.to(device, non_blocking=True),
            None if classes is None else classes[rows.to(device, non_blocking=True)],
        )


def of_every_class(classes: Tensor, number: int) -> Tensor:
    """Return the indices [number] of `number` samples, given all classes [N]; the same indices every time.

    Each class occurs at least once if `number` allows it, and in about its share among all samples.
    """
    drawn = torch.randperm(len(classes), generator=stream(0, "of every class"))
    by_class = classes[drawn].argsort(stable=True)
    counts = torch.bincount(classes)
    label = classes[drawn][by_class]
    place = torch.empty(len(classes), dtype=torch.float64)
    place[by_class] = (torch.arange(len(classes)) - (counts.cumsum(0) - counts)[label]) / counts[label].double()
    return drawn[place.argsort(stable=True)[:number]]


class _Fetch(Dataset):
    """Batches by step. It returns a user's mistake as text, because an exception would carry the worker's traceback."""

    def __init__(self, samples: Tensor | Samples, order: DataOrder):
        self.samples = samples
        self.order = order

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, str]:
        rows = self.order.indices(step)
        try:
            return rows, self.samples[rows], ""
        except UserError as error:
            return rows, torch.empty(0), str(error)
