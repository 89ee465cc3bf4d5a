"""What several commands do alike: open a run, follow it, read a plan, report it and tell what was written."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import declared_in, load_scale, load_study
from harness.ablation.execute.launch import launch, prepare
from harness.ablation.execute.placement import given, remembered
from harness.ablation.execute.worker import PlanBoard
from harness.ablation.report import tables
from harness.core.config import parse_assignments
from harness.core.files import results_folder
from harness.core.signals import StopSignal
from harness.evaluation.protocol import Protocol
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Followed, Watch
from harness.runs.students import guided_twice


def opened(name: str, assignments: list[str]) -> Run:
    """The run of that name, judged, and its data found, as the assignments say."""
    run = Run.open(name, parse_assignments(assignments))
    if reason := guided_twice(run.config):
        print(f"advice for {run.name}: {reason}")
    return run


@contextlib.contextmanager
def following(run: Run, protocol: Protocol, experiment: str, evaluated: bool) -> Iterator[Callable[[str], None]]:
    """Show a run's progress meanwhile and mirror it to MLflow; gives what to say things by."""
    console = Console()
    mirror = Mirror(experiment)
    mirror.close_dead()
    with Watch(f"{experiment} {run.name}", [Followed(run.name, run, protocol, {}, evaluated)], mirror, console):
        yield functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options name."""
    study = load_study(options.study)
    base = load_scale(options.scale)
    seeds = getattr(options, "seeds", None)
    return Plan.of(study, options.scale, base, parse_assignments(options.changes), seeds, options.plugin)


def as_trained(plan: Plan) -> tuple[Plan, Plan]:
    """A plan on the threads that were measured for it here, and on its own: its runs may be on disk under either."""
    return plan.threaded(remembered(plan)), plan


def report(
    plan: Plan, references: dict[str, dict[str, float]], folder: Path, command: str, console: Console, *notes: str
) -> list[Path]:
    """Print a plan's tables and write its files below `folder`, with `notes` under its table; returns the paths."""
    made = tables.report(plan, references)
    made.notes += notes
    tables.show(made, console)
    return tables.write(made, folder, command)


def carry_out(
    options: argparse.Namespace,
    plan: Plan,
    console: Console,
    stop: StopSignal,
    experiment: str,
    more: Callable[[], list[Path]] = list,
) -> None:
    """Run the trials of a plan that no study file names, then report them; `more` writes what belongs to the report.

    All is mirrored to the `experiment` in MLflow.
    """
    plan = dataclasses.replace(plan, plugins=tuple(str(path.absolute()) for path in options.plugin))
    judge = prepare(plan, console, stop)

    def write() -> list[Path]:
        paths = report(plan, tables.judge_references(judge), own_folder(), as_typed(), console)
        for path in paths:
            told([path], console)
        return [*paths, *more()]

    launch(PlanBoard(plan), given(plan, options.workers), console, stop, write, experiment)


def told(paths: list[Path], console: Console) -> list[Path]:
    """Say in one line that files are written; returns them."""
    console.print(f"wrote {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
    return paths


def own_folder() -> Path:
    """Where the tables and figures of a user's own runs go; what is published alone goes among the committed ones."""
    return results_folder() / "local"


def as_typed() -> str:
    """This command."""
    return shlex.join(["harness", *sys.argv[1:]])


def training_command(options: argparse.Namespace) -> str:
    """The command that trains with these options."""
    searching = declared_in(options.study, "SEARCH")
    words = ["harness", "tune" if searching else "ablate", options.study, "--scale", options.scale]
    words += ["--trials", str(options.trials)] if searching and options.trials is not None else []
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += [word for change in options.changes for word in ("--set", change)]
    return shlex.join(words + [word for path in options.plugin for word in ("--plugin", str(path))])
