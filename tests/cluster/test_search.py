"""A search whose trials run on Slurm's nodes and live in PostgreSQL, which stops for a minute."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from cluster.services import Postgres, RayCluster, Slurm
from cluster.studies import SMALL, Lab, environment_of, kill
from harness.core.files import read_json

SEARCH = """
from harness.ablation.design.search import Search
from harness.ablation.design.space import log
SEARCH = Search(
    question="Which rate?", spaces={"digits": {"train.learning_rate": log(1e-4, 1e-2)}}, nfe=2, trials=4, looks=(3, 5),
    samples=64, rungs=3, seed=1000,
)
"""
OUTAGE_S = 60.0


def searching(lab: Lab, steps: int) -> None:
    """Let the lab's command be a search of four trials."""
    (search := lab.folder / "rates.py").write_text(SEARCH)
    changes = [f"train.steps={steps}", "train.checkpoint_every=50", "train.log_every=20", *SMALL]
    lab.words = ["tune", str(search), "--seeds", "1", *(word for change in changes for word in ("--set", change))]


def lines(lab: Lab) -> int:
    return sum(len((run / "metrics.jsonl").read_text().splitlines()) for run in lab.runs)


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_a_search_survives_a_database_that_is_away(
    engine: str, postgres: Postgres, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Training goes on, each value arrives once, and a killed trial goes on in its slot."""
    cluster: Slurm | RayCluster = request.getfixturevalue("slurm" if engine == "slurm" else "ray_cluster")
    lab = Lab(tmp_path, environment_of(cluster), {})
    searching(lab, 1500)
    store = postgres.url(f"searches_{engine}")
    lab.environment["HARNESS_STORE"] = store
    command = lab.start("--launcher", engine, "--jobs", "2")
    try:
        kill(lab.at_work(0))
        lab.wait_for("the trial is back", lambda: 0 in lab.trials(), 40)
        postgres.stop_server()
        before = lines(lab)
        time.sleep(OUTAGE_S)
        assert lines(lab) > before
    finally:
        postgres.start_server()
    said = lab.end(command)
    assert "does not answer: training goes on, and values wait." in said + lab.logs()
    (name,) = optuna.get_all_study_names(store)
    trials = optuna.load_study(study_name=name, storage=store).get_trials()
    assert sorted(trial.user_attrs["slot"] for trial in trials) == [0, 1, 2, 3]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({trial.params["train.learning_rate"] for trial in trials}) == 4
    told = {trial.user_attrs["run"]: trial.value for trial in trials if trial.state == TrialState.COMPLETE}
    measured = {run.name: values(run) for run in lab.runs}
    assert told.items() <= measured.items()
    for path in lab.results.rglob("*"):
        assert not path.is_file() or postgres.password.encode() not in path.read_bytes(), path
    assert postgres.password not in said


def values(run: Path) -> float | None:
    """Return a run's FID at NFE 2, if it was evaluated."""
    found = [read_json(path)["values"]["fid"]["2"] for path in (run / "evaluations").glob("*.json")]
    return found[0] if found else None
