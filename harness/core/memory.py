"""How much memory can still be had, and the refusal of what needs more than that.

An estimate here is a lower bound: what is counted is there at the same time, and much else is not counted. So what is
refused could not have ended well, and what is let pass may still be too large.
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
"""Where Linux says what it has and what it allows."""
CACHES = {"inactive_file", "active_file", "slab_reclaimable", "total_inactive_file", "total_active_file"}
"""Of a group's memory, what Linux gives up when a process asks for more; `total_` in version 1 of groups."""

PLACES = {"cpu": "of memory", "cuda": "of memory on the GPU"}


class Need(NamedTuple):
    """A part of what must be in memory at the same time."""

    path: str
    """The setting that makes it large."""
    what: str
    bytes: float
    passing: bool = False
    """Whether it is there for a moment alone."""


def require(needs: Sequence[Need], whole: str, device: str = "cpu") -> None:
    """`ConfigError` at the setting that takes most where `whole`, which has all needs at once, does not fit."""
    needed = sum(need.bytes for need in needs)
    if needed <= (free := free_bytes(device)):
        return
    totals = Counter[str]()
    for need in needs:
        totals[need.path] += math.ceil(need.bytes)
    ((path, largest),) = totals.most_common(1)
    of = " and ".join(need.what for need in needs if need.path == path and need.bytes)
    said = f"{whole} needs {size(needed)} {PLACES[device]} at least, {size(largest)} of it for {of}"
    raise ConfigError(path, f"{said}, and {size(free)} are free. Lower {path}.")


def require_together(each: Sequence[float], workers: int, option: str, device: str = "cpu") -> None:
    """`ConfigError` at `option` where so many processes do not fit that have `each` so many bytes, smallest first."""
    free = free_bytes(device)
    sums = [*itertools.accumulate(sorted(each)[:workers])]
    if sums and sums[-1] > free:
        said = f"{workers} at a time need {size(sums[-1])} {PLACES[device]} at least, and {size(free)} are free"
        raise ConfigError(option, f"{said}. Take {max(1, sum(total <= free for total in sums))} or fewer.")


def free_bytes(device: str = "cpu") -> float:
    """Bytes that a process can still have on a device; infinity where the system does not say.

    Those of the machine, with what is swapped out for it, or those that the groups of this process are allowed
    (containers, batch systems), whichever are fewer.
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
    """The folders of the groups that limit this process, from its own up."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):
            own = GROUPS / controllers / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(GROUPS / controllers))


def _left(group: Path) -> float:
    """Bytes that a group may still take; infinity without a limit."""
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
    """{name: number} of a file whose lines begin with both; empty where there is none."""
    try:
        words = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {first: int(second) for first, second, *_ in words if second.isdecimal()}


def size(number: float) -> str:
    """Bytes as a reader takes them in."""
    if number < 9.995e8:
        return f"{number / 1e6:,.3g} MB"
    return f"{number / 1e9:,.3g} GB" if number < 1e12 else f"{number / 1e12:,.4g} TB"
