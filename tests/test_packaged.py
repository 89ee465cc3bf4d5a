"""This package installed from its wheel, and components of other packages.

The latter are found by entry points, are part of a protocol, and are named in one line when they fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fresh import ROOT, run_fresh

pytestmark = pytest.mark.slow  # an interpreter for each package
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
COMMAND = "import sys; sys.path.insert(0, {folder!r}); from harness.cli import main; sys.exit(main({arguments!r}))"
WEIGHTING = '''
from dataclasses import dataclass
import torch
from harness.components.weightings import Weighting
from harness.runs.config import RunConfig

@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="{name}"):
    """A constant."""

    def weight(self, t, interpolant):
        return torch.full_like(t, 2)
'''
EXTRACTOR = '''
from dataclasses import dataclass
from harness.evaluation.extractors import Extractor

@dataclass(frozen=True, kw_only=True)
class Rows(Extractor, name="rows"):
    """Means over rows."""

    dimensions = 8

    def load(self, device):
        return lambda images: (images.float().mean((1, 3)), None)
'''
JUDGED = """
import json, sys
sys.path.insert(0, {folder!r})
from harness.data.base import load
from harness.data.images import Digits
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.protocol import EvaluateConfig
config = EvaluateConfig(num_samples=100, num_reference=200, batch_size=100, extractor="rows")
data = load(Digits())
judge = Judge(config, data, "cpu")
found = judge([SampleBatch(data.held_out[:100])])
print(json.dumps([judge.protocol.extractor, judge.protocol.sources, found]))
"""


def install(folder: Path, name: str, modules: dict[str, str], points: str) -> Path:
    """Write a distribution with a package of these modules below `folder`, as an installer does."""
    (folder / name).mkdir(parents=True)
    for module, content in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(content)
    about = folder / f"{name}-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA.format(name=name))
    (about / "entry_points.txt").write_text(f"[harness.components]\n{points}\n")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The output of interpreters, each with one installed package."""
    folder = tmp_path_factory.mktemp("packages")
    taken = WEIGHTING.format(name="uniform")
    packages = {
        "good": (
            {"weightings": WEIGHTING.format(name="mine"), "extractors": EXTRACTOR},
            "weightings = good.weightings\nextractors = good.extractors",
        ),
        "broken": ({"it": "import no_such_module"}, "it = broken.it"),
        "absent": ({}, "it = absent.nowhere"),
        "twice": ({"it": taken}, "it = twice.it"),
        "exits": ({"it": "import sys; sys.exit()"}, "it = exits.it"),
    }
    folders = {name: str(install(folder / name, name, *package)) for name, package in packages.items()}
    ask = ["list", "weighting", "--json"]
    pieces = {name: COMMAND.format(folder=path, arguments=ask) for name, path in folders.items()}
    pieces["help"] = COMMAND.format(folder=folders["broken"], arguments=["--help"])
    pieces["judged"] = JUDGED.format(folder=folders["good"])
    return dict(zip(pieces, run_fresh(list(pieces.values()), folder), strict=True))


def test_components_of_a_package_are_found_and_hashed(answers: dict[str, str]) -> None:
    """The first use of any family finds them; their modules may import the harness's configurations."""
    listed = {member["name"]: member["about"] for member in json.loads(answers["good"])["weighting"]}
    assert listed["mine"] == "A constant."
    assert "min_snr" in listed
    extractor, sources, found = json.loads(answers["judged"])
    source = hashlib.sha256(EXTRACTOR.encode()).hexdigest()[:12]
    assert (extractor, sources) == ("rows", {"extractor.rows": source})
    assert found["fid"] > 0


def test_a_package_that_fails_is_named_in_one_line(answers: dict[str, str]) -> None:
    """The error comes where a component is used; the help uses none."""
    advice = "Correct the package, or uninstall it."
    missing = "ModuleNotFoundError: No module named"
    name = "weighting 'uniform' is already taken by harness.components.weightings. Choose another name."
    reasons = {
        "broken": f"it = broken.it: {missing} 'no_such_module'.",
        "absent": f"it = absent.nowhere: {missing} 'absent.nowhere'.",
        "twice": f"it = twice.it: {name}",
        "exits": "it = exits.it: SystemExit.",
    }
    for package, reason in reasons.items():
        assert answers[package] == f"error: {package} 1.2: its entry point {reason} {advice}\nexit code 2\n"
    assert answers["help"].startswith("usage: harness")


