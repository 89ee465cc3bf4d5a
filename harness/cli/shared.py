"""What several commands do alike: open a run, follow it, tell what was written."""

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
    """The run of that name or address, judged, and its data found, as the assignments say."""
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
    """Show a run's progress meanwhile and mirror it to MLflow, by this name and with these parameters; gives what to
    say things by."""
    console = terminal()
    mirror = Mirror(experiment)
    mirror.close_dead()
    followed = Followed(name, run, protocol, {"seed": str(run.config.seed)}, evaluated, params)
    with Watch(f"{experiment} {run.name}", [followed], mirror, console):
        yield functools.partial(console.print, soft_wrap=True)


def told(paths: list[Path], console: Console) -> list[Path]:
    """Say in one line that files are written; returns them."""
    console.print(f"wrote {', '.join(map(str, paths))}", soft_wrap=True)
    return paths


def own_folder() -> Path:
    """Where the tables and figures of a user's own runs go; what is published alone goes among the committed ones."""
    return results_folder() / "local"


def as_typed() -> str:
    """This command."""
    return shlex.join(["harness", *sys.argv[1:]])
