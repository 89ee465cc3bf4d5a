"""`harness reflow`: trains and compares rounds of reflow from finished runs; the same command continues them."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from harness.ablation.design import rounds
from harness.ablation.design.addresses import find_run
from harness.ablation.design.plan import Plan
from harness.ablation.execute.placement import given
from harness.cli.plans import carry_out, prepare
from harness.cli.shared import as_typed, own_folder
from harness.core.config import parse_assignments
from harness.core.drawing import spared
from harness.core.progress import terminal
from harness.core.signals import StopSignal
from harness.runs import lineage
from harness.runs.identity import leaving_the_name
from harness.runs.students import guided_twice


def run(options: argparse.Namespace) -> None:
    """Train the rounds and report them, with a picture of the lineage of the last round."""
    console = terminal()
    stop = StopSignal()
    plan = _planned(options, console)
    placement = given(plan, options.workers)
    judge = prepare(plan, console, stop, placement)

    def draw() -> list[Path]:
        picture = own_folder() / "figures" / f"{plan.name}-lineage.png"
        drawn = []
        with spared():
            lineage.draw(lineage.lineage(plan.run(list(plan.arms)[-1], plan.seeds[0])), picture)
            drawn.append(picture)
        return drawn

    carry_out(plan, placement, judge, as_typed(), console, stop, experiment="reflow", more=draw)


def _planned(options: argparse.Namespace, console: Console) -> Plan:
    """Return the plan of the rounds; print its arms, and advice against doubtful ones."""
    changes = parse_assignments(options.changes)
    found = [find_run(name) for name in options.runs]
    finished = [run.opened(leaving_the_name(run.config, changes)) for run in found]
    plan = rounds.plan_of(finished, options.rounds, options.distil, changes, options.plugin)
    for arm, config in plan.arms.items():
        if reason := guided_twice(config):
            console.print(f"- advice for {arm}: {reason}")
    console.print(f"{plan.question}\n{', '.join(plan.arms)}; plan {plan.digest}")
    return plan
