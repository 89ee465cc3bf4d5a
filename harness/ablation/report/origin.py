"""Where a table comes from, as the JSON beside it says."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from harness.core.provenance import machine
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.runs.identity import NUMERICS_VERSION

VERSIONS = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
"""Of the code that makes a table: another version gives other numbers."""


def provenance(question: str, command: str, commits: Sequence[str]) -> dict[str, Any]:
    """What the JSON of every table begins with."""
    return {"question": question, "command": command, **made_now(commits)}


def made_now(commits: Sequence[str]) -> dict[str, Any]:
    """What rows that are made now, from runs at these commits, come from."""
    return {"commits": commits, **VERSIONS, "date": datetime.date.today().isoformat(), "machine": machine()}


def made_by(command: str, commits: Sequence[str], more: str) -> str:
    """The line that ends the Markdown of a table; `more` says where the rest stands."""
    here = machine()
    return (
        f"Made by `{command}` at commit {', '.join(commits) or 'none'} on {here['processor']}, {here['cores']} cores, "
        f"accelerator {here['accelerator']}, torch {here['torch']}. {more}"
    )
