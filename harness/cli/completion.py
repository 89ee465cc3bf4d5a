"""Completion in bash and zsh: names of studies, scales, families and runs. Nothing heavy is imported."""

from __future__ import annotations

import itertools
import json
from argparse import Action
from collections.abc import Callable, Iterable
from pathlib import Path

import argcomplete
from argcomplete.completers import FilesCompleter

from harness.ablation.design.folder import declaring, scale_names
from harness.cli.parser import Parser
from harness.core.errors import UserError
from harness.core.files import results_folder, runs_folder
from harness.core.registry import HOMES

DECLARED = {"tune": ("SEARCH",), "publish": ("SEARCH", "STUDY")}
"""{command: its STUDY is a file that assigns one of these variables}; the other commands accept only STUDY."""


def complete(parser: Parser) -> None:
    """Answer the shell with the possible next words, and end the process."""
    for name, command in parser.commands.items():
        for argument in command.arguments:
            if argument.choices is None:
                argument.completer = _completer(argument, name)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _completer(argument: Action, command: str) -> Callable[..., Iterable[str]]:
    """Return a function that lists the possible values of an argument; the list is empty if they cannot be known."""
    if argument.type is Path:
        return FilesCompleter()
    names: dict[str, Callable[[], Iterable[str]]] = {
        "study": lambda: itertools.chain(*map(declaring, DECLARED.get(command, ["STUDY"]))),
        "scale": scale_names,
        "scales": scale_names,
        "family": lambda: HOMES,
        "run": _runs,
        "runs": _runs,
    }

    def known(**_: object) -> list[str]:
        try:
            return [*names.get(argument.dest, list)()]
        except (UserError, OSError, ValueError, SyntaxError):
            return []

    return known


def _runs() -> list[str]:
    """Return the names of the runs on disk, and the addresses of the runs in the stored plans."""
    found = [path.parent.name for path in runs_folder().glob("*/config.json")]
    for path in (results_folder() / "local" / "studies").glob("*/plan.json"):
        plan = json.loads(path.read_text())
        name = path.parent.name.rpartition("-")[0]
        found += [f"{name}/{arm}/{seed}" for arm in plan["arms"] for seed in plan["seeds"]]
    return found
