"""`harness reflow`: rounds of reflow from finished runs, and their comparison; the same command continues them."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from harness.ablation.design import rounds
from harness.ablation.design.plan import Plan
from harness.ablation.report.tables import judge_references
from harness.cli.shared import as_typed, own_folder, plainly, report, told
from harness.core.config import parse_assignments
from harness.core.errors import UserError
from harness.core.files import locked
from harness.core.signals import StopSignal
from harness.runs import lineage
from harness.runs.folder import Run
from harness.runs.identity import leaving_the_name
from harness.runs.judge import judge_of
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Trial, Watch
from harness.runs.students import guided_twice


def run(options: argparse.Namespace) -> None:
    """Train the rounds, one process at a time, and report them; files and state go to MLflow."""
    console = Console()
    stop = StopSignal()
    plan = _planned(options, console)
    with locked(plan.folder / "lock", wait=False) as ours:
        if not ours:
            raise UserError(f"{plan.name}: another process does these rounds now. Wait for it, or stop it.")
        mirror = Mirror("reflow")
        mirror.close_dead()
        record = mirror.record(plan.folder, plan.name, plan.facts, {"plan": plan.digest})
        record.set_status("RUNNING")
        status = "FAILED"
        files: list[Path] = []
        try:
            with Watch(plan.name, _trials(plan, record.run_id), mirror, console):
                rounds.ensure_all(plan, plainly(console), stop)
            files = _reported(plan, console, stop)
            status = "FINISHED"
        finally:
            record.close("KILLED" if stop() else status, files)


def _planned(options: argparse.Namespace, console: Console) -> Plan:
    """The rounds as a plan, after it is said what they are and what speaks against them."""
    changes = parse_assignments(options.changes)
    given = [Run.open(name, leaving_the_name(Run.find(name).config, changes)) for name in options.runs]
    plan = rounds.plan_of(given, options.rounds, options.distil, changes)
    for arm, config in plan.arms.items():
        if reason := guided_twice(config):
            console.print(f"- advice for {arm}: {reason}", highlight=False)
    console.print(f"{plan.question}\n{', '.join(plan.arms)}; plan {plan.digest}", highlight=False)
    return plan


def _trials(plan: Plan, record: str) -> list[Trial]:
    """Of every arm and seed, below the plan's own `record` in MLflow."""
    return [
        Trial(
            f"{arm} seed {seed}",
            plan.run(arm, seed),
            plan.protocol(arm),
            {"arm": arm, "mlflow.parentRunId": record},
        )
        for arm, seed in plan.trials()
    ]


def _reported(plan: Plan, console: Console, stop: StopSignal) -> list[Path]:
    """Draw the lineage of the last arm, print the tables and write all; returns the paths."""
    picture = own_folder() / "figures" / f"{plan.name}-lineage.png"
    lineage.draw(lineage.lineage(plan.run(list(plan.arms)[-1], plan.seeds[0])), picture)
    references = judge_references(judge_of(plan.arms[plan.baseline], stop=stop))
    files = [*report(plan, references, own_folder(), as_typed(), console), picture]
    for path in files:
        told([path], console)
    return files
