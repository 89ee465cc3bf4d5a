"""`harness.run_study`: what `harness ablate` does, from a notebook or a script."""

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
    """Train and compare the arms of a study; the same call continues it, and what has ended is found again.

    A study is a `Study` with a name, the name of a file in studies/, or the path of a study file. `scale` names a
    configuration in studies/scales.py, and `changes` are of every arm, like {"train.steps": 200}. `seeds` goes through
    the looks up to so many, `until="decided"` to the last that is needed; without either, the first look is taken, or
    the last that was. `workers` processes train at the same time; how many are fastest is measured if not given. They
    read components of yours from the files in `plugins`, each of which is read once a process.

    `UserError` says what is wrong. An interrupt (Ctrl-C, the notebook's stop button) saves the trials and raises
    `Stopped`.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError("run_study: another thread cannot be interrupted in order. Call it from the main thread.")
    if until not in (None, "decided"):
        raise UserError(f"until: {until!r} is no end. Give 'decided', or leave it out.")
    if until and seeds is not None:
        raise UserError(f"until: seeds={seeds} says already how far. Leave out one of the two.")
    if workers is not None:
        WORKERS.refuse(workers, "workers")
    options = argparse.Namespace(
        study=study if isinstance(study, Study) else str(study), scale=scale, seeds=seeds, until=until, max_hours=None,
        workers=workers, trials_per_gpu=None, plugin=[Path(path) for path in plugins],
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
    """`UserError` where a component is of no file that another process would read too: a notebook, or a script."""
    for one in users_components(config):
        if getattr(sys.modules.get(type(one).__module__), "__file__", None) not in USERS_FILES:
            raise UserError(
                f"{one.family} '{one.name}': the processes that train cannot find its class ({place_of(type(one))}). "
                "Write the class into a file of its own, like mine.py, and name that: plugins=['mine.py']."
            )


def _typed(value: Any) -> str:
    """A value as one types it after `--set path=`, so that runs and tables have the same names."""
    if isinstance(value, str):
        return value
    return json.dumps(to_dict(value) if isinstance(value, Config) else value, separators=(",", ":"))


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """What a command changes in its process for good, handlers of signals and the number of threads, ends here."""
    threads = torch.get_num_threads()
    try:
        with given_back():
            yield
    finally:
        torch.set_num_threads(threads)
