"""A fence: of several attempts at one trial, only the newest writes, even where file locks do nothing.

An attempt claims the trial by a file that names the attempt. Before each write, the process reads this file again:
another content means that a newer attempt has claimed the trial. A process without a fence always holds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import Superseded

OWNER = "owner.json"
"""The file in a run directory that names the newest attempt at its trial."""
CHECK_S = 5.0
"""Seconds between two looks of `lost` at the file."""


@dataclass
class _Fence:
    """A claim of this process."""

    path: Path
    content: bytes
    found: bytes
    """What the file held when it was read last; after a loss, it is read no more."""
    looked: float
    """Time of that (monotonic seconds)."""


_own: _Fence | None = None


def attempt() -> dict[str, str]:
    """Return who makes this attempt, by the environment: Slurm's job, or the text in HARNESS_ATTEMPT."""
    given = os.environ
    job = given.get("SLURM_ARRAY_JOB_ID") or given.get("SLURM_JOB_ID")
    if not job:
        return {"job": given.get("HARNESS_ATTEMPT") or "by hand"}
    task = f"_{given['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in given else ""
    return {"job": f"job {job}{task}", "restart": given.get("SLURM_RESTART_COUNT", "0")}


def node_name() -> str:
    """Return the name of this node: the one that a launcher or Slurm gives, or else the machine's."""
    return os.environ.get("HARNESS_NODE") or os.environ.get("SLURMD_NODENAME") or os.uname().nodename


@contextlib.contextmanager
def hold(path: Path, attempt: Mapping[str, Any]) -> Iterator[None]:
    """Claim a trial by the file `path`, which all attempts at it name; the claim ends with the block.

    `Superseded` if the block fails after the loss of the claim: the newer attempt may have caused the failure.
    """
    global _own
    before = _own
    token = os.urandom(8).hex()
    about = {"host": node_name(), "process": os.getpid(), "time": time.time(), "token": token}
    content = (json.dumps({**attempt, **about}) + "\n").encode()
    _put(path, content, token)
    _own = _Fence(path, content, content, time.monotonic())
    try:
        yield
    except Exception:
        require_held()
        raise
    finally:
        _own = before


def _put(path: Path, content: bytes, token: str) -> None:
    """Replace a file in one step. (`write_atomic` cannot: it asks the fence.)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fenced() -> bool:
    """Whether this process has claimed a trial."""
    return _own is not None


def held() -> bool:
    """Whether no newer attempt has claimed the trial, by the file. If the file is missing, nobody has."""
    own = _own
    if own is None:
        return True
    if own.found == own.content:
        own.looked = time.monotonic()
        own.found = _found(own)
    return own.found == own.content


def _found(own: _Fence) -> bytes:
    try:
        return own.path.read_bytes()
    except FileNotFoundError:
        return own.content
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return b"{}"  # another host replaced the file while this one read it


def lost() -> bool:
    """Whether a newer attempt has claimed the trial, as `held` found it at most `CHECK_S` ago; a reason to stop."""
    own = _own
    if own is None:
        return False
    if time.monotonic() - own.looked > CHECK_S:
        held()
    return own.found != own.content


def require_held() -> None:
    """Raise `Superseded` if a newer attempt has claimed the trial."""
    if held() or _own is None:
        return
    newer = dict.fromkeys(("job", "host"), "unknown") | json.loads(_own.found)
    who = f"{newer['job']} on host {newer['host']}"
    raise Superseded(f"another attempt at this trial ({who}) has taken over: this one leaves, and writes no more.")
