"""`harness explain`: a formulation written out, or the arms of a study compared, and the effective weight drawn."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.ablation.design.study import load_scale
from harness.cli.plans import plan_of
from harness.core.config import override, parse_assignments
from harness.core.errors import UserError
from harness.runs.explain import Explained, alike, draw
from harness.runs.validate import refuse_idle


def run(options: argparse.Namespace) -> None:
    """Print what is written out or alike, and draw the picture."""
    if options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} is no .png. Name the picture so.")
    arms = _compared(options) if options.study else _written_out(options)
    draw(arms, options.out)
    print(f"wrote {options.out}: the effective weight over log SNR")


def _compared(options: argparse.Namespace) -> dict[str, Explained]:
    """The arms of a study, after it is said which of them mean the same."""
    console = Console()
    arms = {name: Explained.of(config) for name, config in plan_of(options).arms.items()}
    for line in alike(arms) or ["no two arms share their objective or their weight over log SNR."]:
        console.print(f"- {line}", highlight=False)
    return arms


def _written_out(options: argparse.Namespace) -> dict[str, Explained]:
    """A scale with the changes, after it is printed part by part."""
    changes = parse_assignments(options.changes)
    config = override(load_scale(options.scale), changes)
    refuse_idle(changes, [config])
    explained = Explained.of(config)
    table = Table("part", "formula", "source", show_lines=True)
    for row in explained.lines():
        table.add_row(*map(escape, row))
    Console().print(table)
    return {"": explained}
