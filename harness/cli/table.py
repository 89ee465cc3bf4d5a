"""`harness table`: makes a study's table from the runs on disk, without training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.report import tables
from harness.ablation.report.findings import Report
from harness.ablation.report.looks import decided, reached
from harness.cli.plans import as_trained, looked_for, on_terminal, plan_of, prepare, report, training_command
from harness.cli.shared import own_folder, told
from harness.core.errors import UserError
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Print the table and write its files; `UserError` if nothing is measured yet.

    With `--format`, standard output holds only the table.
    """
    console = terminal(stderr=options.format is not None)
    command = training_command(options)
    plan = measured(options)

    def printed(made: Report, paths: list[Path], console: Console) -> None:
        pictures = [os.path.relpath(path) for path in paths if path.suffix == ".png"]
        sys.stdout.write(tables.formatted(made, options.format, command, pictures))
        told(paths, console)

    judge = prepare(plan, console)
    report(plan, judge, own_folder(), command, console, show=printed if options.format else on_terminal)


def measured(options: argparse.Namespace) -> Plan:
    """Return the plan that the options name, at its last complete look; `UserError` if nothing is measured yet."""
    given = plan_of(options)
    plan = next((plan for plan in as_trained(given) if _is_begun(plan)), None)
    if plan is None:
        command = training_command(options)
        raise UserError(f"{given.name}: nothing is measured yet. {looked_for(given)} Run `{command}` first.")
    return reached(plan) if options.seeds is None else decided(plan)


def _is_begun(plan: Plan) -> bool:
    """Return whether any trial has a value, or a reason why it has none."""
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        protocol = plan.protocol(arm)
        if run.evaluation(protocol)["values"] or run.failure(protocol):
            return True
    return False
