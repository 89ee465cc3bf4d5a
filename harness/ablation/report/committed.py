"""The committed tables: where they are, how their files are read, and which an earlier version of the code made."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from typing_extensions import TypedDict

from harness.ablation.design.folder import INSTALLED, studies_folder
from harness.ablation.report.origin import VERSIONS
from harness.core.errors import UserError
from harness.core.files import read_json
from harness.core.reading import Damaged, bytes_of

EARLIER = "An earlier version of the code made"
RESTORED = "Restore it from the repository, or publish its study again."
"""The remedy for a damaged file of a committed table."""


class Version(TypedDict, total=False):
    """Versions of the code that made rows."""

    numerics_version: int
    evaluation_version: int


class Made(Version, total=False):
    """Entries that the JSON beside every table may have."""

    scales: dict[str, Version]


def published_folder() -> Path:
    """Return results/ beside studies/, whose tables/ and figures/ are committed."""
    return studies_folder().absolute().parent / "results"


def publishing_folder() -> Path:
    """Return `published_folder` to write into it; `UserError` beside the studies of an installed package."""
    if studies_folder().absolute() == INSTALLED:
        raise UserError(
            f"{INSTALLED}: these studies belong to the installed package, and nothing is published beside them. "
            "Set HARNESS_STUDIES to a folder of your own with your studies: the results/ beside it gets the table."
        )
    return published_folder()


def text_of(path: Path) -> str:
    """Read a committed text; `UserError` where it cannot be read."""
    try:
        return bytes_of(path).decode()
    except (Damaged, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Restore it from the repository.") from error


def read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read a committed table; `UserError` without these columns and kinds. An empty column counts as any kind."""
    try:
        rows = pd.read_csv(io.BytesIO(bytes_of(path)))
        for name, kinds in columns.items():
            if name not in rows:
                raise Damaged(f"it has no column {name}")
            if rows[name].dtype.kind not in kinds and rows[name].notna().any():
                raise Damaged(f"its column {name} holds {rows[name].dtype}")
    except (Damaged, ValueError, OverflowError) as error:  # the second are pandas's, and texts in no UTF-8
        raise UserError(f"{path}: cannot be read ({str(error).strip()}). {RESTORED}") from error
    return rows


def earlier(about: Mapping[str, Any]) -> str | None:
    """Return the line that marks a table of an earlier version, given its JSON; None for the current version.

    A table of several `scales` has a version for each. A JSON without a version is of version 1.
    """
    scales = about.get("scales", {"": about})
    older = [name for name, scale in scales.items() if any(scale.get(key, 1) < now for key, now in VERSIONS.items())]
    which = "this table" if len(older) == len(scales) else f"the rows of {', '.join(older)}"
    return f"{EARLIER} {which}: the same command gives other numbers now." if older else None


def is_current(table: Path) -> bool:
    """Whether this version of the code made all rows of a table, given the path of any of its files."""
    return not earlier(read_json(table.with_suffix(".json"), Made, RESTORED))
