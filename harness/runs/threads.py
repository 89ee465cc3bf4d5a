"""The number of CPU threads of a single run, unless the user sets it.

The number is part of the run's name, since the last digits of the results depend on it. A run that has started keeps
its number, and the runs of a study keep the plan's.
"""

from __future__ import annotations

import os

import joblib
import torch

from harness.core.config import override
from harness.runs.config import RunConfig
from harness.runs.folder import Run

MOST = 8
"""Largest number chosen here; only `train.threads` sets more: small networks get slower on many threads."""


def usable_cores() -> int:
    """Return the cores that this process may use, by its affinity and the quota of its container or job."""
    return int(joblib.cpu_count())


def free_threads() -> int:
    """Return the cores that this process may use, minus those busy in the last minute; from 1 to `MOST`."""
    cores = min(torch.get_num_threads(), usable_cores())  # torch knows OMP_NUM_THREADS
    return min(MOST, max(1, round(cores - os.getloadavg()[0])))


def threaded(config: RunConfig) -> tuple[RunConfig, str]:
    """Return the configuration with the threads of its run on disk, or else the free ones, and a line that says so.

    On a GPU, and in a training on several processes, the configuration does not change and the line is empty.
    """
    if config.train.resolved_device() != "cpu" or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return config, ""
    free = free_threads()
    for threads in dict.fromkeys((free, config.train.threads, *range(1, 1 + max(MOST, os.cpu_count() or 1)))):
        begun = override(config, {"train.threads": threads})
        if (Run.of(begun).folder / "config.json").exists():
            return begun, f"train.threads={threads}, as in the run on disk"
    why = "the free cores of this machine; the run's name depends on it, --set train.threads=N changes it"
    return override(config, {"train.threads": free}), f"train.threads={free}: {why}"
