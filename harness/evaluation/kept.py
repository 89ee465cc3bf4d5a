"""What an evaluation keeps of samples until they are scored, on disk too, so that one cut short continues."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from torch import Tensor

from harness.core.checkpoint import checkpoints, read_intact, step_of, write_checkpoint

KEEP_EVERY_S = 60.0
"""How often what was extracted so far is written to disk."""
Rows = dict[str, Tensor]
"""What is kept of samples, row by row: features (or values), logits, classes, calls, and the first samples."""


class KeptRows:
    """Rows of batches, put on disk from time to time so that an extraction that was cut short continues."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.batches = 0
        self._kept: list[Rows] = []
        self._new: list[Rows] = []
        self._written = time.monotonic()
        for path in reversed(checkpoints(folder)) if folder else ():
            rows = read_intact(path, "cpu")
            if rows is None or not _continues(rows, self.batches):  # damaged, or what came before it is
                path.unlink()
                continue
            self._kept.append(rows)
            self.batches = step_of(path)

    def add(self, rows: Rows) -> None:
        """The next batch."""
        self._new.append({**rows, "batch": torch.full((len(rows["read"]),), self.batches)})
        self.batches += 1
        if time.monotonic() - self._written > KEEP_EVERY_S:
            self.write()

    def write(self) -> None:
        """Put on disk what is not there yet."""
        if self._new and self.folder:
            rows = _joined(self._new)
            write_checkpoint(self.folder, self.batches, rows)
            self._kept.append(rows)
            self._new = []
        self._written = time.monotonic()

    def all(self) -> Rows:
        """Of all batches, in order."""
        return _joined([*self._kept, *self._new])

    def clear(self) -> None:
        """Forget them, on disk too."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def first_of(rows: Rows, number: int) -> Rows:
    """The rows of the first samples alone."""
    return {name: values[:number] for name, values in rows.items()}


def _continues(rows: Rows, batches: int) -> bool:
    """Whether the rows on disk are those that follow so many batches."""
    numbers = {values.shape[:1] for name, values in rows.items() if name != "shown"}
    first = rows.get("batch", torch.empty(0)).flatten()[:1].tolist()
    return "read" in rows and len(numbers) == 1 and first == [batches]


def _joined(pieces: list[Rows]) -> Rows:
    return {
        name: torch.cat([rows[name] for rows in pieces if name in rows])
        for name in dict.fromkeys(n for rows in pieces for n in rows)
    }
