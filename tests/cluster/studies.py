"""Small studies on an engine: a user's command, the trials' processes, and what must be equal at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from cluster.services import RayCluster, Slurm
from harness.core.files import read_json, read_lines

TRIAL = "harness.ablation.execute.trial"
STUDY = """
from harness.ablation.design.study import Study
STUDY = Study(question="Which?", baseline="a", nfe=2, looks=(3,), arms={"a": {}, "b": {"weighting": "snr"}})
"""
QUICK = {"steps": 40, "log_every": 5, "checkpoint_every": 10}
LONG = {"steps": 900, "log_every": 20, "checkpoint_every": 30}
"""A trial of about ten seconds, and five for its start."""
SMALL = (
    "backbone.channels=8", "backbone.multipliers=[1]", "backbone.groups=4", "train.batch_size=32",
    "train.warmup_steps=10", "train.sample_every=100000", "train.threads=1", "train.device=cpu",
    "evaluate.num_samples=64", "evaluate.nfe=[1,2]",
)  # fmt: skip
CHANGING = {"time", "samples_per_second", "coupling_seconds", "mfu"}
"""Entries of a line that differ between two runs of the same training."""


class Lab:
    """A study in a folder, on an engine with this environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str], length: Mapping[str, int], study: str = ""):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.results = folder / "results"
        self.environment = {**os.environ, **environment, "HARNESS_RESULTS": str(self.results), "OMP_NUM_THREADS": "1"}
        (toy := folder / "toy.py").write_text(STUDY)
        changes = [*(f"train.{name}={value}" for name, value in length.items()), *SMALL]
        sets = [word for change in changes for word in ("--set", change)]
        self.words = ["ablate", study or str(toy), "--seeds", "1", *sets]

    def start(self, *words: str, store: str = "mlflow.db") -> subprocess.Popen[str]:
        """Start the command with these further options, and this store of MLflow."""
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *self.words, *words], text=True, cwd=self.folder,
            env={**self.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/{store}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: str, code: int = 0, seconds: float = 300) -> str:
        """Run the command to its end, and return what it printed."""
        return self.end(self.start(*words), code, seconds)

    def end(self, command: subprocess.Popen[str], code: int = 0, seconds: float = 300) -> str:
        """Return what a command printed until its end; the assertion shows it if the exit code is another."""
        said, _ = command.communicate(timeout=seconds)
        assert command.returncode == code, f"{said}\n{self.logs()}"
        return said

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.results.glob("local/studies/*/logs/*.log")))

    @property
    def runs(self) -> list[Path]:
        return sorted(self.results.glob("local/runs/*-s*"))

    def trials(self) -> dict[int, psutil.Process]:
        """Return {number: process} of the trials that run now, on all nodes."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if TRIAL in words and any(word.startswith(str(self.results)) for word in words) and "srun" not in words[0]:
                found[int(words[-1])] = process
        return found

    def wait_for(self, what: str, true: Any, seconds: float = 90) -> Any:
        """Wait until something is true, and return it."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, f"{what}: not within {seconds:g} s\n{self.logs()}"
            time.sleep(0.2)
        return found

    def at_work(self, number: int = 0) -> psutil.Process:
        """Return the process of a trial once it has written two checkpoints."""

        def found() -> psutil.Process | None:
            return self.trials().get(number) if len(self.saved()) >= 2 else None

        process: psutil.Process = self.wait_for(f"trial {number} trains", found)
        return process

    def saved(self) -> list[Path]:
        return [*self.results.glob("local/runs/*/checkpoints/*.safetensors")]

    def owners(self) -> list[dict[str, Any]]:
        """Return what the newest attempts at the trials say of themselves."""
        return [read_json(run / "owner.json") for run in self.runs if (run / "owner.json").exists()]

    def outcome(self) -> dict[str, Any]:
        """Return what must not depend on the engine and its faults: the table, the weights, and the logged values."""
        (table,) = [path for path in self.results.glob("local/tables/*.csv") if "seeds" not in path.name]
        lines = {run.name: read_lines(run / "metrics.jsonl") for run in self.runs}
        values = {
            name: [{key: value for key, value in line.items() if key not in CHANGING} for line in own]
            for name, own in lines.items()
        }
        weights = {
            run.name: max(path.name for path in (run / "checkpoints").glob("*.safetensors")) for run in self.runs
        }
        return {"table": table.read_bytes(), "weights": weights, "values": values}

    def require_whole(self, undisturbed: Mapping[str, Any]) -> None:
        """Require the outcome of an undisturbed study, and no line twice."""
        found = self.outcome()
        for name, lines in found["values"].items():
            doubled = [step for step, times in Counter(line["step"] for line in lines).items() if times > 1]
            assert not doubled, (name, doubled)
        assert found == undisturbed

    def statuses(self) -> set[str]:
        """Return MLflow's words for the states of the trials' runs."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiments = [found.experiment_id for found in client.search_experiments()]
        runs = client.search_runs(experiments)
        return {run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags}


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def restarts(lab: Lab) -> int:
    """Return the largest number of times that Slurm has started a trial again."""
    return max(int(owner.get("restart", 0)) for owner in lab.owners())


def environment_of(engine: Slurm | RayCluster) -> dict[str, str]:
    """Return the environment of commands for an engine."""
    return {**engine.environment, **({"RAY_ADDRESS": engine.address} if isinstance(engine, RayCluster) else {})}
