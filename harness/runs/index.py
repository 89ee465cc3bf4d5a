"""The index of runs: what was taken from their files, kept until one of the files changes, as Git's index does.

A report reads three files of each run. results/local/index/<training digest>.json keeps what it took, so that the next
command looks only at their inodes, times and sizes. The index is no truth: without it every file is read again, and an
entry counts only for the files and the code that it was made from.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.core.files import complete_lines, runs_folder, short_hash, signature, write_atomic
from harness.core.reading import LARGEST, Damaged, bytes_of, say_once
from harness.runs.numbers import Judged, Trained

if TYPE_CHECKING:
    from harness.evaluation.protocol import Protocol
    from harness.runs.folder import Run

MAKERS = (
    "harness.evaluation.protocol", "harness.runs.contents", "harness.runs.lacking", "harness.runs.numbers",
    "harness.training.diagnostics",
)  # fmt: skip
"""Modules that decide which numbers are taken from files."""
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
    """Digest of `MAKERS`."""
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
        return self._numbers(self.content.judged, key, paths, lambda: Judged.of(config, run.evaluation(protocol)))

    def trained(self, run: Run) -> Trained:
        """Return the numbers of a run's training."""
        paths = (f"{run.folder}/metrics.jsonl", f"{run.folder}/environment.json")

        def read() -> Trained:
            lines = run.metrics()
            damaged = complete_lines(Path(paths[0])).count(b"\n") > len(lines)
            return Trained.of(run.config, lines, run.environment, damaged)

        return self._numbers(self.content.trained, run.name, paths, read)

    def _numbers(self, known: dict[str, Entry[T]], key: str, paths: Sequence[str], read: Callable[[], T]) -> T:
        marks = [signature(path) for path in paths]
        if (kept := known.get(key)) and kept.marks == marks:
            return kept.numbers
        written = max((os.stat(path).st_mtime for path in paths if os.path.exists(path)), default=0.0)
        mark_recent = self.recent.add if time.time() - written < RECENT_S else self.recent.discard
        numbers = read()
        if numbers.whole:
            known[key] = Entry(marks, numbers)
            mark_recent(key)
            self.changed = True
        return numbers

    def store(self) -> None:
        """Write the new entries. Where two commands write at once, the entries of the last one stay."""
        if self.changed:
            kinds = (self.content.judged, self.content.trained)
            kept = [{key: entry for key, entry in known.items() if key not in self.recent} for known in kinds]
            write_atomic(self.place, json.dumps([self.content.code, *kept], default=list))
            self.changed = False


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
    sources = (Path(str(sys.modules[name].__file__)).read_bytes() for name in MAKERS)
    return short_hash(b"".join(sources))
