"""A study as a user runs it: whole processes, real files, kills at any moment."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import warm

from harness.ablation.design.study import load_study
from harness.cli import main

pytestmark = pytest.mark.slow

ABLATE = [
    "ablate", "weighting", "--seeds", "1", "--workers", "2", "--set", "backbone.channels=8", "--set",
    "backbone.multipliers=[1]", "--set",
    "train.batch_size=32",
    "--set", "train.steps=80", "--set", "train.checkpoint_every=8", "--set", "train.log_every=4",
    "--set", "evaluate.nfe=[1,4]", "--set", "evaluate.num_samples=100",
]  # fmt: skip
ARMS = tuple(load_study("weighting").arms)
LINES = 20 * len(ARMS)
"""The log lines of a finished study: 20 per trial."""


@dataclass
class Interrupted:
    """A study that was killed three times and once asked to stop, and then finished."""

    results: Path
    code: int | None
    """Exit code of the command that was asked to stop."""
    logged: int
    """Log lines after this stop."""
    next: str
    """Output of the next command."""


def signalled(results: Path, lines: int, number: signal.Signals) -> tuple[int | None, str]:
    """Start the study, and signal its whole process group once `lines` lines are logged; return exit
    code and output.
    """
    said = results / "said"
    process = warm.start(ABLATE, results, said)
    while steps_logged(results) < lines:
        assert process.is_alive(), said.read_text()
        time.sleep(0.03)
    os.killpg(process.ident or 0, number)
    process.join(60)
    return process.exitcode, said.read_text()


def steps_logged(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("local/runs/*/metrics.jsonl"))


def table(results: Path, ending: str) -> Path:
    """Return a file of its table; a study with changes has a different name."""
    (found,) = (results / "local" / "tables").glob(f"weighting-digits-??????{ending}")
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an undisturbed study."""
    results = tmp_path_factory.mktemp("unbroken")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["HARNESS_RESULTS"] = str(results)
    command = [sys.executable, "-m", "harness", *ABLATE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return results


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Interrupted:
    """The results of a study that was killed early, asked to stop, killed in the middle and near the end, and then
    finished.
    """
    results = tmp_path_factory.mktemp("interrupted")
    (results / "local").mkdir()
    shutil.copy(empty_store, results / "local" / "mlflow.db")
    signalled(results, 6, signal.SIGKILL)
    code, _ = signalled(results, 25, signal.SIGTERM)
    logged = steps_logged(results)
    _, said = signalled(results, LINES - 45, signal.SIGKILL)  # new trials run before stopped ones
    signalled(results, LINES - 25, signal.SIGKILL)
    last = warm.start(ABLATE, results, results / "said")
    last.join(900)
    assert last.exitcode == 0, (results / "said").read_text()
    return Interrupted(results, code, logged, said)


def test_killed_three_times_the_table_is_that_of_an_unbroken_run(unbroken: Path, interrupted: Interrupted) -> None:
    results = interrupted.results
    for ending in (".csv", "-seeds.csv"):
        assert table(results, ending).read_bytes() == table(unbroken, ending).read_bytes()
        assert table(results, ending).name == table(unbroken, ending).name
    assert steps_logged(results) == steps_logged(unbroken) == LINES


def test_sigterm_saves_and_the_same_command_continues(interrupted: Interrupted) -> None:
    assert interrupted.code == 130
    assert 25 <= interrupted.logged < LINES
    assert "continues from step" in interrupted.next


def test_after_kills_every_trial_is_in_mlflow_once(interrupted: Interrupted) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{interrupted.results / 'local' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(table(interrupted.results, ".csv").stem)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 1 + len(ARMS)
    assert len({run.info.run_name for run in trials}) == len(trials) == len(ARMS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    for trial in trials:
        steps = [point.step for point in client.get_metric_history(trial.info.run_id, "loss")]
        assert steps == list(range(4, 81, 4))
        assert [point.step for point in client.get_metric_history(trial.info.run_id, "fid")] == [1, 4]


def test_a_finished_study_is_not_trained_again(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(unbroken))
    stamps = {path: path.stat().st_mtime_ns for path in unbroken.glob("local/runs/*/checkpoints/*")}
    assert stamps
    assert main(ABLATE) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in unbroken.glob("local/runs/*/checkpoints/*")}


def test_a_changed_study_never_writes_where_the_committed_tables_are(unbroken: Path) -> None:
    assert not (unbroken / "tables").exists()
    endings = ("-seeds.csv", ".csv", ".json", ".md")
    assert {*(unbroken / "local" / "tables").iterdir()} == {table(unbroken, ending) for ending in endings}
    rows = list(csv.DictReader(table(unbroken, ".csv").read_text().splitlines()))
    assert {(row["arm"], row["nfe"]) for row in rows if row["primary"] == "False"} == {
        (arm, nfe) for arm in ARMS for nfe in ("1", "4")
    }
