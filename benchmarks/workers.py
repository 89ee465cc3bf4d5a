"""The memory and the start of workers, as forks of one process with all imports and as separate processes.

    python -m benchmarks.workers [--scale points] [--number 2]

Each way starts a number of processes at once; each trains and judges a short run of a scale. Own: memory that no other
process shares (Private_Dirty and Private_Clean of /proc/PID/smaps_rollup). Share: own memory and an equal part of the
shared (Pss). Resident: all that it maps, which counts shared pages in every process (Rss). Forks have a further
process, from which they fork: its row is `shared imports`. Prints MB, and the seconds until all processes have ended.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

from benchmarks.loops import fresh_results
from benchmarks.report import Row, publish

MEMORY = {"own": ("Private_Dirty", "Private_Clean"), "share": ("Pss",), "resident": ("Rss",)}
LIMIT_S = 300
SHORT = {"train.steps": 40, "train.threads": 1, "evaluate.num_samples": 200, "evaluate.nfe": [8]}


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="points")
    parser.add_argument("--number", type=int, default=2)
    options = parser.parse_args()
    with fresh_results():
        rows = [row for way in ("spawn", "forkserver") for row in measure(way, options.scale, options.number)]
    notes = [f"{options.number} processes of the scale {options.scale} at once; own: not shared with any process."]
    publish("workers", "Memory of workers", rows, notes)


def measure(way: str, scale: str, number: int) -> Iterator[Row]:
    """Yield the rows of a way to start processes."""
    from harness.ablation.execute.forks import IMPORTED

    context = multiprocessing.get_context(way)
    context.set_forkserver_preload(IMPORTED)
    said = context.Queue()
    began = time.perf_counter()
    given = {"target": work, "args": (scale, said), "daemon": True}
    crew = [context.Process(**given) for _ in range(number)]  # type: ignore[attr-defined]
    for process in crew:
        process.start()
    found = [said.get(timeout=LIMIT_S) for _ in crew]
    if way == "forkserver":
        shared: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        yield {"process": "shared imports", **memory(shared), "seconds": ""}
    for process in crew:
        process.kill()
        process.join()
    seconds = round(time.perf_counter() - began, 1)
    name = "a fork" if way == "forkserver" else "a separate process"
    yield {"process": name, **{key: max(each[key] for each in found) for key in MEMORY}, "seconds": seconds}


def work(scale: str, said: multiprocessing.Queue) -> None:
    """Train and judge a short run with an own seed, report the memory, and wait."""
    from harness.ablation.design.study import load_scale
    from harness.core.config import override
    from harness.runs.train import ensure

    ensure(override(load_scale(scale), {**SHORT, "seed": os.getpid()}), lambda text: None, lambda: False)
    said.put(memory(os.getpid()))
    time.sleep(LIMIT_S)


def memory(process: int) -> dict[str, float]:
    """Return a process's memory in MB."""
    lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    found = {words[0].rstrip(":"): int(words[1]) / 1000 for words in lines}
    return {name: round(sum(found[part] for part in parts)) for name, parts in MEMORY.items()}


if __name__ == "__main__":
    main()
