"""`harness publish`: copies a finished table to the committed ones, and updates the texts about these."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.ablation.design.folder import declared_in
from harness.ablation.design.plan import Plan
from harness.ablation.design.search import BASELINE, WINNER, load_search
from harness.ablation.design.search_plan import SearchPlan, compared, searches
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.execute.node import on_nodes
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report import history, published
from harness.ablation.report.committed import publishing_folder
from harness.ablation.report.looks import reached
from harness.cli.plans import as_trained, begun_otherwise, plan_of, prepare, report, training_command
from harness.cli.shared import told
from harness.core.config import parse_assignments
from harness.core.errors import UserError
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Publish the named study or search, if any; then update studies/README.md. Nothing is trained."""
    console = terminal()
    if options.study:
        _publish(options, console, publishing_folder())
    told(published.renew(), console)


def _publish(options: argparse.Namespace, console: Console, folder: Path) -> None:
    notes = []
    if declared_in(options.study, "SEARCH"):
        board, tuned = _searched(options)
        plan = _complete(options, [tuned])
        notes = [history.describe(board)]
        told(history.write(board, folder, training_command(options), plan), console)
    else:
        plan = _complete(options, as_trained(plan_of(options)))
        _publish_searches(options, console, folder)
    if len(plan.seeds) > plan.looks.seeds[0]:
        options.seeds = len(plan.seeds)  # the study went on to a later look
    report(plan, prepare(plan, console), folder, training_command(options), console, *notes)


def _publish_searches(options: argparse.Namespace, console: Console, folder: Path) -> None:
    """Write the tables of the finished searches that tuned a study's arms."""
    study = load_study(options.study)
    own = as_trained(plan_of(options, found=False))
    for plan in (
        [on_nodes(plan) for each in own for plan in searches(each, study.tuned).values()] if study.tuned else ()
    ):
        if plan.folder.exists() and (board := SearchBoard(plan)).finished():
            told(history.write(board, folder, training_command(options)), console)


def _searched(options: argparse.Namespace) -> tuple[SearchBoard, Plan]:
    """Return the board of a finished search, and the plan of the comparison that follows."""
    search = load_search(options.study)
    scale = options.scale
    given = search, scale, load_scale(scale), parse_assignments(options.changes), options.seeds, options.plugin
    for own in as_trained(compared(*given, winners={WINNER: {}})):
        base = own.arms[BASELINE]
        plan = on_nodes(SearchPlan.of(search, scale, base, None, options.plugin))
        if plan.folder.exists() and (board := SearchBoard(plan)).finished() and not board.busy():
            if (settled := len(board.settled())) > plan.trials:
                options.trials = settled  # the search was continued with more trials
            return board, on_nodes(compared(*given, winners=board.tuned()).threaded(base.train.threads))
    reason = f"the search has not ended. Looked in {plan.folder}"
    raise UserError(f"{search.name}-{scale}: {reason}. Run `{training_command(options)}` first.")


def _complete(options: argparse.Namespace, plans: Sequence[Plan]) -> Plan:
    """Return the plan whose trials have all ended, at its last complete look; `UserError` if there is none."""
    plan, left = min(((found, found.unfinished()) for found in map(reached, plans)), key=lambda one: len(one[1]))
    if left:
        arm, seed = left[0]
        place = plan.run(arm, seed).folder
        reason = f"{len(left)} of {len(plan.trials())} trials have not ended, for example {arm} seed {seed} ({place})"
        advice = f"Run `{training_command(options)}` first."
        begun = [name for name, words in begun_otherwise(plan).items() if words and len(left) == len(plan.trials())]
        if begun and declared_in(options.study, "STUDY"):
            which = f"A study that was run with --set ({', '.join(begun)})"
            advice += f" {which} cannot be published: its settings must be in its file, such as in at_scale."
        raise UserError(f"{plan.name}: {reason}. {advice}")
    return plan
