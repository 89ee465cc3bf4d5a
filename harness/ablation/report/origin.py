"""The origin of a table, for the JSON beside it and for its last line."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from harness.core.provenance import machine, named
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.runs.identity import NUMERICS_VERSION

VERSIONS = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
"""Versions of the code that makes a table; another version gives other numbers."""


def provenance(question: str, command: str, commits: Sequence[str]) -> dict[str, Any]:
    """Return the first entries of every table's JSON: question, command and origin."""
    return {"question": question, "command": command, **made_now(commits)}


def made_now(commits: Sequence[str]) -> dict[str, Any]:
    """Return the origin of rows that are made now from runs at these commits: versions, date and machine."""
    return {"commits": commits, **VERSIONS, "date": datetime.date.today().isoformat(), "machine": machine()}


def made_by(command: str, commits: Sequence[str], more: str) -> str:
    """Return the last line of a table's Markdown; `more` is its last sentence."""
    here = machine()
    return (
        f"Made by `{command}` at {named(commits)} on {here['processor']}, {here['cores']} cores, "
        f"accelerator {here['accelerator']}, torch {here['torch']}. {more}"
    )
