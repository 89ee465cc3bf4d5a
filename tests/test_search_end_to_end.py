"""A search as a user runs it: in separate processes, then the same command again."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import warm

from harness.cli import main
from harness.core.files import locked

pytestmark = pytest.mark.slow

TUNE = [
    "tune", "tuning", "--trials", "3", "--seeds", "1", "--workers", "2", "--set", "backbone.channels=8",
    "--set", "backbone.multipliers=[1]",
    "--set", "train.steps=150", "--set", "evaluate.nfe=[1,32]", "--set", "evaluate.num_samples=64",
    "--set", "evaluate.more_samples=[]",
]  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def weights(results: Path) -> dict[Path, int]:
    """Return the modification time of each checkpoint."""
    return {path: path.stat().st_mtime_ns for path in results.glob("local/runs/*/checkpoints/*")}


def test_a_search_ends_with_its_winner_compared_with_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    process = warm.start(TUNE, tmp_path, said)
    process.join(900)
    assert process.exitcode == 0, said.read_text()
    tables = tmp_path / "local" / "tables"
    trials = rows(tables / "tuning-digits-trials.csv")
    assert [row["trial"] for row in trials] == ["0", "1", "2"]
    (compared,) = tables.glob("tuning-digits-[0-9a-f]?????.csv")  # the comparison has changes and a different name
    assert {row["arm"] for row in rows(compared)} == {"default", "tuned"}
    best = min((row for row in trials if row["state"] == "finished"), key=lambda row: float(row["value"]))
    told = " ".join(said.read_text().split())
    for path in ("train.learning_rate", "train.batch_size", "train.warmup_steps"):
        assert f"{path} {float(best[path]):g}" in told, "the winner's settings stand under the comparison"
    written = weights(tmp_path)
    assert written
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    assert main(TUNE) == 0
    assert weights(tmp_path) == written


HYPERBAND = """
from harness.ablation.design.search import Search
from harness.ablation.design.space import log

SEARCH = Search(
    question="Which rate?", spaces={"points": {"train.learning_rate": log(1e-4, 1e-1)}}, pruner="hyperband", trials=8,
)
"""
SMALL = [
    "--scale", "points", "--seeds", "1", "--workers", "2", "--set", "train.steps=100",
    "--set", "train.checkpoint_every=20", "--set", "evaluate.num_samples=64",
    "--set", "evaluate.metrics=[\"sliced_wasserstein\"]",
]  # fmt: skip


@pytest.mark.parametrize("name", ["tradeoff", "halving"])
def test_a_search_that_is_killed_as_a_whole_goes_on(
    name: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two objectives, and with Hyperband: finished trials keep their values, and the same command finishes the
    rest.
    """
    (file := tmp_path / "halving.py").write_text(HYPERBAND)
    tune = ["tune", "tradeoff", "--trials", "6"] if name == "tradeoff" else ["tune", str(file)]
    said = tmp_path / "said"
    (tmp_path / "local").mkdir()
    shutil.copy(empty_store, tmp_path / "local" / "mlflow.db")
    process = warm.start([*tune, *SMALL], tmp_path, said)
    while len(list(tmp_path.glob("local/runs/*/evaluations/*.json"))) < 3:
        assert process.is_alive(), said.read_text()
        time.sleep(0.02)
    os.kill(process.ident or 0, signal.SIGKILL)
    process.join(60)
    (folder,) = tmp_path.glob("local/studies/*-search-*")
    with locked(folder / "lock"):  # its workers, which are forks, notice its death
        pass
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    assert main([*tune, *SMALL]) == 0, capsys.readouterr().err
    trials = rows(tmp_path / "local" / "tables" / f"{name}-points-trials.csv")
    assert len(trials) == (6 if name == "tradeoff" else 8)
    finished = [row for row in trials if row["state"] == "finished"]
    (compared,) = (tmp_path / "local" / "tables").glob(f"{name}-points-[0-9a-f]?????.csv")
    arms = {row["arm"] for row in rows(compared)}
    if name == "tradeoff":
        best = min(finished, key=lambda row: (float(row["value"]), float(row["calls"])))
        assert best["on the front"] == "True"
        assert {"default", "best"} <= arms <= {"default", "best", "knee", "cheapest"}
        assert (tmp_path / "local" / "figures" / "tradeoff-points-front.png").is_file()
    else:
        assert arms == {"default", "tuned"}
        assert all(row["at 25"] for row in trials), "each was looked at at the first rung"
    written = weights(tmp_path)
    assert main([*tune, *SMALL]) == 0
    assert weights(tmp_path) == written


def workers(process: int) -> list[int]:
    return [child.pid for child in psutil.Process(process).children()]


def test_a_search_whose_workers_are_killed_reports_it_and_ends(tmp_path: Path, empty_store: Path) -> None:
    said = tmp_path / "said"
    (tmp_path / "local").mkdir()
    shutil.copy(empty_store, tmp_path / "local" / "mlflow.db")
    process = warm.start(TUNE, tmp_path, said)
    killed = list[int]()
    for number in range(2):
        while len(list(tmp_path.glob("local/runs/*/metrics.jsonl"))) <= number:
            assert process.is_alive(), said.read_text()
            time.sleep(0.02)
        living = [pid for pid in workers(process.ident or 0) if pid not in killed]  # the first may still be a zombie
        killed.append(living[0])
        os.kill(living[0], signal.SIGKILL)
    process.join(900)
    told = said.read_text()
    assert process.exitcode == 0, told
    assert told.count("was killed by SIGKILL (did memory run out?)") == 2
    assert told.count("Another takes its place") == 2
    trials = rows(tmp_path / "local" / "tables" / "tuning-digits-trials.csv")
    assert len(trials) == 3
