"""Shared by several commands: open a run, follow it, print which files were written."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.ablation.design.addresses import find_run
from harness.core.config import parse_assignments
from harness.core.files import results_folder
from harness.core.progress import terminal
from harness.core.signals import Say
from harness.evaluation.protocol import Protocol
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Followed, Watch
from harness.runs.students import guided_twice
from harness.runs.validate import refuse_idle


def opened(name: str, assignments: list[str]) -> Run:
    """Return the run with this name or address; the assignments may change its evaluation and where its data are."""
    changes = parse_assignments(assignments)
    run = find_run(name).opened(changes)
    refuse_idle(changes, [run.config])
    if reason := guided_twice(run.config):
        print(f"advice for {run.name}: {reason}")
    return run


@contextlib.contextmanager
def following(
    run: Run, protocol: Protocol, experiment: str, evaluated: bool, name: str, params: Mapping[str, Any]
) -> Iterator[Say]:
    """Show a run's progress and mirror it to MLflow under this name, with these parameters.

    Yields a function that prints a line.
    """
    console = terminal()
    mirror = Mirror(experiment)
    mirror.close_dead()
    followed = Followed(name, run, protocol, {"seed": str(run.config.seed)}, evaluated, params)
    with Watch(f"{experiment} {run.name}", [followed], mirror, console):
        yield functools.partial(console.print, soft_wrap=True)


def told(paths: list[Path], console: Console) -> list[Path]:
    """Print the paths of written files in one line; return them."""
    console.print(f"wrote {', '.join(map(str, paths))}", soft_wrap=True)
    return paths


def own_folder() -> Path:
    """Return the folder for tables and figures of a user's runs; only publishing writes to the committed ones."""
    return results_folder() / "local"


def as_typed() -> str:
    """Return the command of this process."""
    return shlex.join(["harness", *sys.argv[1:]])
