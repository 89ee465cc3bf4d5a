"""Worker processes: forks of one process, which has imported all that they need.

The workers share the memory of the imports (about 450 MB each otherwise) and begin at once. The imports must not start
CUDA: a fork cannot use a CUDA context of its parent. No stop signal ends the process that forks, so that it can tell
how a worker ended; it ends after the launcher and the workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import sys
import types
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.core.errors import guarded, leave
from harness.core.signals import StopSignal, held_back, interruptible
from harness.core.streams import steady

IMPORTED = [
    "harness.ablation.execute.forks", "harness.ablation.execute.worker", "sklearn.utils", "torch._dynamo",
    "torch.utils.flop_counter",
]  # fmt: skip
"""Modules that every trial needs. An optimizer and the counting of operations import the last two."""
CONTEXT: BaseContext = multiprocessing.get_context("forkserver")
PATH = list(sys.path)
"""Import path of the process that forks; the launcher's may hold its working directory."""


def start(plan: Path, log: Path, environment: Mapping[str, str]) -> BaseProcess:
    """Start a worker for the plan in the file `plan`; it appends its output to `log`."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    resource_tracker.ensure_running()  # its start would end `held_back`
    process: BaseProcess = CONTEXT.Process(  # type: ignore[attr-defined]
        target=_begin, args=(plan, log, Path.cwd(), dict(environment))
    )
    with held_back(), _apart():
        process.start()
    return process


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """A context in which new processes neither run the user's script again nor import from the working directory."""
    script = sys.modules["__main__"]
    before = dict(os.environ)
    sys.modules["__main__"] = types.ModuleType("__main__")
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}  # the launcher reads the log as UTF-8
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        os.environ.clear()
        os.environ |= before


def _begin(plan: Path, log: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a worker in the launcher's working directory, with the import path of the process that forks."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    sys.path[:] = PATH
    steady()
    interruptible()
    leave(guarded(lambda: _work(plan)))


def _work(plan: Path) -> None:
    """Run trials until a signal or the end of the launcher, which closes a pipe, stops the worker."""
    from harness.ablation.execute import worker

    parent = multiprocessing.parent_process()
    assert parent is not None
    launcher = select.poll()
    launcher.register(parent.sentinel, 0)
    worker.main(plan, StopSignal(lambda: bool(launcher.poll(0))))
