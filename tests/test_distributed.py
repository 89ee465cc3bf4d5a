"""Two processes train as one does: the same pairs, times and losses, also if a run continues with another number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from harness.cli import main
from harness.core.checkpoint import read_checkpoint
from harness.core.files import read_json, read_lines

pytestmark = pytest.mark.slow

SETTINGS = {
    "train.steps": 12, "train.batch_size": 32, "train.warmup_steps": 2, "train.log_every": 4,
    "train.checkpoint_every": 4,
    "train.sample_every": 12, "backbone.channels": 8, "backbone.groups": 4, "coupling": "exact_ot", "evaluate.nfe": [1],
}  # fmt: skip
JOBS: dict[str, dict[str, Any]] = {
    "whole batches": {},
    "halves": {"train.accumulate": 2},
    "pairs": {"reflow.rounds": 1, "reflow.number": 64, "reflow.nfe": 4},
}
REFUSED = {"train.batch_size": 33}
DRIVER = """
import json, os, sys
from harness.cli import main
codes = []
for folder, port, words in json.loads(sys.argv[1]):
    os.environ |= {"HARNESS_RESULTS": folder, "MASTER_PORT": port}
    codes.append(main(["train", *words]))
print(json.dumps(codes))
"""
"""One rank of several trainings in sequence, because the start of a process takes longest."""


@dataclass
class Trained:
    """Results of every job with one rank and with two, and the output of the first of the two."""

    one: Path
    two: Path
    said: str


def words(changes: dict[str, Any]) -> list[str]:
    settings = SETTINGS | changes
    return [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]


def free_ports(number: int) -> list[str]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def place(folder: Path, name: str, store: Path) -> Path:
    """Return a results folder for a job, with an empty MLflow store."""
    (folder / name / "local").mkdir(parents=True)
    shutil.copy(store, folder / name / "local" / "mlflow.db")
    return folder / name


def by_two(folder: Path, store: Path) -> str:
    """Train all jobs with two ranks; return the output of both. The last job is refused."""
    jobs = {**JOBS, "refused": REFUSED}
    ports = free_ports(len(jobs))
    given = [
        (str(place(folder, name, store)), port, words(job))
        for (name, job), port in zip(jobs.items(), ports, strict=True)
    ]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, json.dumps(given)],
            env=shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [rank.communicate(timeout=900)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for text in said:
        assert text.splitlines()[-1:] == ["[0, 0, 0, 2]"], "\n".join(said)
    return "\n".join(said)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    """Every job, with one rank in this process and with two ranks in subprocesses."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with pytest.MonkeyPatch.context() as patch:
        for name, job in JOBS.items():
            patch.setenv("HARNESS_RESULTS", str(place(one, name, empty_store)))
            assert main(["train", *words(job)]) == 0
    return Trained(one, two, by_two(two, empty_store))


def of(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    (run,) = (folder / "local" / "runs").iterdir()
    return read_lines(run / "metrics.jsonl"), read_checkpoint(run / "checkpoints", "cpu")[1]


def is_measured(key: str) -> bool:
    return key in ("loss", "grad_norm", "transport_cost", "clipped_share") or key.startswith("loss_by")


@pytest.mark.parametrize("job", ["whole batches", "halves"])
def test_two_ranks_are_one(trained: Trained, job: str) -> None:
    """Log SNR bins count single samples, so they agree only if pairs and times agree."""
    one, weights = of(trained.one / job)
    two, others = of(trained.two / job)
    assert [line["step"] for line in one] == [line["step"] for line in two] == [4, 8, 12]
    for a, b in zip(one, two, strict=True):
        measured = [key for key in a if is_measured(key)]
        assert len(measured) > 8
        assert {key: b[key] for key in measured} == pytest.approx({key: a[key] for key in measured}, rel=1e-4)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6 * JOBS[job].get("train.accumulate", 1))
    for name, value in weights.items():
        if name.startswith(("network/", "averages/")):
            torch.testing.assert_close(others[name], value, rtol=0, atol=1e-4)


def test_a_batch_that_the_ranks_do_not_divide_is_refused_in_a_line(trained: Trained) -> None:
    assert "error: train.batch_size: 33 samples do not divide among 2 micro-batches" in trained.said
    assert "Traceback" not in trained.said


@contextmanager
def two_ranks_training(launcher: str, results: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a long training on two ranks through a launcher module; yield at its first checkpoint."""
    options = ["--standalone", "--nproc-per-node=2", "-m", "harness", "train", *words({"train.steps": 100_000})]
    with subprocess.Popen(
        [sys.executable, "-m", launcher, *options],
        env={**os.environ, "HARNESS_RESULTS": str(results), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(results.glob("local/runs/*/checkpoints/*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process


def test_a_lost_rank_is_reported_in_one_line(tmp_path: Path) -> None:
    """The other rank notices it in the middle of a step; the same command then continues from the last checkpoint."""
    with two_ranks_training("torch.distributed.run", tmp_path) as process:
        os.kill(psutil.Process(process.pid).children()[-1].pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert process.returncode
    assert "error: another rank of this training was lost." in output


def learned(folder: Path) -> tuple[str, str, np.ndarray, list[dict[str, float]]]:
    """Return the names of the pairs and the student, the pairs' samples, and the student's log."""
    (pairs,) = (folder / "local" / "pairs").iterdir()
    runs = (folder / "local" / "runs").iterdir()
    (student,) = [path for path in runs if read_json(path / "config.json")["reflow"]["rounds"]]
    return pairs.name, student.name, np.load(pairs / "x0.npy"), read_lines(student / "metrics.jsonl")


def test_two_ranks_make_pairs_once_and_learn_them_as_one_does(trained: Trained) -> None:
    """The teachers' weights agree up to rounding, and so do the pairs."""
    *names, x0, lines = learned(trained.one / "pairs")
    *other_names, other_x0, other_lines = learned(trained.two / "pairs")
    assert names == other_names
    np.testing.assert_allclose(x0, other_x0, atol=1e-4)
    for key, rel in (("loss", 1e-3), ("transport_cost", 1e-4)):
        assert [line[key] for line in other_lines] == pytest.approx([line[key] for line in lines], rel=rel)


def test_a_stop_under_torchrun_is_reported_once_without_a_traceback(tmp_path: Path) -> None:
    """Every rank gets the signal, the first reports it, and the exit code is that of a stop."""
    with two_ranks_training("harness.training.torchrun", tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.count("stopped at step") == output.count("the same command continues") == 1, output
    assert "Traceback" not in output
    assert "Received" not in output  # nor torch's message about it
