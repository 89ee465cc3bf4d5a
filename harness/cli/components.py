"""`harness list`: the components of every family, or of one."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.table import Table

from harness.core.fields import hints, range_of
from harness.core.progress import terminal
from harness.core.registry import HOMES, describe, find


def run(options: argparse.Namespace) -> None:
    """Print them, as tables or as JSON."""
    families = {family: describe(family) for family in ([options.family] if options.family else HOMES)}
    if options.json:
        print(json.dumps(families, indent=1))
        return
    console = terminal()
    for family, members in families.items():
        console.print(_table(family, members))


def _table(family: str, members: list[dict[str, Any]]) -> Table:
    columns = ("name", "about", "parameters", "source")
    table = Table(*columns, title=family, title_justify="left", show_lines=True, expand=True)
    for member in members:
        known = hints(find(family, member["name"]))
        allowed = {name: f" in {found}" for name, hint in known.items() if (found := range_of(hint))}
        values = member["parameters"].items()
        parameters = "\n".join(f"{name} = {_default(value)}{allowed.get(name, '')}" for name, value in values)
        table.add_row(member["name"], member["about"], parameters, member["source"])
    return table


def _default(value: Any) -> Any:
    """A parameter's default as `list` shows it: a component by its name."""
    return value["name"] if isinstance(value, dict) else "(needed)" if value is None else value
