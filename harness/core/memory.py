"""Measure free memory, and refuse work that needs more.

Estimates of needs are lower bounds: they count only a part of what is in memory at the same time. Refused work would
certainly have failed; accepted work may still be too large.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import ConfigError

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
"""The folders in which Linux reports the machine's memory and the limits of its control groups (cgroups)."""
CACHES = {"inactive_file", "active_file", "slab_reclaimable", "total_inactive_file", "total_active_file"}
"""Parts of a cgroup's memory that Linux frees when a process asks for more; `total_` is of cgroup version 1."""

PLACES = {"cpu": "of memory", "cuda": "of memory on the GPU"}


class Need(NamedTuple):
    """One part of the memory that is needed at the same time."""

    path: str
    """The setting that determines its size."""
    what: str
    """A noun phrase for the error message."""
    bytes: float
    passing: bool = False
    """Whether it is needed only for a moment."""


def require(needs: Sequence[Need], whole: str, device: str = "cpu") -> None:
    """Raise `ConfigError` at the setting that needs most if all `needs` of `whole` together exceed the free memory."""
    needed = sum(need.bytes for need in needs)
    if needed <= (free := free_bytes(device)):
        return
    totals = Counter[str]()
    for need in needs:
        totals[need.path] += math.ceil(need.bytes)
    ((path, largest),) = totals.most_common(1)
    of = " and ".join(need.what for need in needs if need.path == path and need.bytes)
    said = f"{whole} needs {size(needed)} {PLACES[device]} at least, {size(largest)} of it for {of}"
    raise ConfigError(path, f"{said}, but {size(free)} are free. Lower {path}.")


def require_together(each: Sequence[float], workers: int, option: str, device: str = "cpu") -> None:
    """Raise `ConfigError` at `option` if `workers` processes do not fit, even the smallest of `each` (bytes)."""
    free = free_bytes(device)
    sums = [*itertools.accumulate(sorted(each)[:workers])]
    if sums and sums[-1] > free:
        said = f"{workers} at a time need {size(sums[-1])} {PLACES[device]} at least, but {size(free)} are free"
        raise ConfigError(option, f"{said}. Take {max(1, sum(total <= free for total in sums))} or fewer.")


def free_bytes(device: str = "cpu") -> float:
    """Return the bytes that this process can still allocate on a device; infinity if the system does not report them.

    On a CPU: the available memory of the machine or the rest of the process's cgroup limits (containers, batch
    systems), whichever is less, plus free swap.
    """
    if device == "cuda":
        import torch

        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + kept
    machine = _table(PROC / "meminfo")
    if "MemAvailable" not in machine:
        return math.inf
    swap = 1024 * machine.get("SwapFree", 0)
    return min([1024 * machine["MemAvailable"], *map(_left, _groups())]) + swap


def _groups() -> Iterator[Path]:
    """Yield the folders of the cgroups that limit this process, from the innermost up."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            own = GROUPS / controllers / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(GROUPS / controllers))


def _left(group: Path) -> float:
    """Return the bytes that a cgroup may still allocate; infinity without a limit."""
    files = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for most, used in files:
        try:
            limit = (group / most).read_text().strip()
            taken = int((group / used).read_text())
        except OSError:
            continue
        caches = sum(size for name, size in _table(group / "memory.stat").items() if name in CACHES)
        return math.inf if limit == "max" else int(limit) - taken + caches
    return math.inf


def _table(path: Path) -> dict[str, int]:
    """Return {name: number} of a file whose lines begin with a name and a number; empty if there is no file."""
    try:
        words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {first: int(second) for first, second, *_ in words if second.isdecimal()}


def size(number: float) -> str:
    """Format bytes as MB, GB or TB."""
    if number < 9.995e8:
        return f"{number / 1e6:,.3g} MB"
    return f"{number / 1e9:,.3g} GB" if number < 1e12 else f"{number / 1e12:,.4g} TB"
