"""Two processes train as one does: the same pairs, times and losses, whatever the number that a run continues with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.checkpoint import read_checkpoint
from harness.core.files import read_json, read_lines

SETTINGS = {
    "train.steps": 12, "train.batch_size": 32, "train.warmup_steps": 2, "train.log_every": 4, "train.checkpoint_every": 4,
    "train.sample_every": 12, "backbone.channels": 8, "backbone.groups": 4, "coupling": "exact_ot", "evaluate.nfe": [1],
}  # fmt: skip


def train(folder: Path, ranks: int, **changes: object) -> str:
    """Train by `ranks` processes with results below `folder`; what was said."""
    command = [
        sys.executable,
        "-m",
        *(["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []),
    ]
    settings = SETTINGS | {path.replace("__", "."): value for path, value in changes.items()}
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}".replace("'", '"'))]
    environment = {**os.environ, "HARNESS_RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "harness", "train", *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    (run,) = (folder / "local" / "runs").iterdir()
    return read_lines(run / "metrics.jsonl"), read_checkpoint(run / "checkpoints", "cpu")[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_are_one(tmp_path: Path, accumulate: int) -> None:
    """Bins of log SNR are of single samples, so that they agree only where pairs and times do."""
    for ranks in (1, 2):
        train(tmp_path / str(ranks), ranks, train__accumulate=accumulate)
    (one, weights), (two, others) = (of(tmp_path / str(ranks)) for ranks in (1, 2))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [4, 8, 12]
    for a, b in zip(one, two, strict=True):
        measured = [
            key
            for key in a
            if key in ("loss", "grad_norm", "transport_cost", "clipped_share") or key.startswith("loss_by")
        ]
        assert len(measured) > 8
        assert {key: b[key] for key in measured} == pytest.approx({key: a[key] for key in measured}, rel=1e-4)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6 * accumulate)
    for name, value in weights.items():
        if name.startswith(("network/", "averages/")):
            torch.testing.assert_close(others[name], value, rtol=0, atol=1e-4)


def test_a_batch_that_the_ranks_do_not_divide_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match=r"error: train\.batch_size: 33 samples do not divide among 2 micro-batches"
    ):
        train(tmp_path, 2, train__batch_size=33)


def test_a_lost_rank_is_said_in_a_line(tmp_path: Path) -> None:
    """The other hears of it in the midst of a step; the same command then goes on from the last checkpoint."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "harness",
        "train",
    ]
    settings = SETTINGS | {"train.steps": 100_000}
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    environment = {**os.environ, "HARNESS_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while (
            not list(tmp_path.glob("local/runs/*/checkpoints/*"))
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert process.returncode
    assert "error: another rank of this training was lost." in output


def test_two_ranks_make_pairs_once_and_learn_them_as_one_does(tmp_path: Path) -> None:
    """The teacher's weights agree to rounding, and so do its pairs."""
    found = {}
    for ranks in (1, 2):
        train(tmp_path / str(ranks), ranks, reflow__rounds=1, reflow__number=64, reflow__nfe=4)
        local = tmp_path / str(ranks) / "local"
        (pairs,) = (local / "pairs").iterdir()
        (student,) = [
            path for path in (local / "runs").iterdir() if read_json(path / "config.json")["reflow"]["rounds"]
        ]
        found[ranks] = pairs.name, np.load(pairs / "x0.npy"), student.name, read_lines(student / "metrics.jsonl")
    (name, x0, student, lines), (other_name, other_x0, other_student, other_lines) = found.values()
    assert (name, student) == (other_name, other_student)
    np.testing.assert_allclose(x0, other_x0, atol=1e-4)
    assert [line["loss"] for line in other_lines] == pytest.approx([line["loss"] for line in lines], rel=1e-3)
    assert [line["transport_cost"] for line in other_lines] == pytest.approx(
        [line["transport_cost"] for line in lines], rel=1e-4
    )
