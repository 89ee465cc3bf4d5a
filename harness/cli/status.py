"""`harness status`: arms and seeds of a study that this or another machine runs; it reads, and holds no lock."""

from __future__ import annotations

import argparse
import time

from rich.console import Console

from harness.ablation.design.folder import declared_in
from harness.ablation.design.plan import Plan
from harness.ablation.report.progress import State, grids, states, told
from harness.cli.plans import as_trained, looked_for, plan_of, training_command
from harness.core.errors import UserError
from harness.core.progress import terminal

EVERY_S = 5.0
"""Seconds between two looks of --watch."""


def run(options: argparse.Namespace) -> None:
    """Print the states of the trials; with --watch, again and again until all have ended."""
    if declared_in(options.study, "SEARCH"):
        raise UserError(
            f"{options.study}: is a search, without arms and seeds. `harness tune` and MLflow show its trials."
        )
    console = terminal()
    while True:
        plan = last_of(options)
        found = states(plan)
        if options.watch and console.is_terminal:
            console.clear()
        show(plan, found, console)
        if not options.watch or all(state.word in ("ended", "failed") for state in found):
            return
        time.sleep(EVERY_S)


def show(plan: Plan, found: list[State], console: Console) -> None:
    """Print the tables, and the sentence about the study."""
    for grid in grids(plan, found):
        grid.show(console)
    console.print(told(plan, found), soft_wrap=True)


def last_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options name, with the seeds of the last command; `UserError` if none has begun it."""
    given = plan_of(options)
    begun = [(plan, place) for plan in as_trained(given) if (place := plan.folder / Plan.FILE).exists()]
    if begun:
        plan, place = max(begun, key=lambda one: one[1].stat().st_mtime)  # the first of equals is on the nodes
        last = Plan.read(place)
        seeds = plan.seeds if options.seeds is not None else last.seeds
        return plan.so_far(seeds, last.closed)
    raise UserError(
        f"{given.name}: no command has begun it. {looked_for(given)} Run `{training_command(options)}` first."
    )