MEASURED = """
from harness import Study

STUDY = Study(question="Which?", baseline="even", arms={"even": {}, "mine": {"weighting": "mine_weighs"}}, nfe=2)
"""
QUICK = [
    "train.steps=4", "train.batch_size=32", "evaluate.num_samples=20", "evaluate.num_reference=40", "evaluate.nfe=[2]",
    'evaluate.metrics=["sliced_wasserstein"]',
]  # fmt: skip
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that setuptools builds from a copy of the files that it needs."""
    source = tmp_path_factory.mktemp("source")
    for name in ("harness", "studies"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; build_wheel('built')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (built,) = (source / "built").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Command:
    """Run the wheel's `harness` in an empty folder of somebody's repository, which holds its environment too.

    The environment has the wheel and this one's libraries, but not this checkout.
    """
    project = tmp_path_factory.mktemp("project")
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "b", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    venv.EnvBuilder().create(project / "env")
    (site,) = project.glob("env/lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # a .pth file in there is not read
    folder = project / "empty"
    (folder / "results" / "local").mkdir(parents=True)
    shutil.copy(empty_store, folder / "results" / "local" / "mlflow.db")
    hidden = ("HARNESS_", "MLFLOW_", "PYTHON")
    mine = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(project / "env" / "bin" / "python"), "-P", *words]
        return subprocess.run(command, cwd=folder, env=mine, capture_output=True, text=True, timeout=300)

    said = run("-c", "import harness; print(harness.__file__)")
    assert Path(said.stdout.strip()).is_relative_to(site), said.stderr
    return run


def test_an_installed_wheel_lists_its_studies_and_knows_its_version(installed: Command) -> None:
    listed = json.loads(installed("-m", "harness", "list", "studies", "--json").stdout)
    assert {path.stem for path in (ROOT / "studies").glob("*.py")} >= {*_names(listed)} > {"weighting", "tuning"}
    papers = installed("-m", "harness", "papers", "tong2024_table5")
    assert "Tong et al." in papers.stdout, papers.stderr
    assert installed("-m", "harness", "--version").stdout == f"harness {VERSION}\n"


def _names(listed: object) -> list[str]:
    assert isinstance(listed, dict)
    (members,) = listed.values()
    return [member["name"] for member in members]


def test_an_installed_wheel_trains_a_study_of_the_users_own(installed: Command) -> None:
    """The table names the installed version: the repository around the environment does not hold the code."""
    wrote = installed("-m", "harness", "new", "component", "mine_weighs", "--family", "weighting")
    assert wrote.returncode == 0, wrote.stderr
    folder = Path(installed("-c", "import os; print(os.getcwd())").stdout.strip())
    (folder / "own.py").write_text(MEASURED)
    for stray in ("studies", "harness_studies"):
        (folder / stray).mkdir()
        (folder / stray / "scales.py").write_text("raise SystemExit('a file of the current folder ran')")
    sets = [word for change in QUICK for word in ("--set", change)]
    own = ["ablate", "own.py", "--plugin", "mine_weighs.py", "--scale", "points", "--workers", "1", "--seeds", "1"]
    made = installed("-m", "harness", *own, *sets)
    assert made.returncode == 0, made.stdout + made.stderr
    (table,) = (folder / "results" / "local" / "tables").glob("own-points*.md")
    assert f"` at flow-ablation {VERSION} on " in table.read_text()
    (about,) = (folder / "results" / "local" / "tables").glob("own-points*.json")
    assert json.loads(about.read_text())["commits"] == [f"flow-ablation {VERSION}"]
    assert "make" not in made.stdout.split()


def test_an_installed_wheel_writes_nothing_beside_its_studies(installed: Command) -> None:
    refused = installed("-m", "harness", "publish")
    assert refused.returncode == 2
    assert "these studies belong to the installed package" in refused.stderr
    assert "Set HARNESS_STUDIES to a folder of your own with your studies" in refused.stderr
    examined = installed("-m", "harness", "doctor")
    assert "in versions that the package allows" in examined.stdout, examined.stderr
    assert "make" not in examined.stdout
