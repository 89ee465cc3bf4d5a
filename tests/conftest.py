"""What all tests share: results in a folder of their own, one thread, a run that trains in a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.ablation.study import load_scale
from harness.config import override
from harness.evaluation.protocol import Protocol
from harness.files import write_json
from harness.runs import Run, RunConfig

torch.set_num_threads(1)

Score = Callable[..., None]


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def tiny() -> RunConfig:
    """Digits, 12 steps of a network with 8 channels, judged by 64 samples at NFE 1 and 2."""
    changes = {
        "backbone.channels": 8,
        "backbone.groups": 4,
        "train.steps": 12,
        "train.batch_size": 32,
        "train.warmup_steps": 2,
        "train.device": "cpu",
        "train.log_every": 2,
        "train.checkpoint_every": 3,
        "train.sample_every": 12,
        "evaluate.nfe": [1, 2],
        "evaluate.num_samples": 64,
        "evaluate.batch_size": 32,
    }
    return override(load_scale("digits"), changes)


@pytest.fixture
def score() -> Score:
    """Writes what an evaluation would have left in a run directory: `score(run, protocol, {nfe: fid})`."""

    def write(run: Run, protocol: Protocol, fid: dict[int, float], commits: tuple[str, ...] = ("abc",)) -> None:
        known = run.evaluation(protocol) | {"values": {"fid": {str(nfe): value for nfe, value in fid.items()}}, "commits": list(commits)}
        known |= {"seconds": {str(nfe): 1.0 for nfe in fid}, "time": {str(nfe): 1.75e9 + nfe for nfe in fid}}
        write_json(run.folder / "evaluations" / f"{protocol.digest}.json", known)

    return write
