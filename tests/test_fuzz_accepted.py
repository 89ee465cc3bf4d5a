"""Twenty valid inputs. The fuzz alone would pass a program that refuses everything; this test would not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_files import KINDS
from hostile import as_options
from orderly import laboratory, results, run

SETTINGS: tuple[tuple[str, list[str]], ...] = (
    ("points", []),
    ("points", ["weighting=min_snr", "weighting.gamma=3", "train.ema_decay=null", "evaluate.average=last"]),
    ("points", ["interpolant=vp", "prediction=noise", "time_sampler=logit_normal", "loss=pseudo_huber"]),
    ("points", ["coupling=exact_ot", "noise=student_t", "noise.df=4", "train.optimizer=adam"]),
    ("points", ["evaluate.solver=dopri5", "evaluate.nfe=[0]", "train.schedule=inverse_sqrt", "train.clip_norm=null"]),
    ("points", ["train.learning_rate=1e-3", "train.more_ema_decays=[0.5]", "evaluate.average.decay=0.5", "seed=3"]),
    ("points", ["reflow.rounds=1", "reflow.distil=true", "evaluate.nfe=[1]", "dataset=swiss_roll"]),
    ("images", ["objective.label_dropout=0.1", "evaluate.guidance.scale=2", "backbone.conditioning=add"]),
    ("images", ['backbone={"name":"dit","width":8,"depth":1,"heads":2}', "noise=matched", 'evaluate.metrics=["mmd"]']),
    ("sequences", ["dataset.window=8", "dataset.stride=2", "backbone.time_embedding=fourier", "train.precision=bf16"]),
)  # fmt: skip
"""Ten different kinds: (scale, assignments)."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with laboratory(tmp_path_factory.mktemp("accepted")) as folder:
        yield folder


def trained(folder: Path, scale: str, typed: list[str]) -> bool:
    """Whether the run exists, with two steps."""
    ended = run("train", "--scale", scale, *as_options(typed))
    assert (ended.code, ended.err) == (0, ""), typed
    path = Path(ended.out.rpartition(": ")[2].strip())
    return path.is_relative_to(folder) and len((path / "metrics.jsonl").read_text().splitlines()) == 2


def test_settings(lab: Path) -> None:
    """Ten inputs."""
    for scale, typed in SETTINGS:
        with results() as folder:
            assert trained(folder, scale, typed), typed


def test_data(lab: Path) -> None:
    """Nine kinds of data files, and two other kinds: pairs and statistics."""
    for kind, make in KINDS.items():
        with results() as folder:
            (folder / "files").mkdir()
            assert trained(folder, *make(folder / "files")), kind


def test_a_study_and_a_run(lab: Path) -> None:
    """Every command that reads a study or a run accepts them."""
    with results() as folder:
        for seed in range(3):  # the seeds of the study's first look
            assert trained(folder, "points", [f"seed={seed}"])
            assert trained(folder, "points", [f"seed={seed}", "weighting=min_snr"])
        names = [path.name for path in folder.glob("local/runs/*")]
        for command in (
            *(["evaluate", name] for name in names),
            ["lineage", names[0]],
            ["sample", names[0], "--nfe", "2", "--out", "x.npz"],
        ):
            assert run(*command).code == 0, command
        for command in (["explain", "two"], ["table", "two"], ["publish", "two"]):
            assert run(*command, "--scale", "points").code == 0, command
        for command in (["ablate", "two"], ["tune", "rate"], ["reflow", names[0]]):
            scale = [] if command[0] == "reflow" else ["--scale", "points"]
            assert "planned" in run(*command, *scale, "--workers", "1").err, command
