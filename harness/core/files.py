"""Files that survive a kill at any moment, locks, and the folders of results."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import Stopped, UserError
from harness.core.fence import fenced, require_held
from harness.core.reading import LARGEST, Damaged, bytes_of, parse, require_file, say_once, shaped, shaped_at_once
from harness.core.signals import asked_to_stop

if TYPE_CHECKING:
    import numpy as np

LOST_LINES = "Remove it: the same command continues without its content."
"""Advice for a file of lines that cannot be read."""


PART = ".part"
"""End of the names of temporary files."""
LEFT_S = 600.0
"""Seconds after which a temporary file is no longer being written."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system without file locks."""
MOMENT_S = 1.0
"""Seconds within which a process releases a lock that it holds to write one line."""


def results_folder() -> Path:
    """Return HARNESS_RESULTS, or results/ in the working directory. A user's runs, tables, figures are in local/."""
    return _absolute(os.environ.get("HARNESS_RESULTS") or "results", os.getcwd())


def runs_folder() -> Path:
    """Return the folder that contains the run directories."""
    return _absolute(os.environ.get("HARNESS_RESULTS") or "results", os.getcwd(), "local/runs")


@functools.cache
def _absolute(path: str, working: str, below: str = "") -> Path:
    """Return `path`, seen from the folder `working`, and what is `below` it: it is asked for once a run."""
    return Path(working, path, below)


@contextlib.contextmanager
def placed(path: Path) -> Iterator[None]:
    """Add `path` to any `OSError` raised in this context: the error of a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step: a reader sees the old content or the new, never a part."""
    replaced(path, [content if isinstance(content, bytes) else content.encode(errors="backslashreplace")]).close()


def replaced(path: Path, pieces: Iterable[bytes]) -> io.FileIO:
    """Replace `path` as `write_atomic` does, by a file with these pieces; return it, open for more at its end.

    `Superseded`, and `path` stays, if a newer attempt has claimed the trial.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with placed(path), contextlib.ExitStack() as undo:
        file = undo.enter_context(open(temporary, "wb", buffering=0))
        undo.callback(temporary.unlink, missing_ok=True)
        for piece in pieces:
            write_all(file, piece)
        os.fsync(file.fileno())
        require_held()
        temporary.replace(path)
        undo.pop_all()
        return file


def write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write the whole content: one call of the system may write only a part."""
    left = memoryview(content).cast("B")
    while left:
        left = left[file.write(left) :]


def _temporary(path: Path) -> Path:
    """Return a name beside a file that no other process takes, on any host."""
    return path.with_name(f".{path.name}.{os.uname().nodename[:16]}-{os.urandom(4).hex()}{PART}")


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files below `folder` that a killed `write_atomic` left behind: those older than `LEFT_S`.

    Other processes, also of other hosts, may be writing now. The clock is that of the file system.
    """
    found = [path for path in folder.rglob(f".*{PART}") if path.is_file()]
    if not found:
        return
    fresh = _temporary(folder / "clock")
    fresh.touch()
    now = fresh.stat().st_mtime
    fresh.unlink()
    for path in found:
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > LEFT_S:
                require_held()
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, shape: Any = Any, remedy: str = "Remove it and run the same command again.") -> Any:
    """Return the content of a JSON file. `UserError`, with `remedy`, if it is damaged or has another shape."""
    try:
        return shaped(parse(bytes_of(path, LARGEST)), shape)
    except PermissionError:
        raise
    except (Damaged, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}). {remedy}") from error


def read_json_if_there(
    path: Path | str, shape: Any = dict[str, Any], remedy: str = "Remove it and run the same command again."
) -> Any:
    """Like `read_json`, but return an empty mapping if there is no file. To look for a `str` takes less time."""
    return read_json(Path(path), shape, remedy) if os.path.exists(path) else {}


def signature(path: Path | str) -> int | None:
    """Return a number that changes when a file is written, over its inode, time and size; None if there is no file."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return hash((found.st_ino, found.st_mtime_ns, found.st_size))


