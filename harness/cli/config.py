"""`harness config`: lists the settings of a run or a scale with types and ranges, or compares two runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from rich.table import Table

from harness.ablation.design.addresses import find_run
from harness.ablation.design.study import load_scale
from harness.core.config import Config, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.fields import hints, range_of
from harness.core.progress import terminal
from harness.core.registry import Component, build, names
from harness.evaluation.extractors import VALUES
from harness.runs.config import RunConfig

WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def run(options: argparse.Namespace) -> None:
    """Print the settings, or those in which two runs differ, as a table or as JSON."""
    runs = options.runs
    if runs and options.scale:
        raise UserError(f"--scale: {runs[0]} already has a configuration. Leave out one of the two.")
    if len(runs) > 2:
        raise UserError(f"{runs[2]}: one run too many. Give one run, or two to compare.")
    configs = [find_run(name).config for name in runs] or [load_scale(options.scale or "digits")]
    rows = [*(differences(*configs) if len(runs) == 2 else settings(configs[0]))]
    if options.json:
        print(json.dumps(rows, indent=1))
    elif len(runs) == 2:
        _compared(rows, runs)
    else:
        _listed(rows)


def _listed(rows: list[dict[str, Any]]) -> None:
    """Print settings as `--set` takes them, with types and ranges."""
    table = _table("--set", "type or choices, range")
    for row in rows:
        choices = ", ".join(map(as_typed, row["choices"]))
        kind = " ".join(filter(None, [choices or row["type"], row["range"] and f"in {row['range']}"]))
        table.add_row(shlex.quote(f"{row['path']}={as_typed(row['value'])}"), kind)
    terminal().print(table)


def _compared(rows: list[dict[str, Any]], runs: list[str]) -> None:
    """Print the settings in which two runs differ; a run without a setting has an empty cell."""
    if not rows:
        print("no setting differs")
        return
    table = _table("path", *runs)
    for row in rows:
        table.add_row(row["path"], *(as_typed(row[run]) if run in row else "" for run in ("first", "second")))
    terminal().print(table)


def _table(*titles: str) -> Table:
    table = Table(show_header=True, box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", ratio=1)
    return table


def differences(first: Config, second: Config) -> Iterator[dict[str, Any]]:
    """Yield path, first and second value of each setting in which two configurations differ.

    If a component has no such field, the row has no value for its configuration.
    """
    configs = {"first": first, "second": second}
    rows = {name: {row["path"]: row["value"] for row in settings(config)} for name, config in configs.items()}
    paths = [*{**rows["first"], **rows["second"]}]
    fields = [path.partition(".")[0] for path in paths]
    for path in sorted(paths, key=lambda path: fields.index(path.partition(".")[0])):
        values = {name: found[path] for name, found in rows.items() if path in found}
        if len(values) == 1 or values["first"] != values["second"]:
            yield {"path": path, **values}


def settings(config: Config, at: str = "") -> Iterator[dict[str, Any]]:
    """Yield a row for every path of a configuration; the path of a component holds its name, and its fields follow."""
    for name, hint in hints(type(config)).items():
        path = f"{at}.{name}" if at else name
        value = getattr(config, name)
        if not isinstance(value, Config) or isinstance(value, (Component, RunConfig)):
            allowed = range_of(hint)
            yield {
                "path": path,
                "value": _named(value, bool(at)) if isinstance(value, Component) else _plain(value),
                "type": kind_of(hint),
                "choices": choices_of(config, name),
                "range": str(allowed) if allowed else None,
            }
        if isinstance(value, Config) and not isinstance(value, RunConfig):
            yield from settings(value, path)


def _named(component: Component, nested: bool) -> Any:
    """Return a component's name; if it is nested and has required fields, all of it, since `--set` takes it whole."""
    try:
        return component.name if not nested else build(component.family, component.name).name
    except ConfigError:
        return to_dict(component)


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; a component whose fields have their defaults becomes its name."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Component):
        with contextlib.suppress(ConfigError):  # a field without a default
            if build(value.family, value.name) == value:
                return value.name
    return to_dict(value) if isinstance(value, Config) else value


def kind_of(hint: Any) -> str:
    """Return an annotation in words."""
    origin = typing.get_origin(hint)
    inner = typing.get_args(hint)
    if origin is typing.Annotated:
        return kind_of(inner[0])
    if origin in (types.UnionType, typing.Union):
        return f"{kind_of(next(each for each in inner if each is not type(None)))} or null"
    if origin is tuple:
        return f"list, each a {kind_of(inner[0])}"
    if origin is Literal:
        return "choice"
    return WORDS.get(hint) or str(getattr(hint, "family", "configuration"))


def choices_of(config: Config, name: str) -> list[Any]:
    """Return the choices of a field: the words of a literal, or the members of a family."""
    hint = hints(type(config))[name]
    while typing.get_origin(hint) in (typing.Annotated, types.UnionType, typing.Union, tuple):
        hint = next(each for each in typing.get_args(hint) if each not in (type(None), Ellipsis))
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    family = type(config).__dataclass_fields__[name].metadata.get("family") or getattr(hint, "family", None)
    return [*names(family), *([VALUES] if family == "extractor" else [])] if family else []


def as_typed(value: Any) -> str:
    """Return a value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
