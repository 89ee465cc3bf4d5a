"""Rows that an evaluation extracts from samples; they are also on disk, so an interrupted evaluation can continue."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from torch import Tensor

from harness.core.checkpoint import checkpoints, read_intact, step_of, write_checkpoint
from harness.core.fence import require_held

KEEP_EVERY_S = 60.0
"""Seconds between two writes of extracted rows to disk."""
Rows = dict[str, Tensor]
"""One row per sample: features (or values), logits, classes, calls and seconds; also the first samples themselves."""


class KeptRows:
    """Rows of batches, written to `folder` at intervals so that an interrupted extraction can continue."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.batches = 0
        self._kept: list[Rows] = []
        self._new: list[Rows] = []
        self._written = time.monotonic()
        for path in reversed(checkpoints(folder)) if folder else ():
            rows = read_intact(path, "cpu")
            if rows is None or not _continues(rows, self.batches):  # this file or an earlier one is damaged
                require_held()
                path.unlink()
                continue
            self._kept.append(rows)
            self.batches = step_of(path)

    def add(self, rows: Rows) -> None:
        """Add the rows of the next batch."""
        self._new.append({**rows, "batch": torch.full((len(rows["read"]),), self.batches)})
        self.batches += 1
        if time.monotonic() - self._written > KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the rows that are not on disk yet."""
        if self._new and self.folder:
            rows = _joined(self._new)
            write_checkpoint(self.folder, self.batches, rows)
            self._kept.append(rows)
            self._new = []
        self._written = time.monotonic()

    def all(self) -> Rows:
        """Return the rows of all batches, in order."""
        return _joined([*self._kept, *self._new])

    def clear(self) -> None:
        """Delete the rows on disk."""
        if self.folder:
            require_held()
            shutil.rmtree(self.folder, ignore_errors=True)


def first_of(rows: Rows, number: int) -> Rows:
    """Return only the rows of the first `number` samples."""
    return {name: values[:number] for name, values in rows.items()}


def _continues(rows: Rows, batches: int) -> bool:
    """Whether the rows on disk are complete and continue after this number of batches."""
    numbers = {values.shape[:1] for name, values in rows.items() if name != "shown"}
    first = rows.get("batch", torch.empty(0)).flatten()[:1].tolist()
    return "read" in rows and len(numbers) == 1 and first == [batches]


def _joined(pieces: list[Rows]) -> Rows:
    return {
        name: torch.cat([rows[name] for rows in pieces if name in rows])
        for name in dict.fromkeys(n for rows in pieces for n in rows)
    }
