"""Commands as separate processes without the time of imports: a process with all imports forks for each command.

The workers of a command are forks of it. Other tests start commands as a user does, with `python -m`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

IMPORTED = [
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "scipy.stats", "sklearn.datasets", "torch._dynamo",
    "harness.ablation.execute.worker", "harness.ablation.report.figures", "harness.cli.ablate", "harness.cli.reflow",
    "harness.cli.tune", "harness.runs.explain",
]  # fmt: skip
"""The imports of commands and workers: about 15 seconds."""


class Forked:
    """A forked worker with the part of the interface of `subprocess.Popen` that a launcher uses."""

    def __init__(self, command: Sequence[str], stdin: int, stdout: IO[bytes], stderr: int, env: dict[str, str]):
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _work(command[-2:], stdout, env)

    def poll(self) -> int | None:
        """Return the exit code, or None before the end."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60) -> None:
        """Wait for the end, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a worker", timeout)
            time.sleep(0.01)

    def terminate(self) -> None:
        """Ask it to stop."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)


def _work(arguments: Sequence[str], said: IO[bytes], environment: dict[str, str]) -> None:
    import torch

    from harness.ablation.execute import worker
    from harness.core.errors import guarded, leave

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)  # a fork does not have the other threads
    sys.argv = ["worker", *arguments]
    leave(guarded(worker.main))


def _command(arguments: Sequence[str], results: Path, said: Path) -> None:
    from harness.ablation.execute import launch
    from harness.cli import main
    from harness.core.errors import leave

    os.setsid()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["HARNESS_RESULTS"] = str(results)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    named = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT", "TimeoutExpired")}
    vars(launch)["subprocess"] = types.SimpleNamespace(Popen=Forked, **named)
    sys.argv = ["harness", *arguments]
    leave(main(arguments))


def start(arguments: Sequence[str], results: Path, said: Path) -> ForkServerProcess:
    """Start `harness ARGUMENTS` in a separate process group; its output is written to `said`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_command, args=(arguments, results, said))
    process.start()
    return process
