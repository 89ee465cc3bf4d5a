"""The names that `import harness` gives to a notebook, and the files installed with it."""

from __future__ import annotations

import doctest
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import harness
from harness.core.config import override, to_dict
from harness.core.errors import UserError
from harness.core.files import write_json
from harness.runs.folder import Run

ROOT = Path(__file__).parent.parent


def test_the_first_lines_of_a_notebook_work(tiny_run: Run) -> None:
    (lines,) = doctest.DocTestFinder(recurse=False).find(harness, "harness", extraglobs={"RUN": tiny_run.name})
    assert len(lines.examples) >= 7
    said: list[str] = []
    assert doctest.DocTestRunner().run(lines, out=said.append).failed == 0, "".join(said)


def test_the_import_loads_nothing_heavy_and_every_name_exists() -> None:
    code = "import harness, sys; print('torch' in sys.modules, 'numpy' in sys.modules, *dir(harness)); harness.rnu"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.split() == ["False", "False", *sorted(harness.__all__)]
    assert sorted(harness.__all__) == [
        "RunConfig", "Search", "Study", "build", "load_network", "load_run", "names", "run_study"
    ]  # fmt: skip
    assert [getattr(harness, name).__name__ for name in harness.__all__] == [*harness.__all__]
    assert ended.stderr.endswith("AttributeError: module 'harness' has no attribute 'rnu'\n")


def test_a_run_is_loaded_by_its_name_or_its_directory_alone(tiny_run: Run) -> None:
    """Changes of the evaluation are possible; a configuration that has another name is refused."""
    assert harness.load_run(tiny_run.name) == harness.load_run(tiny_run.folder) == tiny_run
    changed = harness.load_run(tiny_run.folder, {"evaluate.nfe": [4]})
    assert changed == Run(override(tiny_run.config, {"evaluate.nfe": [4]}), tiny_run.folder)
    with pytest.raises(UserError, match=r"^nothing: no such run\. The runs are the folders in "):
        harness.load_run("nothing")
    write_json(tiny_run.folder / "config.json", to_dict(override(tiny_run.config, {"weighting": "edm"})))
    with pytest.raises(UserError, match=f"^{tiny_run.folder}: "):
        harness.load_run(tiny_run.name)


def test_all_packages_and_all_other_files_are_installed() -> None:
    """The others are `py.typed`, without which a type checker ignores the annotations, weights, and templates."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setup["package-dir"] == {"harness_studies": "studies"}
    folders = {
        package: ROOT / package.replace("harness_studies", "studies").replace(".", "/") for package in setup["packages"]
    }
    own = (path for name in ("harness", "studies") for path in (ROOT / name).rglob("*"))
    files = {path for path in own if path.is_file() and "__pycache__" not in path.parts}
    shipped = {path for folder in folders.values() for path in folder.glob("*.py")}
    shipped |= {
        path for name, globs in setup["package-data"].items() for glob in globs for path in folders[name].glob(glob)
    }
    assert ROOT / "harness" / "py.typed" in shipped
    assert files - shipped == {ROOT / "studies" / "README.md", ROOT / "studies" / "papers" / "README.md"}
