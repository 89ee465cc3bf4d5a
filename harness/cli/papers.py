"""`harness papers`: lists published tables, compares their settings with ours, prints the commands that train a row."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from harness.ablation.design.paper import PaperTable, compare, load_paper, paper_names, shown
from harness.ablation.report.paper_page import STATUSES, counted
from harness.core.errors import UserError, did_you_mean
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Print all tables, or one table's rows, or one row's differences and commands."""
    if options.table is None:
        return _all()
    table = load_paper(options.table)
    if options.row is None:
        return _rows(table)
    if options.row not in table.rows:
        raise UserError(f"'{options.row}' is not a row of {table.name}. {did_you_mean(options.row, table.rows)}")
    _row(table, options.row)


def _all() -> None:
    listed = Table("table", "paper", "rows", box=None, pad_edge=False)
    for name in paper_names():
        table = load_paper(name)
        listed.add_row(name, table.paper, counted({row: compare(table, row) for row in table.rows}))
    terminal().print(listed)
    for status, meaning in STATUSES.items():
        terminal().print(f"- {status}: {meaning}.", soft_wrap=True)


def _rows(table: PaperTable) -> None:
    listed = Table("row", "status", "differs in", title=table.paper, title_justify="left", show_lines=True)
    for row in table.rows:
        compared = compare(table, row)
        listed.add_row(row, compared.status, "\n".join(f"- {why}" for why in compared.why))
    terminal().print(listed)


def _row(table: PaperTable, row: str) -> None:
    """Print the differences, the settings that the authors do not state, and a command for each evaluation."""
    compared = compare(table, row)
    print(f"{table.paper}: {row}: {compared.status}")
    for why in compared.why:
        print(f"- {why}")
    if compared.status == "cannot":
        return
    for path, value in compared.unstated.items():
        print(f"- not stated: {path}, here {shown(value)}")
    for columns, evaluation in table.evaluations.items():
        print(f"\n{columns}:" if columns else "")
        print(command(table.scale, {**table.changes(row), **evaluation}))


def command(scale: str, changes: Mapping[str, Any]) -> str:
    """Return the command that trains a configuration."""
    sets = (f"{path}={_typed(value)}" for path, value in changes.items())
    return shlex.join(["harness", "train", "--scale", scale, *(word for one in sets for word in ("--set", one))])


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
