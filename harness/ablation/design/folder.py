"""The files in studies/ and the names that they declare, read from their text: to import one takes seconds."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from harness.core.provenance import ROOT


def studies_folder() -> Path:
    """HARNESS_STUDIES, or studies/ of the checkout: its files are run, so the folder one stands in does not count."""
    return Path(os.environ.get("HARNESS_STUDIES") or ROOT / "studies")


def file_of(name: str) -> Path:
    """The file of a study or search: its path, where the name ends in .py."""
    return Path(name) if name.endswith(".py") else studies_folder() / f"{name}.py"


def declared_in(name: str, variable: str) -> bool:
    """Whether the file of that name or path assigns to `variable`."""
    path = file_of(name)
    return path.is_file() and f"\n{variable} = " in path.read_text(errors="replace")


def declaring(variable: str) -> list[str]:
    """The names of the files that assign to `variable`, sorted."""
    return sorted(path.stem for path in studies_folder().glob("*.py") if declared_in(path.stem, variable))


def scale_names() -> list[str]:
    """The keys of `SCALES` in scales.py, those that are written out."""
    for node in ast.parse((studies_folder() / "scales.py").read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "SCALES"
            and isinstance(node.value, ast.Dict)
        ):
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []
