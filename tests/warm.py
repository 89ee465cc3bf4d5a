"""Commands as separate processes without the time of imports: a process with all imports forks for each command.

The workers of a command are forks of it. Other tests start commands as a user does, with `python -m`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

IMPORTED = [
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "scipy.stats", "sklearn.datasets", "torch._dynamo",
    "harness.ablation.execute.worker", "harness.ablation.report.figures", "harness.cli.ablate", "harness.cli.reflow",
    "harness.cli.tune", "harness.runs.explain",
]  # fmt: skip
"""The imports of commands and workers: about 15 seconds."""


def _command(arguments: Sequence[str], results: Path, said: Path) -> None:
    import torch

    from harness.ablation.execute import forks
    from harness.cli import main
    from harness.core.errors import leave

    os.setsid()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["HARNESS_RESULTS"] = str(results)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.set_num_threads(1)  # a fork does not have the other threads
    vars(forks)["CONTEXT"] = multiprocessing.get_context("fork")
    sys.argv = ["harness", *arguments]
    leave(main(arguments))


def start(arguments: Sequence[str], results: Path, said: Path) -> ForkServerProcess:
    """Start `harness ARGUMENTS` in a separate process group; its output is written to `said`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_command, args=(arguments, results, said))
    process.start()
    return process
