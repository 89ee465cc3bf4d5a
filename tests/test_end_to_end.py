"""The main job as a user runs it: whole processes, real files, kills at any moment."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "--seeds", "1", "--workers", "2",
    "--set", "backbone.channels=8", "--set", "train.steps=80", "--set", "train.checkpoint_every=8", "--set", "train.log_every=4",
    "--set", "evaluate.nfe=[1,4]", "--set", "evaluate.num_samples=100",
]  # fmt: skip


def ablate(results: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness", "ablate", "weighting", *SMALL]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "HARNESS_RESULTS": str(results)
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def steps_logged(results: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in results.glob("local/runs/*/metrics.jsonl"))


def table(results: Path, ending: str) -> bytes:
    return (results / "local" / "tables" / f"weighting-digits.{ending}").read_bytes()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study that nothing disturbed."""
    results = tmp_path_factory.mktemp("unbroken")
    finish(ablate(results))
    return results


def kill_when(process: subprocess.Popen, results: Path, lines: int, number: signal.Signals) -> None:
    """Signal the whole process group once so many lines are logged."""
    while steps_logged(results) < lines:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, number)
    process.wait(60)


def test_killed_three_times_the_table_is_that_of_an_unbroken_run(unbroken: Path, tmp_path: Path) -> None:
    for lines in (6, 40, 75):  # of 100: 5 trials x 20 lines
        kill_when(ablate(tmp_path), tmp_path, lines, signal.SIGKILL)
    finish(ablate(tmp_path))
    assert table(tmp_path, "csv") == table(unbroken, "csv")
    assert table(tmp_path, "md") == table(unbroken, "md")
    assert steps_logged(tmp_path) == steps_logged(unbroken) == 100
    assert_every_trial_stands_in_mlflow_once(tmp_path)


def assert_every_trial_stands_in_mlflow_once(results: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'local' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("weighting-digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 6
    assert len({run.info.run_name for run in trials}) == len(trials) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for trial in trials:
        steps = [point.step for point in client.get_metric_history(trial.info.run_id, "loss")]
        assert steps == list(range(4, 81, 4))
        assert [point.step for point in client.get_metric_history(trial.info.run_id, "fid")] == [1, 4]


def test_sigterm_saves_and_the_same_command_continues(unbroken: Path, tmp_path: Path) -> None:
    process = ablate(tmp_path)
    kill_when(process, tmp_path, 20, signal.SIGTERM)
    assert process.returncode == 130
    before = steps_logged(tmp_path)
    assert "continues from step" in finish(ablate(tmp_path))
    assert 20 <= before < 100
    assert table(tmp_path, "csv") == table(unbroken, "csv")


def test_a_finished_study_is_not_trained_again(unbroken: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in unbroken.glob("local/runs/*/checkpoints/*")}
    finish(ablate(unbroken))
    assert stamps == {path: path.stat().st_mtime_ns for path in unbroken.glob("local/runs/*/checkpoints/*")}


def test_a_changed_study_never_writes_where_the_committed_tables_are(unbroken: Path) -> None:
    assert not (unbroken / "tables").exists()
    assert sorted(path.name for path in (unbroken / "local" / "tables").iterdir()) == [
        f"weighting-digits.{ending}" for ending in ("csv", "json", "md")
    ]
    rows = list(csv.DictReader(table(unbroken, "csv").decode().splitlines()))
    assert {(row["arm"], row["nfe"]) for row in rows if row["primary"] == "False"} == {
        (arm, nfe) for arm in ("uniform", "inverse_snr", "data_end", "noise_end", "min_snr") for nfe in ("1", "4")
    }


def test_a_search_ends_with_its_winner_beside_the_default(tmp_path: Path) -> None:
    small = [
        "--set",
        "backbone.channels=8",
        "--set",
        "train.steps=24",
        "--set",
        "evaluate.nfe=[1,32]",
        "--set",
        "evaluate.num_samples=64",
    ]
    command = [
        sys.executable,
        "-m",
        "harness",
        "tune",
        "tuning",
        "--trials",
        "3",
        "--seeds",
        "1",
        "--workers",
        "2",
        *small,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
        "HARNESS_RESULTS": str(tmp_path)
    }

    def said() -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first, tables = said(), tmp_path / "local" / "tables"
    trials = list(csv.DictReader((tables / "tuning-digits-trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in trials] == ["0", "1", "2"]
    arms = {row["arm"] for row in csv.DictReader((tables / "tuning-digits.csv").read_text().splitlines())}
    assert arms == {"default", "tuned"}
    best = min((row for row in trials if row["state"] == "finished"), key=lambda row: float(row["value"]))
    told = " ".join(first.split())
    for path in ("train.learning_rate", "train.batch_size", "train.warmup_steps"):
        assert f"{path} {float(best[path]):g}" in told, "the winner's settings stand under the comparison"
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.glob("local/runs/*/checkpoints/*")}
    said()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("local/runs/*/checkpoints/*")} == weights
