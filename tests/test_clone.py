"""The commands in a fresh clone: a user's results stay out of what is committed until they are published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.environment import ROOT

STUDY = """
from harness.ablation.study import Study

SHORT = {"train.steps": 4, "backbone.channels": 8, "backbone.groups": 4, "evaluate.nfe": [1, 2], "evaluate.num_samples": 64}
STUDY = Study(
    question="Does a larger rate help at once?",
    baseline="small",
    arms={"small": {**SHORT, "train.learning_rate": 1e-4}, "large": {**SHORT, "train.learning_rate": 1e-3}},
    nfe=2,
    seeds=1,
)
"""
COMMANDS = "import sys; from harness.cli import main; sys.exit(max(main(words.split()) for words in sys.argv[1:]))"
COMPARISON = """
from harness.ablation import published
from harness.ablation.study import studies_folder

readme = (studies_folder() / "README.md").read_text()
print(published.__file__)
assert readme == published.readme(readme, published.published_folder() / "tables")
"""

pytestmark = [
    pytest.mark.xdist_group("clone"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout"),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this checkout, as it is committed."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "rate.py"
    path.write_text(STUDY)
    return path


def python(clone: Path, *arguments: str) -> str:
    """What this interpreter says with the clone's code, standing in the clone."""
    mine = {name: value for name, value in os.environ.items() if name not in ("HARNESS_RESULTS", "MLFLOW_TRACKING_URI")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=clone, env={**mine, "PYTHONPATH": str(clone)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed(clone: Path) -> list[str]:
    """The files that git does not ignore and that differ from what is committed."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    lines = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(line[3:] for line in lines)


def test_a_study_leaves_the_clone_clean_and_its_comparison_with_the_tables_true(clone: Path, study: Path) -> None:
    said = python(clone, "-c", COMMANDS, f"ablate {study} --workers 1", f"table {study}")
    assert changed(clone) == []
    assert sorted(path.name for path in (clone / "results" / "local" / "tables").iterdir()) == [
        f"rate-digits.{ending}" for ending in ("csv", "json", "md")
    ]
    assert str(clone / "results" / "local" / "tables" / "rate-digits.md") in said
    assert str(clone) in python(clone, "-c", COMPARISON)


def test_publishing_is_what_changes_the_committed_tables(clone: Path, study: Path) -> None:
    python(clone, "-c", COMMANDS, f"ablate {study} --workers 1", f"publish {study}")
    new = [*(f"results/tables/rate-digits.{ending}" for ending in ("csv", "json", "md")), "results/figures/rate-digits.png"]
    assert changed(clone) == sorted([*new, "studies/README.md"])
    python(clone, "-c", COMPARISON)
    assert "## rate-digits" in (clone / "studies" / "README.md").read_text()
