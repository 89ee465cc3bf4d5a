"""`harness.run_study`: runs `harness ablate` from a notebook or a script."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from harness.ablation.design.study import Study
from harness.ablation.report.findings import Report
from harness.ablation.report.study_report import StudyReport
from harness.cli import ablate
from harness.cli.options import HERE
from harness.cli.plans import plan_of, training_command
from harness.core.config import WORKERS, Config, to_dict
from harness.core.declared import place_of
from harness.core.errors import USERS_FILES, UserError
from harness.core.registry import load_plugins, users_components
from harness.core.signals import given_back
from harness.runs.config import RunConfig


def run_study(
    study: Study | str | Path, scale: str = "digits", *, seeds: int | None = None,
    until: Literal["decided"] | None = None, workers: int | None = None,
    changes: Mapping[str, Any] | None = None, plugins: Sequence[str | Path] = (),
) -> StudyReport:  # fmt: skip
    """Train and compare the arms of a study; the same call continues it, and finished trials are not trained again.

    A study is a `Study` with a name, the name of a file in studies/, or the path of a study file. `scale` names a
    configuration in studies/scales.py. `changes` apply to every arm, like {"train.steps": 200}. `seeds=N` takes all
    looks up to N seeds, `until="decided"` all looks until every arm is decided; the default is the first look, or the
    last one taken. `workers` processes train side by side; the default is the fastest number, which is measured. The
    processes load your components from the files in `plugins`; a process loads each file once.

    `UserError` says what is wrong. An interrupt (Ctrl-C, the notebook's stop button) saves the trials and raises
    `Stopped`.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError("run_study: only the main thread receives interrupts. Call it from the main thread.")
    if until not in (None, "decided"):
        raise UserError(f"until: {until!r} is not a choice. Pass 'decided', or leave it out.")
    if until and seeds is not None:
        raise UserError(f"until: seeds={seeds} already sets the last look. Leave out one of the two.")
    if workers is not None:
        WORKERS.refuse(workers, "workers")
    options = argparse.Namespace(
        study=study if isinstance(study, Study) else str(study), scale=scale, seeds=seeds, until=until, max_hours=None,
        workers=workers, trials_per_gpu=None, **HERE, plugin=[Path(path) for path in plugins],
        changes=[f"{path}={_typed(value)}" for path, value in (changes or {}).items()],
    )  # fmt: skip
    made = list[StudyReport]()

    def keep(found: Report, paths: list[Path], _: Console) -> None:
        made.append(StudyReport(found, tuple(paths), training_command(options)))

    load_plugins(options.plugin)
    for config in plan_of(options, found=False).arms.values():
        _require_files(config)
    with _undone():
        ablate.run(options, keep)
    return made[-1]


def _require_files(config: RunConfig) -> None:
    """`UserError` if another process cannot load a component, since a notebook or a script declares it."""
    for one in users_components(config):
        if getattr(sys.modules.get(type(one).__module__), "__file__", None) not in USERS_FILES:
            raise UserError(
                f"{one.family} '{one.name}': the processes that train cannot load its class ({place_of(type(one))}). "
                "Move the class into a separate file, like mine.py, and pass plugins=['mine.py']."
            )


def _typed(value: Any) -> str:
    """Return a value as typed after `--set path=`, so that runs and tables have the same names."""
    if isinstance(value, str):
        return value
    return json.dumps(to_dict(value) if isinstance(value, Config) else value, separators=(",", ":"))


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Restore what a command changes in its process: the signal handlers and the number of threads."""
    threads = torch.get_num_threads()
    try:
        with given_back():
            yield
    finally:
        torch.set_num_threads(threads)
