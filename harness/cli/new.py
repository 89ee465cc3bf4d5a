"""`harness new`: writes a working file to start from, and its test."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shlex
import shutil
import sys
from pathlib import Path

from harness.core.errors import UserError
from harness.core.registry import HOMES, names

SKELETONS = Path(__file__).parent / "skeletons"
"""A working file for each family and for a study, and a test for each kind; `mine` and `Mine` become the chosen name.
The folder is not a package and nothing imports its files, so they register nothing."""


def run(options: argparse.Namespace) -> None:
    """Write both files, unless one exists; print the next commands."""
    family = options.family if options.kind == "component" else options.kind
    _refuse(options.name, family)
    place, test = (options.out / f"{prefix}{options.name}.py" for prefix in ("", "test_"))
    for path in (place, test):
        if path.exists():
            raise UserError(f"{path}: already exists. Choose another name, or another folder with --out.")
    options.out.mkdir(parents=True, exist_ok=True)
    tested = "of_study" if family == "study" else "of_component"
    for path, skeleton in ((place, family), (test, tested)):
        with open(path, "x") as file:
            file.write(_named((SKELETONS / f"{skeleton}.py").read_text(), options.name))
    print(f"wrote {place} and {test}. Next:")
    for tool, *words in (*_tested(test), *_next(place, family, options.name)):
        print(f"  {shlex.join([_installed(tool), *words])}")


def _refuse(name: str, family: str) -> None:
    """`UserError` for a name that a module, a class and a component cannot all have."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"NAME: '{name}' is not a valid module name. Use a-z, 0-9 and _, like my_{family}.")
    if importlib.util.find_spec(name):
        raise UserError(f"NAME: '{name}' is a Python package, which the file would hide. Choose another name.")
    if family in HOMES and name in names(family):
        raise UserError(f"NAME: the {family} '{name}' already exists. Choose another name.")


def _named(text: str, name: str) -> str:
    """Return a skeleton's text with this name."""
    title = "".join(part.capitalize() for part in name.split("_"))
    return re.sub(r"\bmine\b", name, re.sub(r"\bMine", title, text))


def _tested(test: Path) -> list[list[str]]:
    """Return the commands that install pytest, if it is missing, and run the test: without workers, for one file."""
    if not importlib.util.find_spec("pytest"):
        return [["python", "-m", "pip", "install", "pytest"], ["python", "-m", "pytest", str(test)]]
    return [["pytest", *(["-n", "0"] if importlib.util.find_spec("xdist") else []), str(test)]]


def _next(place: Path, family: str, name: str) -> list[list[str]]:
    """Return commands that use the file."""
    if family == "study":
        return [["harness", command, str(place), "--scale", "points"] for command in ("plan", "ablate")]
    used = [f'evaluate.metrics=["{name}"]' if family == "metric" else f"{_SET.get(family, family)}={name}"]
    if family == "perceptual":
        used += ["reflow.distil=true", "evaluate.nfe=[1]"]
    scale = "digits" if family == "extractor" else "points"  # an extractor needs images
    sets = [word for setting in used for word in ("--set", setting)]
    train = ["harness", "train", "--scale", scale, "--plugin", str(place), *sets]
    return [["harness", "check", str(place)], train]


def _installed(tool: str) -> str:
    """Return the name of a tool of this environment, or its path if the shell would not find it by its name."""
    beside = Path(sys.executable).parent / tool
    found = shutil.which(tool)
    if not beside.exists() or (found and Path(found).absolute() == beside.absolute()):
        return tool
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


_SET = {
    "solver": "evaluate.solver",
    "time_grid": "evaluate.time_grid",
    "average": "evaluate.average",
    "extractor": "evaluate.extractor",
    "time_embedding": "backbone.time_embedding",
    "optimizer": "train.optimizer",
    "schedule": "train.schedule",
    "perceptual": "reflow.perceptual",
}
"""{family: the setting of its components}, where the setting is not the family's name."""
