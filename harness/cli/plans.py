"""Shared by the commands that use plans: read a plan, prepare it, carry it out and report it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from harness.ablation.design.addresses import stored_plans
from harness.ablation.design.folder import declared_in
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import preregister
from harness.ablation.design.search_plan import SearchPlan, searches
from harness.ablation.design.study import Study, load_scale, load_study
from harness.ablation.design.tuned import Tuned, Tuning, keep, untuned
from harness.ablation.execute.launch import launch
from harness.ablation.execute.launchers import Remote
from harness.ablation.execute.node import placed
from harness.ablation.execute.placement import Placement, remembered
from harness.ablation.execute.slots import STORE, Slots
from harness.ablation.execute.trials import RemoteTrials
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.execute.worker import PlanBoard
from harness.ablation.report import history, page, tables, tuned
from harness.ablation.report.findings import Report
from harness.ablation.report.mirrored import mirrored
from harness.cli.shared import own_folder, told
from harness.core.config import parse_assignments
from harness.core.errors import UserError
from harness.core.files import read_json
from harness.core.progress import shown
from harness.core.signals import Stop
from harness.evaluation.floor import judge_floor
from harness.evaluation.judge import Judge
from harness.evaluation.yardsticks import judge_references
from harness.runs import index
from harness.runs.config import RunConfig
from harness.runs.judge import judge_of
from harness.runs.mlflow_pages import Told
from harness.runs.room import require_room, require_workers
from harness.runs.threads import usable_cores
from harness.runs.validate import check


def plan_of(options: argparse.Namespace, found: bool = True) -> Plan:
    """Return the plan that the options name; unless `found`, without the results of its searches and of timing."""
    study = load_study(options.study)
    if not found:
        study = study.as_written()
    base = load_scale(options.scale)
    seeds = getattr(options, "seeds", None)
    return Plan.of(study, options.scale, base, parse_assignments(options.changes), seeds, options.plugin)


def as_trained(plan: Plan) -> list[Plan]:
    """Return the plan in the forms that its runs on disk may have.

    They are: with the device of an engine's nodes, with the threads measured for it here, and unchanged.
    """
    return [*filter(None, [placed(plan)]), plan.threaded(remembered(plan)), plan]


def looked_for(plan: Plan) -> str:
    """Say where the runs of a plan were looked for, under which protocol their values, and what was begun instead."""
    arm, seed = plan.trials()[0]
    first = plan.run(arm, seed)
    others = "; ".join(f"{name} ({words or 'without --set'})" for name, words in begun_otherwise(plan).items())
    begun = f" Begun with other changes: {others}." if others else ""
    return (
        f"Looked in {first.folder.parent} for {len(plan.trials())} runs (first: {first.name}, {arm} seed {seed}) and "
        f"for their evaluations under protocol {plan.protocol(arm).digest}.{begun}"
    )


def begun_otherwise(plan: Plan) -> dict[str, str]:
    """Return {name: its --set} of the plans of the same study and scale that were begun with other changes."""
    begins = f"{plan.study}-{plan.scale}-"
    found = {}
    for stored in stored_plans():
        if f"{stored.name}-".startswith(begins) and stored.name != plan.name:
            with contextlib.suppress(UserError):  # damaged: not what this command is about
                changes = read_json(stored.file, dict[str, Any]).get("changes", {})
                found[stored.name] = " ".join(f"--set {path}={value}" for path, value in changes.items())
    return found


def training_command(options: argparse.Namespace) -> str:
    """Return the command that trains with these options, or the call if the study is defined in Python."""
    if command := getattr(options, "command", None):
        return str(command)
    if isinstance(options.study, Study):
        changes = dict(change.split("=", 1) for change in options.changes)
        given = {"scale": options.scale, "seeds": options.seeds, "until": options.until, "changes": changes}
        given["plugins"] = [str(path) for path in options.plugin]
        return f"harness.run_study({options.study.name}, {', '.join(f'{k}={v!r}' for k, v in given.items() if v)})"
    searching = declared_in(options.study, "SEARCH")
    words = ["harness", "tune" if searching else "ablate", options.study, "--scale", options.scale]
    trials = getattr(options, "trials", None)
    words += ["--trials", str(trials)] if searching and trials is not None else []
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += ["--until", options.until] if options.until else []
    words += [word for change in options.changes for word in ("--set", change)]
    return shlex.join(words + [word for path in options.plugin for word in ("--plugin", str(path))])


def refuse_short(plan: Plan, placement: Placement | None = None) -> None:
    """`UserError` if an unfinished run does not fit into memory, alone or beside the others of a placement."""
    left = plan.unfinished()
    refuse_large({f"arm '{arm}'": plan.config(arm, seed) for arm, seed in left})
    if placement:
        first = {arm: plan.config(arm, seed) for arm, seed in reversed(left)}  # the first open seed
        counts = Counter(arm for arm, _ in left)
        trials = [(config, counts[arm]) for arm, config in first.items()]
        require_workers(trials, placement.workers, placement.gpus, "--workers")


def refuse_large(configs: Mapping[str, RunConfig]) -> None:
    """`UserError` with the name of a configuration that does not fit into memory alone."""
    for name, config in configs.items():
        try:
            require_room(config)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


def prepare(plan: Plan, console: Console, stop: Stop = lambda: False, placement: Placement | None = None) -> Judge:
    """Refuse what cannot work before anything is trained; return the judge, with the reference that all arms share."""
    refuse_broken(plan, None if isinstance(placement, Remote) else placement)
    return with_reference(plan.arms[plan.baseline], console, stop)


def refuse_broken(plan: Plan, placement: Placement | None = None) -> None:
    """`UserError` if an arm cannot be trained or judged.

    With a `placement`, the runs must also fit into memory.
    """
    for name, config in plan.arms.items():
        try:
            check(config)
        except UserError as error:
            raise UserError(f"arm '{name}': {error}") from None
    if placement:
        refuse_short(plan, placement)


def with_reference(config: RunConfig, console: Console, stop: Stop) -> Judge:
    """Return the judge of a configuration; compute the features of its reference on all cores, and show progress."""
    torch.set_num_threads(usable_cores())
    return judge_of(config, functools.partial(shown, to=console), stop)


def search(plan: SearchPlan, placement: Placement, console: Console, stop: Stop, command: str) -> SearchBoard | None:
    """Run the trials of a search, then write its table and pictures; return None if they are only submitted."""
    board: SearchBoard = Slots(plan, placement.store) if isinstance(placement, Remote) else SearchBoard(plan)
    if isinstance(placement, Remote):
        os.environ[STORE] = placement.store  # the trials read it there
    elif not board.finished():
        refuse_large({f"space, {setting}": config for setting, config in plan.corners().items()})
        require_workers([(plan.base, 1)], placement.workers, placement.gpus, "--workers")
    with_reference(plan.base, console, stop)

    def write() -> Told:
        found = board.kept() if isinstance(board, Slots) else board
        files = told(history.write(found, own_folder(), command), console)
        return Told(files, note=f"{plan.question}\n\n{history.describe(found)}")

    if not launch(board, placement, console, stop, write):
        return None
    return SearchBoard(board.plan)


def tune_arms(plan: Plan, by: Tuned, placement: Placement, console: Console, stop: Stop, command: str) -> bool:
    """Search for the best settings of the untuned arms and keep them; `plan` holds the arms before tuning.

    Return False if a search is only submitted.
    """
    missing = untuned(plan.arms, by, plan.scale, plan.name)
    plans = searches(plan, by) if missing else {}
    if missing:
        preregister(dataclasses.replace(plan, tuning=Tuning(by.budget(plan.scale), {})))
    for arm in missing:
        console.print(f"{plans[arm].question} {plans[arm].trials} trials; search {plans[arm].digest}", soft_wrap=True)
        board = search(plans[arm], placement, console, stop, command)
        if board is None:
            return False
        keep(plan.arms[arm], by, plan.scale, plan.name, tuned.found(board))
    return True


Show = Callable[[Report, list[Path], Console], None]
"""Shows the user a report whose files are written."""


def on_terminal(made: Report, paths: list[Path], console: Console) -> None:
    """Print the tables of a report and the paths of its files."""
    tables.show(made, console)
    told(paths, console)


def carry_out(
    plan: Plan, placement: Placement, judge: Judge, command: str, console: Console, stop: Stop, *notes: str,
    experiment: str | None = None, more: Callable[[], list[Path]] = list, show: Show = on_terminal,
) -> bool:  # fmt: skip
    """Run the trials of a plan, then report them; `more` writes further files and returns their paths.

    Everything is mirrored to the `experiment` in MLflow, by default the plan's. Return whether the trials have ended.
    """
    trials = RemoteTrials(plan) if isinstance(placement, Remote) else PlanBoard(plan)

    def write() -> Told:
        return report(trials.plan, judge, own_folder(), command, console, *notes, more=more, show=show)

    return launch(trials, placement, console, stop, write, experiment)


def report(
    plan: Plan, judge: Judge, folder: Path, command: str, console: Console, *notes: str,
    more: Callable[[], list[Path]] = list, show: Show = on_terminal,
) -> Told:  # fmt: skip
    """Write a plan's files below `folder`, with `notes` under its table; show them, and return what MLflow receives.

    A user's own folder gets the study's page too; the committed folder does not.
    """
    made = reported(plan, judge, *notes)
    paths = tables.write(made, folder, command)
    paths += [page.write(made, folder, command)] if folder == own_folder() else []
    paths += more()
    show(made, paths, console)
    return mirrored(made, paths)


def reported(plan: Plan, judge: Judge, *notes: str) -> Report:
    """Return the report of a plan's runs, with `notes` after its own."""
    number = judge.config.samples_at(plan.nfe)
    at_primary = judge_references(judge, number) if number > judge.config.num_samples else None
    floor = judge_floor(judge, plan.metric, number)
    made = tables.report(plan, judge_references(judge), at_primary, floor)
    index.store()
    made.notes += notes
    return made
