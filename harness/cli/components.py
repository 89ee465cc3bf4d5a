"""`harness list`: lists the components of all families or of one, the studies, or the scales."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from rich.table import Table

from harness.ablation.design.folder import declared_in, studies_folder
from harness.ablation.design.search import load_search
from harness.ablation.design.study import about_scale, load_scales, load_study
from harness.core.config import Config, to_dict
from harness.core.errors import UserError, did_you_mean
from harness.core.fields import hints, range_of
from harness.core.progress import terminal
from harness.core.registry import HOMES, Component, describe, find


def run(options: argparse.Namespace) -> None:
    """Print the list, as tables or as JSON."""
    if options.family in DECLARED:
        return _declared(options.family, DECLARED[options.family](), options.json)
    if options.family is not None and options.family not in HOMES:
        raise UserError(f"'{options.family}' is not a family. {did_you_mean(options.family, [*HOMES, *DECLARED])}")
    families = {family: described(family) for family in ([options.family] if options.family else HOMES)}
    if options.json:
        print(json.dumps(families, indent=1))
        return
    console = terminal()
    for family, members in families.items():
        console.print(_table(family, members))


def described(family: str) -> list[dict[str, Any]]:
    """Return the rows of `describe`, each with its formula, the ranges of its parameters, and its presets."""
    return [{**row, **_more(find(family, row["name"]))} for row in describe(family)]


def _more(member: type[Component]) -> dict[str, Any]:
    """Return the formula with the names of the parameters, {parameter: its range}, and {preset: field values}."""
    known = hints(member)
    ranges = {name: str(found) for name, hint in known.items() if (found := range_of(hint))}
    presets = {
        name: {path: to_dict(value) if isinstance(value, Config) else value for path, value in values.items()}
        for name, values in member.presets.items()
    }
    return {
        "formula": member.formula.format(**{name: _Symbol(name) for name in known}),
        "ranges": ranges,
        "presets": presets,
    }


class _Symbol(str):
    """A parameter's name that stands in a formula for its value, however the formula formats the value."""

    def __format__(self, spec: str) -> str:
        return str(self)


def _studies() -> list[dict[str, Any]]:
    """Return a row for each study and search in the studies folder; `UserError` names a file that cannot be read."""
    rows = []
    for path in sorted(studies_folder().glob("*.py")):
        if declared_in(path.stem, "STUDY"):
            rows.append({"name": path.stem, "about": load_study(path.stem).question, "command": "ablate"})
        elif declared_in(path.stem, "SEARCH"):
            rows.append({"name": path.stem, "about": load_search(path.stem).question, "command": "tune"})
    return rows


def _scales() -> list[dict[str, Any]]:
    """Return a row for each configuration in scales.py, with its text from ABOUT."""
    rows = []
    for name, config in load_scales().items():
        metric = config.evaluate.metrics[0].label
        facts = f"{config.dataset.name}, {config.backbone.name}, {config.train.steps:,} steps, {metric}"
        rows.append({"name": name, "about": about_scale(name), "facts": facts})
    return rows


DECLARED: dict[str, Callable[[], list[dict[str, Any]]]] = {"studies": _studies, "scales": _scales}


def _declared(kind: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print studies or scales."""
    if as_json:
        print(json.dumps({kind: rows}, indent=1))
        return
    table = Table(*rows[0] if rows else ["name"], title=f"{kind} in {studies_folder()}", title_justify="left")
    for row in rows:
        table.add_row(*row.values())
    terminal().print(table)


def _table(family: str, members: list[dict[str, Any]]) -> Table:
    columns = ("name", "about", "parameters", "source")
    table = Table(*columns, title=family, title_justify="left", show_lines=True, expand=True)
    for member in members:
        allowed = {name: f" in {found}" for name, found in member["ranges"].items()}
        values = member["parameters"].items()
        parameters = "\n".join(f"{name} = {_default(value)}{allowed.get(name, '')}" for name, value in values)
        table.add_row(member["name"], member["about"], parameters, member["source"])
    return table


def _default(value: Any) -> Any:
    """Return a parameter's default as `list` shows it; a component is shown by its name."""
    return value["name"] if isinstance(value, dict) else "(required)" if value is None else value
