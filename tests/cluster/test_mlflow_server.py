"""MLflow's server on PostgreSQL, as docs/mlflow.md starts it: a study's runs arrive there whole."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Record

from cluster import machine
from cluster.machine import Service, ServiceError, free_port
from cluster.services import Postgres
from cluster.studies import QUICK, Lab
from harness.core.files import read_json, read_lines

STARTED_S = 300.0
"""Seconds for the server's start: it makes its tables first."""


class MlflowServer(Service):
    """MLflow's server with its records in a database of PostgreSQL, and its files in `folder`."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        super().__init__(folder)
        self.address = f"http://127.0.0.1:{free_port()}"
        self.records = postgres.url("mlflow").replace(f":{postgres.password}@", "@")
        self.environment = {"PGPASSWORD": postgres.password, "MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        places = ["--backend-store-uri", self.records, "--artifacts-destination", str(self.folder / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", port, "--workers", "1"]
        with open(self.folder / "server.log", "wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *places, *where], cwd=self.folder, start_new_session=True,
                env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        machine.wait_until("MLflow answers", self._answers, self.folder, STARTED_S)

    def _answers(self) -> bool:
        if self._server.poll() is not None:
            raise ServiceError(f"MLflow's server ended:\n{machine.ends(self.folder)}")
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def server(postgres: Postgres, tmp_path: Path) -> Iterator[MlflowServer]:
    (folder := tmp_path / "mlflow").mkdir()
    with MlflowServer(folder, postgres) as running:
        yield running


def test_the_runs_of_a_study_are_on_the_server_with_their_values(
    server: MlflowServer, postgres: Postgres, tmp_path: Path
) -> None:
    assert postgres.password not in server.records
    lab = Lab(tmp_path / "study", {}, QUICK)
    lab.environment["MLFLOW_TRACKING_URI"] = server.address
    command = [sys.executable, "-m", "harness", *lab.words, "--workers", "1"]
    said = machine.run(command, lab.environment, cwd=lab.folder)
    assert "MLflow" not in said
    client = MlflowClient(server.address)
    experiments = [found.experiment_id for found in client.search_experiments()]
    records = client.search_runs(experiments)
    assert {record.info.status for record in records} == {"FINISHED"}
    trials = {record.data.tags["run"]: record for record in records if "mlflow.parentRunId" in record.data.tags}
    assert len(records) == len(trials) + 1
    assert [*sorted(trials)] == [folder.name for folder in lab.runs]
    assert len(trials) == 2
    for folder in lab.runs:
        _require_whole(client, trials[folder.name], folder)
    assert not (lab.results / "local" / "mlflow.db").exists()


def _require_whole(client: MlflowClient, record: Record, folder: Path) -> None:
    """Require the values, the losses and the files of a run directory in its record."""
    (evaluation,) = (folder / "evaluations").glob("*.json")
    fid = read_json(evaluation)["values"]["fid"]
    assert {*fid} == {"1", "2"}
    sent = {str(point.step): point.value for point in client.get_metric_history(record.info.run_id, "fid")}
    assert sent == fid
    lines = read_lines(folder / "metrics.jsonl")
    losses = client.get_metric_history(record.info.run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(line["step"], line["loss"]) for line in lines]
    files = {found.path for found in client.list_artifacts(record.info.run_id)}
    assert {"config.json", "environment.json"} <= files
    fetched = Path(client.download_artifacts(record.info.run_id, "config.json", str(folder.parent)))
    assert fetched.read_bytes() == (folder / "config.json").read_bytes()
