"""Files that survive a kill at any moment, and where results go."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def results_folder() -> Path:
    """HARNESS_RESULTS, or results/ below the working directory: a user's runs, tables and figures are in its local/."""
    return Path(os.environ.get("HARNESS_RESULTS") or "results").absolute()


def runs_folder() -> Path:
    """Where the run directories are."""
    return results_folder() / "local" / "runs"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files below `folder` that a killed `write_atomic` left behind."""
    for path in folder.rglob(".*"):
        process = path.suffix[1:]
        if path.is_file() and process.isdigit() and not Path(f"/proc/{process}").exists():
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; `UserError` when it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Remove it and run the same command again.") from error


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file, empty where there is no file; `UserError` when it is damaged."""
    return read_json(path) if path.exists() else {}


def short_hash(content: bytes | io.BufferedReader) -> str:
    """12 hex digits of the SHA-256 of some bytes, or of an open file, which is read a piece at a time."""
    whole = hashlib.sha256(content) if isinstance(content, bytes) else hashlib.file_digest(content, "sha256")
    return whole.hexdigest()[:12]


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an .npz file that holds `arrays`, uncompressed."""
    import numpy as np

    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def drop_torn_line(path: Path) -> None:
    """Cut off what a kill or a full disk left of an unfinished last line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def read_lines(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file from number `start` on; none where there is no file."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.split(b"\n")[start:] if line]


def last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line of a JSON-lines file, read from its end; lines are shorter than 4 KiB."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
        lines = file.read().rpartition(b"\n")[0].split(b"\n")
    return json.loads(lines[-1]) if lines[-1] else None


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; yields False where `wait` is off and another process holds it.

    The lock is the kernel's (flock), so it is released when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
