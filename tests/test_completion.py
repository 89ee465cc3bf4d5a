"""The completions that a shell gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.ablation.design.folder import scale_names, scales_file
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_study
from harness.core.files import runs_folder, write_json
from harness.core.registry import HOMES, load_file

SCALES = load_file(scales_file(), "harness_scales").SCALES


def offered(line: str, folder: Path) -> tuple[set[str], set[str]]:
    """Return bash's completions of a line, and the packages imported for them."""
    answer = folder / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    place = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    code = [sys.executable, "-X", "importtime", "-m", "harness"]
    ended = subprocess.run(code, env={**os.environ, **asked, **place}, capture_output=True, text=True, check=True)
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    return set(answer.read_text().split("\n")), packages


@pytest.mark.parametrize(
    ("line", "some", "others"),
    [
        ("harness ", {"ablate", "train", "ui"}, {"--help"}),
        ("harness ablate ", {"weighting", "solver"}, {"tuning", "scales", "gallery"}),
        ("harness tune ", {"tuning", "tradeoff"}, {"weighting"}),
        ("harness publish ", {"weighting", "tuning"}, {"scales"}),
        ("harness ablate weighting --s", {"--seeds", "--scale", "--set"}, {"--workers"}),
        ("harness ablate weighting --until ", {"decided"}, set()),
        ("harness train --scale ", set(SCALES), {"weighting"}),
        ("harness list ", set(HOMES), {"weightings"}),
        ("harness sample ", {"0a1b2c-s0", "weighting-digits/min_snr/1"}, {"weighting-digits"}),
        ("harness check stud", {"studies/"}, {"weighting"}),
    ],
)
def test_names_are_completed(line: str, some: set[str], others: set[str], tmp_path: Path) -> None:
    """The completions are existing names, without imports that take seconds."""
    write_json(runs_folder() / "0a1b2c-s0" / "config.json", {})
    Plan.of(load_study("weighting"), "digits", SCALES["digits"], {}, 2, []).write()
    found, packages = offered(line, tmp_path)
    assert some <= found
    assert not others & found
    assert "argcomplete" in packages
    assert not {"torch", "numpy", "rich", "mlflow"} & packages


def test_scales_read_from_the_text_are_those_of_the_module() -> None:
    assert scale_names() == [*SCALES]


def test_every_completed_study_can_be_loaded(tmp_path: Path) -> None:
    for name in offered("harness ablate ", tmp_path)[0]:
        assert load_study(name.strip()).name == name.strip()


def test_completion_costs_nothing_where_nobody_asks() -> None:
    code = "import sys; from harness.cli import main; main(['ablate'])"
    ended = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "argparse" in ended.stderr
    assert "argcomplete" not in ended.stderr


def test_a_wrong_folder_of_studies_completes_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path / "absent"))
    for line in ("harness ablate ", "harness train --scale "):
        names, _ = offered(line, tmp_path)
        assert names == {""}
