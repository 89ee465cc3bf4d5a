"""The commands in a fresh clone: a user's results are not in the committed files until they are published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.core.provenance import ROOT

STUDY = """
from harness.ablation.design.study import Study

SHORT = {
    "train.steps": 4, "backbone.channels": 8, "backbone.groups": 4, "evaluate.nfe": [1, 2], "evaluate.num_samples": 64,
}
STUDY = Study(
    question="Does a larger rate help at once?",
    baseline="small",
    arms={"small": {**SHORT, "train.learning_rate": 1e-4}, "large": {**SHORT, "train.learning_rate": 1e-3}},
    nfe=2,
    looks=(3,),
)
"""
DRIVER = """
import json, subprocess, sys
from pathlib import Path
from harness.ablation.report import published
from harness.ablation.report.committed import published_folder
from harness.ablation.design.folder import studies_folder
from harness.cli import main

seen = {"code": published.__file__}
for command in sys.argv[2:]:
    code = main(command.split())
    lines = subprocess.run(["git", "status", "--porcelain", "-uall"], capture_output=True, text=True,
    check=True).stdout.splitlines()
    readme = (studies_folder() / "README.md").read_text()
    seen[command.split()[0]] = {
        "exit code": code,
        "changed": sorted(line[3:] for line in lines),
        "true": readme == published.readme(readme, published_folder() / "tables"),
    }
Path(sys.argv[1]).write_text(json.dumps(seen))
"""
TABLES = [f"tables/rate-digits{ending}" for ending in ("-seeds.csv", ".csv", ".json", ".md")]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the committed state of this checkout."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def seen(clone: Path, empty_store: Path) -> dict[str, Any]:
    """Return the files of each command, run by this interpreter with the clone's code."""
    (clone / "results" / "local").mkdir(parents=True)
    shutil.copy(empty_store, clone / "results" / "local" / "mlflow.db")
    study = clone.with_name("rate.py")
    out = clone.with_name("seen.json")
    study.write_text(STUDY)
    places = ("HARNESS_RESULTS", "HARNESS_STUDIES", "MLFLOW_TRACKING_URI")
    mine = {name: value for name, value in os.environ.items() if name not in places}
    commands = [f"ablate {study} --workers 1", f"table {study}", f"publish {study}"]
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(out), *commands],
        cwd=clone,
        env={**mine, "PYTHONPATH": str(clone)},
        check=True,
        timeout=300,
    )
    return json.loads(out.read_text())


@pytest.mark.parametrize("command", ["ablate", "table"])
def test_a_study_leaves_the_clone_clean_and_its_list_of_verdicts_true(
    seen: dict[str, Any], clone: Path, command: str
) -> None:
    assert str(clone) in seen["code"]
    assert seen[command] == {"exit code": 0, "changed": [], "true": True}
    assert all((clone / "results" / "local" / table).is_file() for table in TABLES)


def test_only_publishing_changes_the_committed_files(seen: dict[str, Any], clone: Path) -> None:
    new = [*TABLES, "figures/rate-digits.png"]
    assert seen["publish"] == {
        "exit code": 0,
        "changed": sorted([*(f"results/{name}" for name in new), "studies/README.md"]),
        "true": True,
    }
    assert "\n## rate-digits\n" in (clone / "studies" / "README.md").read_text()
