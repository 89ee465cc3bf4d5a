"""Pairs of noise and the sample that a flow makes from it, in arrays that grow batch by batch.

    results/local/pairs/<digest of what makes them>-s<seed>/
        x0.npy  x1.npy  y.npy  pairs.json  failed.json

x0 is encoded; y are its classes, if there are classes. The headers of the arrays give the final size from the start, so
an incomplete file cannot pass as complete. pairs.json, which records how the pairs were made, is written last.
"""

from __future__ import annotations

import hashlib
import io
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import PositiveFloat
from typing_extensions import TypedDict

from harness.core.appending import OwnFile
from harness.core.errors import NoValue, UserError
from harness.core.files import locked, read_json_if_there, remove_leftovers, write_json
from harness.core.reading import no_file
from harness.runs.contents import Note


class File(TypedDict):
    """Facts of a complete array."""

    sha256: str
    stamp: list[int]
    """Size and time of change."""


class Made(TypedDict):
    """How pairs were sampled: the solver, and other settings that this module does not read."""

    solver: Any


class About(TypedDict):
    """pairs.json."""

    teacher: str
    made: Made
    number: int
    calls: PositiveFloat
    pairs_per_second: PositiveFloat
    commit: str
    files: dict[str, File]


class Array(NamedTuple):
    """A file with one row per pair."""

    path: Path
    header: bytes
    row: int
    """Bytes."""

    def size(self, rows: int) -> int:
        """Return the bytes of the file with this number of rows."""
        return len(self.header) + rows * self.row

    @property
    def rows(self) -> int:
        """Number of complete rows after this header; `UserError` if the path is not a file."""
        if not self.path.exists():
            return 0
        if kind := no_file(self.path):
            advice = "Remove it, and the same command makes the pairs again."
            raise UserError(f"{self.path}: is {kind}, not a file. {advice}")
        with open(self.path, "rb") as file:
            whole = file.read(len(self.header)) == self.header
        return max(0, self.path.stat().st_size - len(self.header)) // self.row if whole else 0


@dataclass(frozen=True)
class PairSet:
    """The pairs of one folder."""

    folder: Path
    number: int
    shape: tuple[int, ...]
    """Shape of a sample."""
    labelled: bool
    """Whether the pairs have classes."""

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """{name: file}."""
        kinds = {"x0": ("<f4", self.shape), "x1": ("<f4", self.shape)} | ({"y": ("<i8", ())} if self.labelled else {})
        arrays = {}
        for name, (descr, shape) in kinds.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_2_0(
                header, {"descr": descr, "fortran_order": False, "shape": (self.number, *shape)}
            )
            arrays[name] = Array(
                self.folder / f"{name}.npy", header.getvalue(), np.dtype(descr).itemsize * math.prod(shape)
            )
        return arrays

    @property
    def done(self) -> int:
        """Number of pairs on disk."""
        return min(array.rows for array in self.arrays.values())

    @property
    def about(self) -> dict[str, Any]:
        """Content of pairs.json; empty until all pairs are made."""
        return read_json_if_there(self.folder / "pairs.json", About, self._again)

    @property
    def failed(self) -> NoValue | None:
        """Why the pairs cannot be made; None if they can."""
        note = read_json_if_there(self.folder / "failed.json", Note, self._again)
        return NoValue.of(note) if note else None

    @property
    def _again(self) -> str:
        """Advice for damaged files."""
        return f"Remove {self.folder}, and the same command makes its pairs again."

    def fail(self, error: NoValue) -> None:
        """Write why the pairs cannot be made; they are not tried again."""
        write_json(self.folder / "failed.json", error.told(f"{error} (Remove {self.folder} to try again.)").note)

    def lock(self) -> AbstractContextManager[bool]:
        """Return the lock of the only process that writes here."""
        return locked(self.folder / "lock")

    def require_room(self) -> None:
        """Raise `UserError` if the missing pairs, or before them the copy of an array, do not fit on the disk."""
        missing = sum(array.size(self.number) - array.size(array.rows) for array in self.arrays.values())
        if missing:
            missing = max(missing, *(array.size(array.rows) for array in self.arrays.values()))
        free = shutil.disk_usage(next(place for place in self.folder.parents if place.exists())).free
        if missing > free:
            each = sum(array.row for array in self.arrays.values())
            raise UserError(
                f"reflow.number: {self.number:,} pairs of {each:,} bytes need {missing / 1e9:.3g} GB more in "
                f"{self.folder}, where {free / 1e9:.3g} GB are free. Free disk space, or set fewer pairs."
            )

    def check(self, made: Mapping[str, Any]) -> None:
        """Raise `UserError` unless the pairs were made as in `made` and the files have not changed since.

        A file is read only if its size or time of change differs.
        """
        about = self.about
        wrong = next(
            (name for name, value in {**made, "number": self.number}.items() if about.get(name) != value), None
        )
        if wrong or about.get("files", {}).keys() != self.arrays.keys():
            edited = "somebody edited it, or copied it from other pairs"
            reason = f"its entry '{wrong or 'files'}' does not fit these pairs: {edited}"
            raise UserError(f"{self.folder / 'pairs.json'}: {reason}. {self._again}")
        for name, file in about["files"].items():
            path = self.arrays[name].path
            if not path.exists() or (_stamp(path) != file["stamp"] and _hash(path) != file["sha256"]):
                state = "was edited or cut short since it was made" if path.exists() else "is gone"
                raise UserError(f"{path}: {state}. {self._again}")

    def writer(self, batch_size: int) -> Writer:
        """Return a writer that continues after the complete batches on disk.

        If all pairs are on disk, the last batch is made again: `finish` needs at least one new batch.
        """
        return Writer(self, min(self.done, self.number - 1) // batch_size * batch_size)


class Writer(ExitStack):
    """Append batches to copies of the files of a set of pairs, which take the place of the files."""

    def __init__(self, pairs: PairSet, done: int):
        super().__init__()
        self.pairs = pairs
        self.done = done
        self.hashes = {name: hashlib.sha256() for name in pairs.arrays}
        self.files: dict[str, OwnFile] = {}

    def __enter__(self) -> Self:
        remove_leftovers(self.pairs.folder)
        for name, array in self.pairs.arrays.items():
            self.files[name] = self.enter_context(OwnFile(array.path, self._begun(name, array)))
        return self

    def _begun(self, name: str, array: Array) -> Iterator[bytes]:
        """Yield the header and the rows to keep, and hash them."""
        left = array.size(self.done)
        with open(array.path, "rb") if array.rows else io.BytesIO(array.header) as file:
            while part := file.read(min(left, 1 << 24)):
                self.hashes[name].update(part)
                left -= len(part)
                yield part

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append a batch, {name of the array: rows}."""
        for name, file in self.files.items():
            content = np.ascontiguousarray(batch[name]).data
            file.append(content)
            self.hashes[name].update(content)
        self.done += len(next(iter(batch.values())))

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write pairs.json after the last batch; `about` says how the pairs were made."""
        files = {}
        for name, file in self.files.items():
            file.sync()
            files[name] = {"sha256": self.hashes[name].hexdigest(), "stamp": _stamp(file.path)}
        write_json(self.pairs.folder / "pairs.json", {**about, "number": self.pairs.number, "files": files})


def _stamp(path: Path) -> list[int]:
    """Return size and time of change; an edit changes at least one of them."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
