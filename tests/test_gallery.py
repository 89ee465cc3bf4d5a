"""`harness gallery`: a run changes only local files, and publishing replaces only the rows of the trained scales."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.ablation.report import gallery
from harness.ablation.report.grid import titled
from harness.ablation.report.origin import VERSIONS
from harness.cli import main
from harness.core.config import override
from harness.core.errors import Diverged, UserError
from harness.core.files import results_folder, write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run

COMMITTED = Path(__file__).parent.parent / "results"
TINY = {
    "backbone.channels": 8, "backbone.groups": 4, "train.steps": 4, "train.batch_size": 32, "train.sample_every": 4,
    "train.threads": 1, "evaluate.nfe": [1], "evaluate.num_samples": 64,
}  # fmt: skip


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the committed gallery, to which the command publishes."""
    folder = tmp_path / "committed"
    (folder / "tables").mkdir(parents=True)
    for ending in ("csv", "json", "md"):
        shutil.copy(COMMITTED / "tables" / f"gallery.{ending}", folder / "tables")
    monkeypatch.setattr("harness.cli.gallery.publishing_folder", lambda: folder)
    return folder


def by_scale(folder: Path) -> dict[str, list[str]]:
    """Return {scale: its rows in the CSV}, in order."""
    found: dict[str, list[str]] = {}
    for line in (folder / "tables" / "gallery.csv").read_text().splitlines()[1:]:
        found.setdefault(line.partition(",")[0], []).append(line)
    return found


@pytest.mark.slow
def test_a_run_stays_local_and_publishing_it_keeps_the_other_rows(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gallery.scales(), "digits", TINY)
    before = by_scale(committed)
    texts = (committed / "tables" / "gallery.csv").read_bytes()
    assert main(["gallery", "digits", "--publish"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: digits: its run has not finished (looked in ")
    assert said.endswith("). Run `harness gallery digits` first.\n")
    assert main(["gallery", "digits"]) == 0
    own = by_scale(results_folder() / "local")
    assert list(own) == ["digits"]
    assert not (results_folder() / "tables").exists()
    assert (committed / "tables" / "gallery.csv").read_bytes() == texts
    assert main(["gallery", "--publish", "digits"]) == 0
    after = by_scale(committed)
    assert after == before | own
    assert list(after) == list(before)
    assert own["digits"] != before["digits"]
    scales = json.loads((committed / "tables" / "gallery.json").read_text())["scales"]
    assert VERSIONS.items() <= scales["digits"].items()
    text = (committed / "tables" / "gallery.md").read_text()
    stale = [
        scale for scale, about in scales.items() if about.get("evaluation_version", 1) < VERSIONS["evaluation_version"]
    ]
    assert "digits" not in stale
    assert (f"made the rows of {', '.join(stale)}:" in text) == bool(stale)
    assert (committed / "figures" / "gallery-digits.png").is_file()


def test_a_scale_without_a_value_and_one_without_a_picture_lose_no_row_of_the_others(
    tiny: RunConfig, score: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One scale diverged and is left out; the last picture of another could not be drawn."""
    bad = override(tiny, {"seed": 1})
    scales = {"bad": bad, "good": tiny}
    monkeypatch.setattr(gallery, "scales", lambda: {name: {} for name in scales})
    monkeypatch.setattr("harness.cli.gallery.load_scale", scales.__getitem__)
    for config in scales.values():
        write_json(Run.of(config).folder / "environment.json", {"commits": [], "parameters": 1, "weight_mean": 1.0})

    def ensure(config: RunConfig, *_: object) -> None:
        if config == bad:
            raise Diverged("the loss is nan at step 2.")
        score(Run.of(config), config.protocol(), {1: 9.0, 2: 7.0})

    monkeypatch.setattr("harness.cli.gallery.ensure", ensure)
    assert main(["gallery"]) == 0
    assert list(by_scale(results_folder() / "local")) == ["good"]
    told = capsys.readouterr()
    assert "bad is left out: the loss is nan at step 2.\n" in told.out
    picture = Run.of(tiny).folder / "samples" / f"step-{tiny.train.steps:07d}.png"
    line = f"{picture}: there is no such picture. The gallery is written without it."
    assert told.err.splitlines()[-1] == line  # after MLflow's possible messages about its tables
    assert main(["gallery", "bad"]) == 2
    assert "gallery: no scale has finished, so there is nothing to write. The lines above" in capsys.readouterr().err


def test_rows_are_replaced_by_scale_and_new_ones_come_last(committed: Path) -> None:
    before = by_scale(committed)
    for scale in ("cells", "mine", "digits_dit", "mine"):
        found = [(scale, "fid", 8, 1.25, None, 2.5, 300.0), (scale, "kid", 8, 0.5, 0.25, 0.125, 1.0)]
        gallery.write(committed, found, {scale: {"run": "x", **VERSIONS}})
        before[scale] = [f"{scale},fid,8,1.25,,2.5,300.0", f"{scale},kid,8,0.5,0.25,0.125,1.0"]
        assert by_scale(committed) == before, scale
        assert list(by_scale(committed)) == list(before), scale
    about = committed / "tables" / "gallery.json"
    known = json.loads(about.read_text())
    del known["scales"]["cells"]
    write_json(about, known)
    with pytest.raises(UserError, match=rf"^{about}: cannot be read \(its entry scales\.cells is missing\)\. Restore"):
        gallery.write(committed, found, {"mine": {"run": "x", **VERSIONS}})
    assert by_scale(committed) == before


def test_the_committed_table_for_people_has_the_numbers_of_the_csv() -> None:
    rows = (COMMITTED / "tables" / "gallery.md").read_text().splitlines()
    frame = pd.read_csv(COMMITTED / "tables" / "gallery.csv")
    for row in frame.itertuples():
        line = next(line for line in rows if line.startswith(f"| {row.scale} | {titled(str(row.metric))} "))
        assert float(line.split("|")[4]) == pytest.approx(row.value, abs=5.1e-5), line


def test_a_folder_of_studies_without_a_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a folder names no scale; scales named in the command run unchanged."""
    (tmp_path / "scales.py").write_text("SCALES = {}\n")
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path))
    assert main(["gallery"]) == 2
    advice = "Add one there, or name one here: `harness gallery digits`."
    assert capsys.readouterr().err == f"error: {tmp_path / 'gallery.py'}: GALLERY names no scale. {advice}\n"
    assert main(["gallery", "digits"]) == 2
    assert capsys.readouterr().err == "error: 'digits' is not a known scale. There are none.\n"
