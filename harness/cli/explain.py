"""`harness explain`: prints the formulas of a configuration, or compares arms; draws the effective weight."""

from __future__ import annotations

import argparse

from rich.table import Table

from harness.ablation.design.study import load_scale
from harness.cli.plans import plan_of
from harness.core.config import override, parse_assignments
from harness.core.errors import UserError
from harness.core.progress import terminal
from harness.runs.explain import Explained, compared, draw, percent
from harness.runs.validate import refuse_idle


def run(options: argparse.Namespace) -> None:
    """Draw the picture; print the formulas, or the comparison of the arms."""
    if options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} must end in .png.")
    arms = _of_study(options) if options.study else {"": _of_scale(options)}
    draw(arms, options.out)
    if options.study:
        _compare(arms)
    else:
        _write_out(arms[""])
    print(f"wrote {options.out}: the effective weight over log SNR")


def _of_study(options: argparse.Namespace) -> dict[str, Explained]:
    """Return the arms of the study."""
    return {name: Explained.of(config) for name, config in plan_of(options, found=False).arms.items()}


def _of_scale(options: argparse.Namespace) -> Explained:
    """Return the scale with the changes."""
    changes = parse_assignments(options.changes)
    config = override(load_scale(options.scale), changes)
    refuse_idle(changes, [config])
    return Explained.of(config)


def _compare(arms: dict[str, Explained]) -> None:
    """Print the effective share of a batch of each arm, and which arms mean the same."""
    console = terminal()
    table = Table("arm", "effective share of a batch")
    for name, arm in arms.items():
        table.add_row(name, percent(arm.effective_share()))
    console.print(table)
    for line in compared(arms):
        console.print(f"- {line}")


def _write_out(explained: Explained) -> None:
    """Print a formulation part by part."""
    table = Table("part", "formula", "source", show_lines=True)
    for row in explained.lines():
        table.add_row(*row)
    terminal().print(table)
