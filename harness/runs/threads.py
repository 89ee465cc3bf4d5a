"""On how many CPU threads a run trains alone, where nobody says.

The number is part of the run's name, since the last digits of its results depend on it. So a run that was begun keeps
its number, and a study's runs keep the plan's.
"""

from __future__ import annotations

import os

import joblib
import torch

from harness.core.config import override
from harness.runs.config import RunConfig
from harness.runs.folder import Run

MOST = 8
"""More are used only where `train.threads` asks for them: small networks get slower on many."""


def free_threads() -> int:
    """The cores that this process may use, less those that were busy in the last minute; from 1 to `MOST`."""
    cores = min(torch.get_num_threads(), joblib.cpu_count())  # OMP_NUM_THREADS; affinity and a container's quota
    return min(MOST, max(1, round(cores - os.getloadavg()[0])))


def threaded(config: RunConfig) -> tuple[RunConfig, str]:
    """The configuration on the threads of its run on disk, or else on the free ones; with a line that says so.

    On a GPU, and for one process of several, it stays as it is and nothing is said.
    """
    if config.train.resolved_device() != "cpu" or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return config, ""
    free = free_threads()
    for threads in dict.fromkeys((free, config.train.threads, *range(1, 1 + max(MOST, os.cpu_count() or 1)))):
        begun = override(config, {"train.threads": threads})
        if Run.of(begun).folder.exists():
            return begun, f"train.threads={threads}, as the run on disk has it"
    why = "the cores that are free here; the run's name depends on it, and --set train.threads=N chooses another"
    return override(config, {"train.threads": free}), f"train.threads={free}: {why}"
