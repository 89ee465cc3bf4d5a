"""`harness table`: a study's table from the runs on disk, without training."""

from __future__ import annotations

import argparse

from harness.ablation.design.plan import Plan
from harness.ablation.report.looks import decided, reached
from harness.cli.plans import as_trained, looked_for, plan_of, prepare, report, training_command
from harness.cli.shared import own_folder
from harness.core.errors import UserError
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Print it and write its files; `UserError` when nothing is measured yet."""
    given = plan_of(options)
    console = terminal()
    command = training_command(options)
    plan = next((plan for plan in as_trained(given) if _is_begun(plan)), None)
    if plan is None:
        raise UserError(f"{given.name}: nothing is measured yet. {looked_for(given)} Run `{command}` first.")
    plan = reached(plan) if options.seeds is None else decided(plan)
    report(plan, prepare(plan, console), own_folder(), command, console)


def _is_begun(plan: Plan) -> bool:
    """Whether anything is known of a trial: a value, or why there is none."""
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        protocol = plan.protocol(arm)
        if run.evaluation(protocol)["values"] or run.failure(protocol):
            return True
    return False
