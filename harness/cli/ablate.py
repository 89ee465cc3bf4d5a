"""`harness ablate`: trains and compares the arms of a study; the same command continues it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import preregister
from harness.ablation.design.study import load_study
from harness.ablation.execute.launchers import LOCAL, Remote, find
from harness.ablation.execute.node import on_nodes
from harness.ablation.execute.placement import Placement, choose, given
from harness.ablation.execute.slots import store_of
from harness.ablation.execute.timing import time_steps
from harness.ablation.report.looks import as_it_is, next_look, reached, seconds_for, through
from harness.cli.advice import warn
from harness.cli.plans import Show, carry_out, on_terminal, plan_of, prepare, refuse_short, training_command, tune_arms
from harness.core.config import parse_assignments
from harness.core.errors import UserError
from harness.core.progress import duration, terminal
from harness.core.signals import StopSignal


def run(options: argparse.Namespace, show: Show = on_terminal) -> None:
    """Choose how the trials share this machine, run them and report; `show` gives each look's report to the user."""
    console = terminal()
    study = load_study(options.study)
    plan, placement = placed(options, plan_of(options, found=False), console, searches=study.tuned is not None)
    stop = Hours(options.max_hours)
    if study.tuned and not tune_arms(plan, study.tuned, placement, console, stop, training_command(options)):
        return
    if study.matched == "seconds":
        refuse_remote(placement, "the arms' steps are matched by seconds, which are measured on this machine")
        time_steps(plan, placement, lambda text: console.print(f"- {text}"))
    if study.tuned or study.matched == "seconds":
        plan, placement = placed(options, plan_of(options), console, searches=study.tuned is not None)
    compare(options, plan, placement, console, stop, show=show)


def placed(options: argparse.Namespace, plan: Plan, console: Console, searches: bool = False) -> tuple[Plan, Placement]:
    """Return the plan with the threads of a trial, and the placement: as the options say, or the fastest.

    `searches` is whether the command also searches.
    """
    if options.store and not (searches and options.launcher != LOCAL):
        raise UserError("--store: only a search on an engine's nodes uses it. Leave it out.")
    if options.launcher != LOCAL:
        return plan, remote_of(options, plan, searches)
    idle = {"--on": options.on, "--jobs": options.jobs, "--processes": options.processes, "--detach": options.detach}
    for name in (name for name, value in idle.items() if value):
        raise UserError(f"{name}: does nothing on this machine. Add --launcher slurm or ray, or leave it out.")
    varied = len({config.train.threads for config in plan.arms.values()}) > 1
    by_hand = options.workers is not None or options.trials_per_gpu is not None
    if by_hand or varied or "train.threads" in parse_assignments(options.changes):
        return plan, given(plan, options.workers, options.trials_per_gpu)
    refuse_short(plan)
    placement = choose(plan, lambda text: console.print(f"- {text}"))
    return plan.threaded(placement.threads), placement


def remote_of(options: argparse.Namespace, plan: Plan, searches: bool) -> Remote:
    """Return the placement by the engine that the options name; `UserError` for options of this machine."""
    for name in ("workers", "trials_per_gpu"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}: is for this machine. Use --jobs with --launcher {options.launcher}.")
    find(options.launcher)
    if searches and options.processes:
        raise UserError("--processes: a trial of a search is one process. Leave it out.")
    store = store_of(options.store) if searches else ""
    return Remote(
        options.jobs or len(plan.trials()), plan.trains.threads, 0, options.launcher, options.on or "", options.jobs,
        store, options.processes or 1, options.detach,
    )  # fmt: skip


def refuse_remote(placement: Placement, why: str) -> None:
    """Raise `UserError` if an engine would run the trials."""
    if isinstance(placement, Remote):
        raise UserError(f"--launcher {placement.launcher}: {why}. Use --launcher local.")


class Hours(StopSignal):
    """Asks for a stop after a signal, and when the hours that a command may take are over."""

    def __init__(self, hours: float | None):
        self._ends = time.monotonic() + 3600 * (hours or math.inf)
        super().__init__(lambda: self.remaining < 0)

    @property
    def remaining(self) -> float:
        """Seconds left; infinity without a limit."""
        return self._ends - time.monotonic()


def _looks(plan: Plan, seeds: int, at: Callable[[Plan], Plan], at_least: bool) -> Iterator[Plan]:
    """Yield the looks up to a number of seeds, and with `at_least` also the last one that is complete by then.

    If a run of the first look was removed, its training completes the later looks too.
    """
    yield from through(plan, seeds, at)
    if at_least and seeds < plan.looks.last and len((now := reached(at(plan))).seeds) > seeds:
        yield now


def compare(
    options: argparse.Namespace, plan: Plan, placement: Placement, console: Console, stop: Hours, *notes: str,
    more: Callable[[], list[Path]] = list, show: Show = on_terminal,
) -> None:  # fmt: skip
    """Carry out the plan of a study, look by look, and report each look, with `notes` under its table.

    `more` writes further files of a report and returns their paths.
    """
    console.print(plan.question)
    judge = prepare(plan, console, stop, placement)
    warn(plan, console)
    preregister(plan)
    at = on_nodes if isinstance(placement, Remote) else as_it_is
    known = reached(at(plan))
    if options.seeds is None:
        plan = known
    elif len(known.seeds) > len(plan.seeds) and not known.unfinished():
        console.print(
            f"{len(known.seeds)} seeds are trained already, so the report has more than --seeds {options.seeds}."
        )
        plan = known
        options.seeds = len(known.seeds)
    goes_on = options.seeds is None and (options.until or options.max_hours)
    for now in _looks(plan, plan.looks.last if goes_on else len(plan.seeds), at, options.seeds is None):
        if (needed := seconds_for(now, placement.workers)) > stop.remaining:
            hours = duration(needed)
            console.print(f"{len(now.seeds)} seeds would take about {hours}, longer than --max-hours leaves.")
            return
        console.print(f"{len(now.arms)} arms, {len(now.seeds)} seeds at the scale {now.scale}; plan {now.digest}")
        command = training_command(options)
        if not carry_out(now, placement, judge, command, console, stop, *notes, more=more, show=show):
            return
        plan = at(now)
    console.print(next_look(plan, placement.workers), soft_wrap=True)
