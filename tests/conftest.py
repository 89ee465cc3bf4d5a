"""Fixtures of all tests: a separate results folder, one thread, a run that trains in a moment."""

import io
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for `harness train` in a subprocess
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may download
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several processes share the cores: no busy waiting

import coverage
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from harness.ablation.design.study import load_scale
from harness.core import signals
from harness.core.config import override
from harness.core.files import write_json
from harness.evaluation.protocol import Protocol
from harness.runs import mlflow_store
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train

torch.set_num_threads(1)

Score = Callable[..., None]
CLUSTER = Path(__file__).parent / "cluster"
LONGEST = ("end_to_end", "lineage", "reflow", "search_end_to_end", "distributed", "clone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the cluster tests, which install servers, unless `-m cluster` or the path of their folder is given."""
    return True if collection_path == CLUSTER and "cluster" not in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow files first, so that no worker waits for one at the end."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_sessionfinish() -> None:
    """Save the coverage of `make coverage` now: pytest kills a worker that ends slowly."""
    if measuring := coverage.Coverage.current():
        measuring.save()


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, unmade: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else unmade()
    monkeypatch.setenv("HARNESS_RESULTS", str(own / "results"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(signals, "_installed", None)  # a stop in one test must not end a wait in another
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it, commands change it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if torch.get_num_threads() > 1:  # a command in this process used all cores
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def unmade(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return a new folder on each call, which nobody has made: thousands of tests write no file."""
    base = tmp_path_factory.mktemp("unmade")
    numbers = itertools.count()
    return lambda: base / str(next(numbers))


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return an empty SQLite store of MLflow; only the first call spends the two seconds to create its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"

    def make() -> Path:
        if not path.exists():
            from mlflow import MlflowClient

            MlflowClient(f"sqlite:///{path}").search_experiments()
        return path

    return make


@pytest.fixture(scope="session")
def empty_store(make_store: Callable[[], Path]) -> Path:
    """An empty SQLite store of MLflow, to copy for a command in another process."""
    return make_store()


@pytest.fixture(scope="session", autouse=True)
def make_tables(make_store: Callable[[], Path]) -> Iterator[Callable[[Path], None]]:
    """The function that makes MLflow's tables; meanwhile, commands in this process copy the empty store."""
    with pytest.MonkeyPatch.context() as patch:
        own = mlflow_store._make_tables
        patch.setattr(mlflow_store, "_make_tables", lambda path: shutil.copy(make_store(), path))
        yield own


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """Digits, 12 steps of a network with 8 channels, evaluated with 64 samples at NFE 1 and 2."""
    changes = {
        "backbone.channels": 8,
        "backbone.multipliers": [1],
        "backbone.groups": 4,
        "train.steps": 12,
        "train.batch_size": 32,
        "train.learning_rate": 8e-3,
        "train.warmup_steps": 2,
        "train.optimizer": {"name": "adamw", "beta2": 0.97},
        "train.ema_decay": 0.9999,
        "train.device": "cpu",
        "train.log_every": 2,
        "train.checkpoint_every": 3,
        "train.sample_every": 12,
        "evaluate.nfe": [1, 2],
        "evaluate.num_samples": 64,
        "evaluate.more_samples": [],
        "evaluate.batch_size": 32,
        "evaluate.metrics": ["fid"],
    }
    return override(load_scale("digits"), changes)


@pytest.fixture(scope="session")
def trained_once(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run of `tiny`, trained but not evaluated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(tmp_path_factory.mktemp("trained")))
        run = Run.of(tiny)
        train(run, lambda _: None, lambda: False)
    return run.folder


@pytest.fixture
def tiny_run(tiny: RunConfig, trained_once: Path, isolated: None) -> Run:
    """The run of `tiny`, already trained."""
    run = Run.of(tiny)
    shutil.copytree(trained_once, run.folder)
    return run


def leave_out_measurements(patch: pytest.MonkeyPatch) -> None:
    """Skip the measurements that take as long as training: gradients by noise level, and the count of operations.

    test_diagnostics.py, test_hardware.py and test_golden.py test these.
    """
    patch.setattr("harness.training.trainer.gradients_by_noise", lambda *_: {})
    patch.setattr("harness.runs.train.device_use", lambda *_: {"flops_per_sample": 1.0, "peak_flops": 1.0})


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """`leave_out_measurements`, for one test."""
    leave_out_measurements(monkeypatch)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a report's figure by an empty one, and leave out its page's: drawing takes longer than the rest."""
    monkeypatch.setattr("harness.ablation.report.figures.draw", lambda *_: Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr("harness.ablation.report.page_figures.drawn", lambda *_: {})


@pytest.fixture
def score() -> Score:
    """Writes the file of an evaluation into a run directory: `score(run, protocol, {nfe: value})`.

    Every metric gets the same value.
    """

    def write(run: Run, protocol: Protocol, fid: dict[int, float], commits: tuple[str, ...] = ("abc",)) -> None:
        known = run.evaluation(protocol) | {
            "values": {m.name: {str(nfe): value for nfe, value in fid.items()} for m in run.config.evaluate.metrics},
            "commits": list(commits),
        }
        more = {str(more.nfe): more.num_samples for more in run.config.evaluate.more_samples if more.nfe in fid}
        known["precise"] = {
            m.name: {nfe: {"samples": number, "value": fid[int(nfe)]} for nfe, number in more.items()}
            for m in run.config.evaluate.metrics
        }
        known |= {"seconds": {str(nfe): 1.0 for nfe in fid}, "time": {str(nfe): 1.75e9 + nfe for nfe in fid}}
        write_json(run.folder / "evaluations" / f"{protocol.digest}.json", known)

    return write


def _pairs(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    for name in ("x0", "x1"):
        np.save(folder / f"{name}.npy", rng.normal(size=(5, 2, 2)).astype(np.float32))
    return {"path": str(folder)}


def _npz(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    np.savez(
        folder / "images.npz", images=rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), labels=np.arange(20) % 2
    )
    return {"path": str(folder / "images.npz")}


def _pictures(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    for i in range(20):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return {"path": str(folder), "size": 8}


def _latents(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    for i in range(20):
        np.save(folder / f"{i}.npy", rng.normal(size=(4, 2, 2)).astype(np.float32))
    return {"path": str(folder)}


def _series(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    np.savez(folder / "series.npz", series=rng.normal(size=(5000, 3)), names=["x", "y", "z"])
    return {"path": str(folder / "series.npz")}


def _table(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    rows = zip(*rng.normal(size=(3, 60)).round(3).tolist(), "pq" * 30, strict=True)
    text = "".join(f"{x},{y},{z},{kind}\n" for x, y, z, kind in rows)
    (folder / "table.csv").write_text(f"x,y,z,kind\n{text}")
    return {"path": str(folder / "table.csv")}


def _hub(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Two splits as `save_to_disk` writes them, with two columns of pictures."""
    import datasets

    def png() -> dict[str, Any]:
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "png")
        return {"bytes": content.getvalue(), "path": None}

    kinds = {"image": datasets.Image(), "other": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    splits = {
        split: datasets.Dataset.from_list(
            [{"image": png(), "other": png(), "label": i % 2} for i in range(number)], datasets.Features(kinds)
        )
        for split, number in (("train", 20), ("test", 24))
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict(splits).save_to_disk(str(folder / "saved"))
    return {"path": str(folder / "saved")}


def _cells(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    counts = rng.poisson(rng.gamma(2, 2, 30), (60, 30)).astype(np.float32) + np.eye(60, 30, dtype=np.float32)
    cell_names, donors, gene_names = (
        pd.Index([f"{what} {i % n}" for i in range(size)], dtype=object)
        for what, size, n in (("cell", 60, 60), ("donor", 60, 2), ("gene", 30, 30))
    )
    cells = AnnData(csr_matrix(counts), pd.DataFrame({"donor": donors}, cell_names), pd.DataFrame(index=gene_names))
    cells.layers["doubled"] = csr_matrix(2 * counts + (counts > 3))
    cells.write_h5ad(folder / "cells.h5ad")
    return {"path": str(folder / "cells.h5ad"), "genes": 20}


FILES = {
    "pairs": _pairs,
    "npz": _npz,
    "image_folder": _pictures,
    "huggingface": _hub,
    "latents": _latents,
    "table": _table,
    "time_series": _series,
    "cells": _cells,
}
"""Functions that write the files for components that read files, and return their fields."""


ALONE: dict[str, dict[str, Any]] = {
    "posthoc": {"width": 0.1},
    "diffusers": {"model": "DiTTransformer2DModel", "config": '{"attention_head_dim": 8, "num_layers": 1}'},
}
"""The fields of the members that need some, but no file."""


@pytest.fixture
def needed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`needed(member, seed)`: a component's fields without defaults; each call writes its files to a new folder."""
    numbers = itertools.count()

    def give(name: str, seed: int = 0) -> dict[str, Any]:
        if name in ALONE:
            return ALONE[name]
        if name not in FILES:
            return {}
        folder = tmp_path / "needed" / str(next(numbers))
        folder.mkdir(parents=True)
        return FILES[name](folder, np.random.default_rng(seed))

    return give
