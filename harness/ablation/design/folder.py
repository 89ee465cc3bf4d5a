"""Find the files in studies/ and the names that they declare, from their text: an import would take seconds."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from pathlib import Path

from harness.core.errors import UserError, did_you_mean
from harness.core.provenance import ROOT

INSTALLED = ROOT / "harness_studies"
"""Where pip installs studies/, beside `harness`; a checkout has no such folder."""


def studies_folder() -> Path:
    """Return HARNESS_STUDIES, or the studies that came with the code: those of the package or of the checkout.

    The working directory's are never taken unasked: the files are executed.
    """
    own = os.environ.get("HARNESS_STUDIES")
    if own and not Path(own).is_dir():
        raise UserError(f"HARNESS_STUDIES: {own} is not a folder. Set it to the folder of your studies, or unset it.")
    return Path(own) if own else _came_with_the_code()


def scales_file() -> Path:
    """Return the file of scales in `studies_folder`, or the one that came with the code if the folder has none."""
    own = studies_folder() / "scales.py"
    return own if own.exists() else _came_with_the_code() / "scales.py"


def _came_with_the_code() -> Path:
    return INSTALLED if INSTALLED.is_dir() else ROOT / "studies"


def papers_folder() -> Path:
    """The folder of the files that declare tables of papers, and the studies of their claims."""
    return studies_folder() / "papers"


def file_of(name: str) -> Path:
    """Return the file of a study or search, in studies/ or studies/papers/; a name that ends in .py is a path."""
    if name.endswith(".py"):
        return Path(name)
    of_paper = papers_folder() / f"{name}.py"
    return of_paper if of_paper.is_file() else studies_folder() / f"{name}.py"


def declared_in(name: str, variable: str) -> bool:
    """Whether the file with this name or path assigns to `variable`."""
    path = file_of(name)
    return path.is_file() and f"\n{variable} = " in path.read_text(errors="replace")


def declaring(variable: str) -> list[str]:
    """Return the names of the files in studies/ and studies/papers/ that assign to `variable`, sorted."""
    files = (*studies_folder().glob("*.py"), *papers_folder().glob("*.py"))
    return sorted({path.stem for path in files if declared_in(path.stem, variable)})


def scale_names() -> list[str]:
    """Return the keys of `SCALES` in scales.py that are literals."""
    return [str(key.value) for key in _scale_keys(_scales()) if isinstance(key, ast.Constant)]


def refuse_unknown_scale(name: str) -> None:
    """`UserError` if scales.py has no such scale. If its text may not show all names, `load_scale` decides."""
    try:
        text = _scales()
    except (OSError, ValueError, SyntaxError):
        return
    uses = sum(isinstance(node, ast.Name) and node.id == "SCALES" for node in ast.walk(text))
    keys = _scale_keys(text)
    if uses == 1 and keys and all(isinstance(key, ast.Constant) for key in keys) and name not in scale_names():
        raise no_scale(name, scale_names())


def no_scale(name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown scale."""
    return UserError(f"'{name}' is not a known scale. {did_you_mean(name, known)}")


def _scales() -> ast.Module:
    return ast.parse(scales_file().read_text())


def _scale_keys(text: ast.Module) -> list[ast.expr | None]:
    """Return the keys of the dictionary that is assigned to `SCALES`; empty if there is none."""
    for node in text.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "SCALES"
            and isinstance(node.value, ast.Dict)
        ):
            return node.value.keys
    return []
