"""`harness toy` with a fraction of the work: a short training ends with noise in the samples, and the files are
written.
"""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console
from typed import tensor

from harness.ablation.design.study import load_study
from harness.ablation.execute import toy
from harness.ablation.report.toy import FILES
from harness.cli import main
from harness.core import progress
from harness.core.config import override
from harness.core.errors import Stopped, UserError
from harness.core.files import npz, results_folder
from harness.core.registry import build
from harness.core.signals import Stop
from harness.data.base import Data, Dataset, load

TABLES = Path(__file__).parent.parent / "results" / "tables"


def few(dataset: Dataset) -> Data:
    """Return a quarter of the points."""
    return load(override(dataset, {"number": 2500}))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two combinations on each data set, trained for a moment."""
    monkeypatch.setattr(toy, "TRAIN", override(toy.TRAIN, {"steps": 200, "batch_size": 64, "warmup_steps": 10}))
    monkeypatch.setattr(toy, "names", lambda family: ["linear"])
    monkeypatch.setattr(toy, "PREDICTIONS", ("velocity", "edm"))
    monkeypatch.setattr(toy, "load", few)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_it_writes_the_table_and_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = results_folder() / "local"
    committed = tmp_path / "committed"
    monkeypatch.setattr("harness.cli.toy.publishing_folder", lambda: committed)
    monkeypatch.setattr("harness.cli.toy.renew", list)
    assert main(["toy", "--publish"]) == 2
    assert capsys.readouterr().err.endswith("toy.csv: no such file. Run `harness toy` first.\n")
    assert main(["toy"]) == 0
    assert "real points" in capsys.readouterr().out
    assert not committed.exists()
    assert not (results_folder() / "tables").exists()
    assert main(["toy", "--publish"]) == 0
    for name in FILES:
        assert (committed / name).read_bytes() == (own / name).read_bytes(), name
    frame = pd.read_csv(own / "tables" / "toy.csv")
    assert len(frame) == 2 * 2
    gaussian = {}
    for name in toy.DATASETS:
        data = few(build("dataset", name))
        held_out = tensor(data.held_out)
        noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(5))
        gaussian[name] = toy.sliced_wasserstein(noise, held_out)
    best = frame.groupby("dataset").sliced_wasserstein.min()
    assert all(frame.real.iloc[0] > 0 and best[name] < 0.9 * gaussian[name] for name in toy.DATASETS)
    assert Image.open(own / "figures" / "toy.png").size[1] > 300


def test_the_committed_table_for_people_has_the_numbers_of_the_csv() -> None:
    text = (TABLES / "toy.md").read_text()
    for row in pd.read_csv(TABLES / "toy.csv").itertuples():
        part = text.partition(f"\n{row.dataset}: ")[2].splitlines()
        header = next(line for line in part if line.startswith("| interpolant ")).split(" | ")
        line = next(line for line in part if line.startswith(f"| {row.interpolant} ")).strip("| ").split(" | ")
        found = line[[cell.strip("| ") for cell in header].index(str(row.prediction))]
        assert float(found) == pytest.approx(row.sliced_wasserstein, abs=5.1e-4), row


def test_trajectories_lead_from_noise_to_where_the_field_ends() -> None:
    """For the field x, of a single point at the origin, Euler's hundred steps shrink everything by 0.99 each."""

    class Shrinking(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x

    lines = toy.trajectories(toy.formulation("linear", "velocity"), Shrinking(), number=1000)
    assert lines.shape == (1000, 101, 2)
    torch.testing.assert_close(lines, lines[:, :1] * 0.99 ** torch.arange(101)[:, None], rtol=1e-4, atol=1e-6)
    assert lines[:, 0].std().item() == pytest.approx(1, abs=0.1)


def test_it_is_not_treated_as_a_study() -> None:
    with pytest.raises(UserError, match="'toy' is not a known study"):
        load_study("toy")


@pytest.mark.usefixtures("small")
def test_finished_parts_are_kept_and_a_damaged_one_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four combinations, in order; a stop comes in the middle of the third."""
    monkeypatch.setattr(toy, "TRAIN", override(toy.TRAIN, {"steps": 3, "batch_size": 64, "warmup_steps": 1}))
    monkeypatch.setattr(toy, "NFE", 2)
    monkeypatch.setattr(toy, "trajectories", lambda made, network: torch.ones(2, 3, 2))
    asked = iter(range(100))
    done: list[toy.Combination] = []
    with pytest.raises(Stopped, match="stopped at step 1"):
        done.extend(toy.combinations(lambda: next(asked) == 7))  # asked before each of three steps
    files = sorted((results_folder() / "local" / "toy").iterdir())
    assert len(files) == 2
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:100])
    files[1].write_bytes(npz({"distance": np.array(1.0)}))
    steps = iter(range(4 * 3))  # of the damaged ones and of the remaining two
    again = list(toy.combinations(lambda: next(steps) < 0))
    assert next(steps, None) is None
    assert [(one.dataset, one.prediction) for one in again] == [(d, p) for d in toy.DATASETS for p in toy.PREDICTIONS]
    assert [file.read_bytes() for file in files] == whole
    once_more = list(toy.combinations(lambda: True))
    assert [one.sliced_wasserstein for one in once_more] == [one.sliced_wasserstein for one in again]
    assert all(torch.equal(one.trajectories, torch.ones(2, 3, 2)) for one in once_more)
    for name, other in (("NFE", 4), ("load", lambda dataset: load(override(dataset, {"number": 2000})))):
        with monkeypatch.context() as patch:  # the kept parts have other settings or other data
            patch.setattr(toy, name, other)
            with pytest.raises(Stopped):
                list(toy.combinations(lambda: True))


def test_a_log_hears_how_far_it_is_and_a_stop_ends_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By each signal, in the middle of the second of two combinations; the first is already stored."""
    log = io.StringIO()
    heard = threading.Event()

    class Log(Console):
        def print(self, *what: Any, **how: Any) -> None:
            super().print(*what, **how)
            heard.set()

    def two(stop: Stop) -> Iterator[object]:
        yield object()
        while "50%" not in log.getvalue():
            heard.clear()
            assert heard.wait(10)
        signal.raise_signal(number)
        assert stop()
        raise Stopped("stopped at step 3")

    monkeypatch.setattr(progress, "TELL_EVERY_S", 0.001)
    monkeypatch.setattr("harness.cli.toy.terminal", lambda: Log(file=log))
    monkeypatch.setattr("harness.cli.toy.combinations", two)
    monkeypatch.setattr("harness.cli.toy.asked", lambda: [None] * 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert main(["toy"]) == 130, number
        assert "toy: 50%, about 0.0 min left\n" in log.getvalue()
        assert capsys.readouterr().err == "stopped at step 3. What was done is kept; the same command continues.\n"
        log.truncate(log.seek(0))
