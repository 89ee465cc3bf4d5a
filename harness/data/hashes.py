"""SHA-256 of the files of an archive, computed once and stored in results/local/hashes until a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.core.files import results_folder, short_hash, write_atomic
from harness.core.progress import shown
from harness.core.reading import bytes_of, parse

if TYPE_CHECKING:
    from harness.data.archive import Archive

KEPT = 64
"""Number of archives whose hashes are stored; the oldest are deleted."""
SETTLED_NS = 2_000_000_000
"""A hash is stored only if the file last changed this long before: a later change could have the same time stamp."""
WRITE_EVERY_S = 30.0
AT_ONCE = 64
"""Number of files that are queued for the reading threads."""
SHOWN_BYTES = 1 << 28
"""Total size in bytes from which progress is shown."""


class Stamp(NamedTuple):
    """Identifies a version of a file without reading it."""

    mark: str
    """For a file: size, times of change and inode. For a member of a zip: size and CRC."""
    changed: int
    """Time of the last change, in nanoseconds since 1970; 0 for a member of a zip, whose CRC covers its content."""


def digests(archive: Archive, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of each file, 64 hex digits; `UserError` names a file that cannot be read."""
    path = _path(archive)
    marks = {name: file.stamp.mark for name, file in archive.files.items()}
    known = {name: digest for name, (mark, digest) in _read(path).items() if marks.get(name) == mark}
    if missing := [name for name in names if name not in known]:
        wall = time.time_ns()
        written = time.monotonic()
        for name, digest in _hashed(archive, missing):
            known[name] = digest
            if time.monotonic() - written > WRITE_EVERY_S:
                _write(path, archive, known, wall)
                written = time.monotonic()
        _write(path, archive, known, wall)
    return [known[name] for name in names]


def _hashed(archive: Archive, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return (name, hash) of each file, several read at once; show the progress if they are large."""
    from harness.data.archive import UNREADABLE, corrupt

    def hashed(name: str) -> str:
        try:
            with archive.open(name) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except UNREADABLE as error:
            raise corrupt(archive.where(name), error) from error

    def all_hashed() -> Iterator[tuple[str, str]]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(names), AT_ONCE):
                chunk = names[start : start + AT_ONCE]
                yield from zip(chunk, pool.map(hashed, chunk), strict=True)

    sizes = {name: archive.files[name].size for name in names}
    if (total := sum(sizes.values())) < SHOWN_BYTES:
        return all_hashed()
    return shown(all_hashed(), f"reading {archive.path}, once", total, weigh=lambda pair: sizes[pair[0]])


def _path(archive: Archive) -> Path:
    """Return the path of an archive's stored hashes."""
    said = f"{archive.path.absolute()} {archive.endings}"
    name = short_hash(said.encode(errors="surrogateescape"))
    return results_folder() / "local" / "hashes" / f"{name}.json"


def _read(path: Path) -> dict[str, list[str]]:
    """Return {name: [mark, digest]} without damaged entries; empty if the file is absent or damaged."""
    try:
        found = parse(bytes_of(path))["files"]
        return {name: [mark, digest] for name, (mark, digest) in found.items() if re.fullmatch("[0-9a-f]{64}", digest)}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return {}


def _write(path: Path, archive: Archive, known: Mapping[str, str], read_at: int) -> None:
    """Store the hashes of files that were unchanged for `SETTLED_NS` before `read_at`; ignore errors of the disk."""
    stamps = {name: archive.files[name].stamp for name in known}
    until = read_at - SETTLED_NS
    settled = {name: [stamp.mark, known[name]] for name, stamp in stamps.items() if stamp.changed < until}
    with contextlib.suppress(OSError):
        write_atomic(path, json.dumps({"path": str(archive.path.absolute()), "files": settled}))
        kept = sorted(path.parent.glob("*.json"), key=lambda other: other.stat().st_mtime_ns)
        for old in kept[:-KEPT]:
            old.unlink(missing_ok=True)
