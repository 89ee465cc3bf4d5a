"""The index of runs: what was taken from their files, kept until one of the files changes, as Git's index does.

A report reads three files of each run. results/local/index/<training digest>.json keeps what it took, so that the next
command looks only at their inodes, times and sizes. No result depends on the index: without it every file is read, and
an entry counts only for the files and the code that it was made from.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

import harness
from harness.core.files import complete_lines, runs_folder, short_hash, signature, write_atomic
from harness.core.reading import LARGEST, Damaged, bytes_of, say_once
from harness.runs.numbers import Judged, Trained

if TYPE_CHECKING:
    from harness.evaluation.protocol import Protocol
    from harness.runs.folder import Run

RECENT_S = 2.0
"""Seconds after a write in which an entry is not stored: where times are coarse, a later write may look the same."""
T = TypeVar("T", Judged, Trained)


class Entry(NamedTuple, Generic[T]):
    """Numbers, and the signatures of the files that they were taken from."""

    marks: list[int | None]
    numbers: T


class Content(NamedTuple):
    """The content of an index file."""

    code: str
    """Digest of the package's sources."""
    judged: dict[str, Entry[Judged]]
    """{run, protocol and settings: entry of an evaluation}"""
    trained: dict[str, Entry[Trained]]
    """{run: entry of its training}"""


class Index:
    """The entries of one file."""

    def __init__(self, place: Path):
        self.place = place
        self.content = _read(place)
        self.recent = set[str]()
        """Keys of entries that are not stored."""
        self.changed = False

    def judged(self, run: Run, protocol: Protocol) -> Judged:
        """Return the numbers of a run under a protocol."""
        config = run.config.evaluate
        key = f"{run.name} {protocol.digest} {config.digest}"
        paths = (f"{run.folder}/evaluations/{protocol.digest}.json",)

        def read() -> tuple[Judged, bool]:
            numbers = Judged.of(config, run.evaluation(protocol))
            return numbers, numbers.whole

        return self._numbers(self.content.judged, key, paths, read)

    def trained(self, run: Run) -> Trained:
        """Return the numbers of a run's training. Every command that reads a damaged line reports it."""
        paths = (f"{run.folder}/metrics.jsonl", f"{run.folder}/environment.json")

        def read() -> tuple[Trained, bool]:
            lines = run.metrics()
            intact = len(lines) == sum(map(bool, complete_lines(Path(paths[0])).split(b"\n")))
            numbers = Trained.of(run.config, lines, run.environment)
            return numbers, intact and not math.isnan(numbers.seconds)

        return self._numbers(self.content.trained, run.name, paths, read)

    def _numbers(
        self, known: dict[str, Entry[T]], key: str, paths: Sequence[str], read: Callable[[], tuple[T, bool]]
    ) -> T:
        """Return an entry's numbers, or those that `read` returns, which also says whether to keep them."""
        marks = [signature(path) for path in paths]
        kept = known.get(key)
        if kept and kept.marks == marks and (key not in self.recent or _just_written(paths)):
            return kept.numbers
        mark_recent = self.recent.add if _just_written(paths) else self.recent.discard
        numbers, keep = read()
        if keep:
            known[key] = Entry(marks, numbers)
            mark_recent(key)
            self.changed = True
        return numbers

    def store(self) -> None:
        """Write the new entries. Where two commands write at once, the entries of the last one stay."""
        if self.changed:
            judged, trained = (self._lasting(known) for known in (self.content.judged, self.content.trained))
            write_atomic(self.place, json.dumps([self.content.code, judged, trained], default=list))
            self.changed = False

    def _lasting(self, known: Mapping[str, Entry[T]]) -> dict[str, Entry[T]]:
        """Return the entries to store: not those of files written just before they were read, nor of removed runs."""
        there = {path.name for path in runs_folder().glob(f"{self.place.stem}-s*")}
        now = dict(known)  # the thread that follows the runs may add an entry
        return {key: own for key, own in now.items() if key not in self.recent and key.split()[0] in there}


def _just_written(paths: Iterable[str]) -> bool:
    written = max((os.stat(path).st_mtime for path in paths if os.path.exists(path)), default=0.0)
    return time.time() - written < RECENT_S


_OPEN: dict[Path, Index] = {}
"""The indexes that this process has read."""


@functools.cache
def index_of(run: Path) -> Index:
    """Return the index for a run directory, which may be anywhere."""
    place = _folder() / f"{run.name.partition('-')[0]}.json"
    if place not in _OPEN:
        _OPEN[place] = Index(place)
    return _OPEN[place]


def store() -> None:
    """Write the new entries. An index that cannot be written costs time, and no command."""
    for place, index in _OPEN.items():
        if place.parent == _folder():
            try:
                index.store()
            except OSError as error:
                say_once(f"{place}: cannot be written ({error.strerror}). Reports read the runs' files again.")


def _folder() -> Path:
    return runs_folder().with_name("index")


def _read(place: Path) -> Content:
    """Return an index file's content, without entries if it is missing, damaged or of other code."""
    code = _code()
    try:
        content = _adapter().validate_json(bytes_of(place, LARGEST))
    except (OSError, Damaged, ValidationError):
        return Content(code, {}, {})
    return content if content.code == code else Content(code, {}, {})


@functools.cache
def _adapter() -> TypeAdapter[Content]:
    return TypeAdapter(Content)


@functools.cache
def _code() -> str:
    sources = sorted(Path(harness.__file__).parent.rglob("*.py"))
    return short_hash(b"".join(path.read_bytes() for path in sources))