def short_hash(content: bytes | io.BufferedReader) -> str:
    """Return 12 hex digits of the SHA-256 of bytes, or of an open file, which is read in pieces."""
    whole = hashlib.sha256(content) if isinstance(content, bytes) else hashlib.file_digest(content, "sha256")
    return whole.hexdigest()[:12]


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of an uncompressed .npz file with `arrays`."""
    import numpy as np

    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def drop_torn_line(path: Path) -> None:
    """Cut off an unfinished last line, which a kill or a full disk leaves behind."""
    if not path.exists():
        return
    require_log(path)
    if path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def complete_lines(path: Path) -> bytes:
    """Return the content of a file of lines, without an unfinished last line; empty if there is no file."""
    if not path.exists():
        return b""
    require_log(path)
    head, end, _ = path.read_bytes().rpartition(b"\n")
    return head + end


def read_lines(path: Path, shape: Any = dict[str, Any], start: int = 0) -> list[Any]:
    """Return the complete lines of a JSON-lines file, without the first `start`; empty if there is no file.

    A damaged line is reported once and left out.
    """
    lines = complete_lines(path).split(b"\n")[start:]
    values = shaped_at_once([*filter(None, lines)], shape)
    return [*_intact(path, shape, enumerate(lines, start + 1))] if values is None else values


def last_lines(path: Path, number: int, shape: Any = dict[str, Any]) -> list[Any]:
    """Return the intact ones of the last `number` lines of a JSON-lines file, read from the file's end.

    Lines must be shorter than 4 KiB. Empty if there is no file.
    """
    if not path.exists():
        return []
    require_log(path)
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096 * (number + 1)))
        lines = file.read().rpartition(b"\n")[0].split(b"\n")[-number:]
    found = []
    for line in filter(None, lines):
        with contextlib.suppress(Damaged):
            found.append(shaped(parse(line, finite=False), shape))
    return found


def last_line(path: Path, shape: Any = dict[str, Any]) -> Any | None:
    """Return the last intact line of a JSON-lines file, read from the file's end; None if there is none."""
    return next(reversed(last_lines(path, 1, shape) or read_lines(path, shape)), None)


def require_log(path: Path) -> None:
    """Raise `UserError` if `path` is not a regular file."""
    try:
        require_file(path)
    except Damaged as error:
        raise UserError(f"{path}: cannot be read ({error}). {LOST_LINES}") from None


def _intact(path: Path, shape: Any, lines: Iterable[tuple[int, bytes]]) -> Iterator[Any]:
    """Yield the values of numbered lines; report damaged lines and leave them out."""
    for number, line in lines:
        try:
            if line:
                yield shaped(parse(line, finite=False), shape)
        except Damaged as error:
            say_once(f"{path}: line {number} is damaged ({error}) and was passed over. Remove it to stop this message.")


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; yield False if another process holds it and `wait` is off.

    The lock is the kernel's (flock): it is released when its holder dies, however it dies. `Stopped` if the process is
    asked to stop during the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        yield _taken(file) or (wait and _waited(file, path))


def _taken(file: io.BufferedWriter) -> bool:
    """Try to take the lock; return whether this process holds it now.

    Where the file system has no locks, a process behind a fence goes on as if it held the lock; others may not.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not fenced():
            raise UserError(
                f"{file.name}: its file system has no file locks ({error.strerror}), without which two processes "
                "could write to one run. Set HARNESS_RESULTS to a folder on another file system."
            ) from None
    return True


def _waited(file: io.BufferedWriter, path: Path) -> bool:
    """Wait for the lock and return True. A wait longer than `MOMENT_S` is reported; a request to stop ends it."""
    pause = 0.001
    told = False
    began = time.monotonic()
    while not _taken(file):
        if time.monotonic() - began > MOMENT_S:
            if asked_to_stop():
                raise Stopped(f"stopped while it waited for {path}")
            if not told:
                print(f"waiting for {path}, which {_holder(file)} holds. Ctrl-C ends the wait.", file=sys.stderr)
                told = True
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


def _holder(file: io.BufferedWriter) -> str:
    """Return the process that holds the lock of an open file, by the kernel's list of locks."""
    found = os.fstat(file.fileno())
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, *_, process, where, _, _ = line.split()
            if (kind, where) == ("FLOCK", place) and int(process) > 0:
                return f"process {process}"
    return "another process"
