"""`harness train` in a process that a benchmark can disturb, and a comparison of its run with an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.core.checkpoint import read_checkpoint

SETTINGS = {
    "train.threads": 1, "train.steps": 1500, "train.log_every": 20, "train.checkpoint_every": 50,
    "train.sample_every": 500,
}  # fmt: skip
OF_THE_CLOCK = {"time", "samples_per_second", "coupling_seconds", "mfu"}
"""Metrics that depend on the clock; the comparison skips them."""


@dataclass
class Lab:
    """A folder for results, with the undisturbed runs."""

    folder: Path
    kills: int
    undisturbed: dict[int, Path] = field(default_factory=dict)
    """{number of ranks: results folder}"""

    def fresh(self, name: str) -> Path:
        """Return an empty place for a results folder."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def lost(self, results: Path, ranks: int = 1) -> str:
        """Compare a run with the undisturbed run: "nothing", or a description of the difference."""
        if ranks not in self.undisturbed:
            self.undisturbed[ranks] = self.fresh(f"undisturbed-{ranks}")
            Harness(self.undisturbed[ranks], ranks=ranks).end()
        return difference(self.undisturbed[ranks], results)


class Harness:
    """`harness train` in a separate process group."""

    def __init__(self, results: Path, *more: str, ranks: int = 1, uri: str | None = None):
        self.results = results
        self.said = results.with_suffix(".log")
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        settings = [part for path, value in SETTINGS.items() for part in ("--set", f"{path}={value}")]
        changes = [part for change in more for part in ("--set", change)]
        command = [sys.executable, *launcher, "-m", "harness", "train", "--scale", "points", *settings, *changes]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {"HARNESS_RESULTS": str(results)} | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        with open(self.said, "wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def steps(self) -> int:
        """Return the last step logged so far."""
        path = next(self.results.glob("local/runs/*/metrics.jsonl"), None)
        return int(json.loads(lines[-1])["step"]) if path and (lines := whole_lines(path)) else 0

    def wait_for(self, steps: int) -> None:
        """Wait until `steps` steps are logged or the process has ended."""
        while self.steps() < steps and self.process.poll() is None:
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to all processes; return the seconds until the first of them has ended."""
        started = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait()
        return time.perf_counter() - started

    def end(self) -> None:
        """Wait for the end; a failure ends the benchmark."""
        if self.process.wait():
            raise SystemExit(f"harness train failed:\n{self.said.read_text()}")

    def saw(self, *about: str) -> str:
        """Return the terminal's lines that contain one of `about`; without `about`, the last line."""
        lines = [line.strip() for line in self.said.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(line for line in lines if any(part in line for part in about)) if about else lines[-1]


def difference(expected: Path, found: Path) -> str:
    """Compare the runs of two results folders of one run each: "nothing", or a description of the difference."""
    ours, theirs = (next(results.glob("local/runs/*")) for results in (expected, found))
    (step, tensors, _), (other, others, _) = (read_checkpoint(run / "checkpoints", "cpu") for run in (ours, theirs))
    if (step, tensors.keys()) != (other, others.keys()):
        return f"the checkpoint is of step {other}, not {step}"
    if wrong := [name for name, value in tensors.items() if not torch.equal(value, others[name])]:
        return f"{len(wrong)} tensors of the checkpoint, for example {wrong[0]}"
    lines, found_lines = (
        [
            {k: v for k, v in json.loads(line).items() if k not in OF_THE_CLOCK}
            for line in whole_lines(run / "metrics.jsonl")
        ]
        for run in (ours, theirs)
    )
    if lines != found_lines:
        return f"lines of metrics.jsonl ({len(found_lines)} instead of {len(lines)}, or other values)"
    pictures, found_pictures = (
        {path.name: path.read_bytes() for path in (run / "samples").iterdir()} for run in (ours, theirs)
    )
    return "nothing" if pictures == found_pictures else "pictures"


def whole_lines(path: Path) -> Sequence[bytes]:
    """Return a file's lines without a last, unfinished line."""
    return path.read_bytes().rpartition(b"\n")[0].splitlines()


def status(results: Path) -> str:
    """Return the run's status in MLflow; the results folder holds one run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{results / 'local' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id])[0].info.status


@contextlib.contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Make `folder` the results folder of this process."""
    kept = os.environ.get("HARNESS_RESULTS")
    os.environ["HARNESS_RESULTS"] = str(folder)
    try:
        yield
    finally:
        if kept is None:
            del os.environ["HARNESS_RESULTS"]
        else:
            os.environ["HARNESS_RESULTS"] = kept
