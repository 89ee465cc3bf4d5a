"""Worker processes: forks of one process, which has imported all that they need.

The workers share the memory of the imports (about 450 MB each otherwise). The imports must not start CUDA: a fork
cannot use a CUDA context of its parent. No stop signal ends the process that forks, so that it can tell how a worker
ended. It ends after the launcher and the workers; until then, also in a notebook, new workers have the code that it
imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import sys
import types
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.core.errors import UserError, guarded, leave
from harness.core.signals import StopSignal, held_back
from harness.core.streams import steady

IMPORTED = [
    "harness.ablation.execute.forks", "harness.ablation.execute.worker", "sklearn.utils", "torch._dynamo",
    "torch.utils.flop_counter",
]  # fmt: skip
"""Modules that every trial needs. An optimizer and the counting of operations import the last two."""
CONTEXT: BaseContext = multiprocessing.get_context("forkserver")
LOST = 255
"""Exit code that `multiprocessing` gives all workers if the process that forks was killed."""


def prepare() -> None:
    """Let the process that forks begin its imports; do not wait for it."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    resource_tracker.ensure_running()  # its start would end `held_back`
    if CONTEXT.get_start_method() == "forkserver":
        with held_back(), _apart():
            forkserver.ensure_running()


def start(plan: Path, log: Path, environment: Mapping[str, str]) -> BaseProcess:
    """Start a worker for the plan in the file `plan`; it appends its output to `log`."""
    prepare()
    process: BaseProcess = CONTEXT.Process(  # type: ignore[attr-defined]
        target=_begin, args=(plan, log, Path.cwd(), dict(environment))
    )
    try:
        with held_back(), _apart():
            process.start()
    except EOFError:
        raise UserError("the process from which workers fork has ended. The same command continues.") from None
    return process


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """A context in which new processes do not run the user's script, nor import from its folder or the current one."""
    script = sys.modules["__main__"]
    path = list(sys.path)
    own = {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}  # the launcher reads the log as UTF-8
    before = {name: os.environ.get(name) for name in own}
    folders = {"", os.getcwd(), os.path.dirname(os.path.abspath(getattr(script, "__file__", None) or "script"))}
    unsafe = folders - {*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))}
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[:] = [place for place in path if place not in unsafe]
    os.environ |= own
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        sys.path[:] = path
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def _begin(plan: Path, log: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a worker, with the launcher's current folder, the given environment, no input, and its output in the log."""
    import numpy as np

    with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    multiprocessing.set_start_method(None, force=True)  # a fork's default is `forkserver`
    np.random.seed()  # otherwise all workers draw the same from NumPy's global generator
    steady()
    leave(guarded(lambda: _work(plan)))


def _work(plan: Path) -> None:
    """Run trials until a signal or the end of the launcher, which closes a pipe, stops the worker."""
    from harness.ablation.execute import worker

    parent = multiprocessing.parent_process()
    assert parent is not None
    launcher = select.poll()
    launcher.register(parent.sentinel, 0)
    worker.main(plan, StopSignal(lambda: bool(launcher.poll(0))))
