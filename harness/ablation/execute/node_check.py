"""One of two jobs on two nodes that check together whether the nodes can share a results folder.

    python -m harness.ablation.execute.node_check FOLDER/check.json NUMBER

The jobs 0 and 1 meet in the folder: job 0 holds a file lock while job 1 tries it, then job 0 replaces a file and job 1
waits until it reads the new content. Each writes what it found to FOLDER/NUMBER.json.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from harness.core.errors import UserError, guarded, leave
from harness.core.fence import node_name
from harness.core.files import locked, read_json, write_atomic, write_json
from harness.core.provenance import commit, machine
from harness.core.signals import StopSignal

PATIENCE_S = 900.0
"""Seconds that a job waits for the other."""
SEEN_S = 60.0
"""Seconds within which a replaced file must be seen."""


class Found(TypedDict):
    """What a job found."""

    host: str
    commit: str
    packages: dict[str, str]
    hardware: str
    skew: float
    """Seconds by which the clock of the file system is ahead of the node's."""
    excluded: bool | None
    """Whether the other job's lock was noticed; None for the job that held it."""
    seen_after: float | None
    """Seconds until the replaced file was seen; None if it was not, and for the job that replaced it."""
    linked: bool
    """Whether a file is created by a hard link, and by one job only."""


def check(folder: Path, number: int) -> Found:
    """Do one job's part; `UserError` if the other job does not come."""
    facts = machine()
    excluded, seen = _hold(folder) if number == 0 else _try(folder)
    return {
        "host": node_name(),
        "commit": commit(),
        "packages": {found.name.lower(): found.version for found in importlib.metadata.distributions()},
        "hardware": str(facts["accelerator"] if facts["accelerator"] != "none" else facts["processor"]),
        "skew": _skew(folder / f"clock-{number}"),
        "excluded": excluded,
        "seen_after": seen,
        "linked": _links(folder, number),
    }


def _hold(folder: Path) -> tuple[None, None]:
    """Hold the lock while the other job tries it, then replace the file that it reads."""
    write_atomic(folder / "content", "old")
    with locked(folder / "lock"):
        _mark(folder / "held")
        _wait(folder / "tried")
    write_atomic(folder / "content", "new")
    _mark(folder / "replaced")
    return None, None


def _try(folder: Path) -> tuple[bool, float | None]:
    """Try the lock that the other job holds, then wait for the new content; return what was noticed."""
    _wait(folder / "held")
    (folder / "content").read_bytes()  # a client that keeps old content has it now
    with locked(folder / "lock", wait=False) as taken:
        _mark(folder / "tried")
    _wait(folder / "replaced")
    began = time.monotonic()
    while (folder / "content").read_text() != "new":
        if time.monotonic() - began > SEEN_S:
            return not taken, None
        time.sleep(0.05)
    return not taken, time.monotonic() - began


def _skew(path: Path) -> float:
    path.write_bytes(b"")
    return path.stat().st_mtime - time.time()


def _links(folder: Path, number: int) -> bool:
    own = folder / f"link-{number}"
    own.write_bytes(b"")
    with contextlib.suppress(OSError):  # the other job was first, or the file system has no hard links
        os.link(own, folder / "link")
    return (folder / "link").exists()


def _mark(path: Path) -> None:
    path.write_bytes(b"")


def _wait(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(f"{path.parent}: the other job did not come in {PATIENCE_S:.0f} s. Try again.")
        time.sleep(0.05)


def main(words: list[str]) -> None:
    """Do one job's part, unless it is done."""
    StopSignal()
    folder = Path(words[0]).parent
    place = folder / f"{words[1]}.json"
    if not place.exists():
        write_json(place, check(folder, int(words[1])))


def found(folder: Path, number: int) -> Any:
    """Return what a job found; None before it has ended."""
    place = folder / f"{number}.json"
    return read_json(place, Found) if place.exists() else None


if __name__ == "__main__":
    leave(guarded(lambda: main(sys.argv[1:])))
