"""`harness reflow` and `harness lineage` as a user runs them: the chain on the terminal and in MLflow, and kills along
it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm
from PIL import Image

from harness.ablation.execute.board import Board
from harness.ablation.execute.launch import launch
from harness.ablation.execute.worker import work
from harness.cli import main
from harness.core.config import override
from harness.core.files import read_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.lineage import lineage, training_seconds
from harness.runs.train import train

CHANGES = {
    "backbone.channels": 8, "backbone.groups": 4, "backbone.multipliers": [1],
    "train.steps": 30, "train.checkpoint_every": 6, "train.log_every": 3,
    "train.batch_size": 32, "evaluate.nfe": [1, 4], "evaluate.num_samples": 100, "train.device": "cpu",
}  # fmt: skip
SHORT = ",".join(
    f'{{"name":"{metric}","samples":16,"steps":4}}' for metric in ("straightness", "curvature", "transport_cost")
)
ROUNDS = [
    "--rounds", "2", "--distil", "--set", "reflow.number=400", "--set", "reflow.nfe=10", "--set",
    "reflow.batch_size=20",
    "--set", f'evaluate.metrics=["fid",{SHORT}]',
]  # fmt: skip


def words(changes: dict[str, object]) -> list[str]:
    return [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A results folder with one finished run."""
    results = tmp_path_factory.mktemp("teacher")
    (results / "local").mkdir()
    shutil.copy(empty_store, results / "local" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(results))
        assert main(["train", *words(CHANGES)]) == 0
    return results


@pytest.fixture(scope="session")
def unbroken(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of undisturbed rounds, trained in this process."""
    results = tmp_path_factory.mktemp("unbroken") / "results"
    copy(teacher, results)

    def launch_here(board: Board, *given: Any) -> bool:
        work(board, lambda: False)
        return launch(board, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(results))
        patch.setattr("harness.cli.plans.launch", launch_here)
        assert main(["reflow", name_of(teacher), *ROUNDS]) == 0
    return results


def finish(command: list[str], results: Path) -> None:
    process = warm.start(command, results, results / "said")
    process.join(600)
    assert process.exitcode == 0, (results / "said").read_text()


def copy(results: Path, to: Path) -> None:
    subprocess.run(["cp", "-r", results, to], check=True)


def name_of(teacher: Path) -> str:
    (folder,) = (teacher / "local" / "runs").iterdir()
    return folder.name


def known(results: Path) -> dict[str, object]:
    """Return the results of the rounds: tables, content of the pairs, and weights, whose files contain their hash."""
    out: dict[str, object] = {path.name: path.read_text() for path in results.glob("local/tables/*.csv")}
    out |= {
        path.parent.name: read_json(path)["files"]["x0"]["sha256"] for path in results.glob("local/pairs/*/pairs.json")
    }
    return out | {path.parts[-3]: path.name for path in results.glob("local/runs/*/checkpoints/000000030-*")}


def pairs_begun(results: Path) -> bool:
    return any(
        path.stat().st_size > 30_000 and not path.with_name("pairs.json").exists()
        for path in results.glob("local/pairs/*/x1.npy")
    )


def round_begun(results: Path) -> bool:
    return (
        len([path for path in results.glob("local/runs/*/metrics.jsonl") if path.read_bytes().count(b"\n") >= 5]) == 2
    )


def round_judged(results: Path) -> bool:
    return len([*results.glob("local/runs/*/evaluations/*.json")]) == 2


@pytest.mark.slow
def test_killed_among_pairs_in_a_round_and_between_rounds_the_end_is_the_same(
    teacher: Path, unbroken: Path, tmp_path: Path
) -> None:
    results = tmp_path / "killed"
    copy(teacher, results)
    command = ["reflow", name_of(teacher), *ROUNDS]
    moments: list[Callable[[Path], bool]] = [pairs_begun, round_begun, round_judged]
    for moment in moments:
        process = warm.start(command, results, tmp_path / "said")
        while not moment(results):
            assert process.is_alive(), (tmp_path / "said").read_text()
            time.sleep(0.01)
        os.killpg(process.ident or 0, signal.SIGKILL)
        process.join(60)
    assert not list(results.glob("local/tables/*.csv"))
    finish(command, results)
    assert known(results) == known(unbroken)
    assert len(known(unbroken)) == 2 + 3 + 4


@pytest.mark.slow
def test_every_link_is_in_mlflow_with_its_parent(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("HARNESS_RESULTS", str(unbroken))
    client = MlflowClient(f"sqlite:///{unbroken / 'local' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reflow")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    chain = ["1-rectified seed 0", "2-rectified seed 0", "3-rectified seed 0", "3-rectified distilled seed 0"]
    pairs = {run.info.run_id: run for name, run in runs.items() if name.startswith("pairs of ")}
    (whole,) = {name for name in runs if not name.startswith("pairs of ")} - set(chain)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in chain} == {runs[whole].info.run_id}
    assert "parent" not in runs[chain[0]].data.tags
    for above, name in itertools.pairwise(chain):
        tags = runs[name].data.tags
        assert tags["parent"] == runs[above].data.tags["run"]
        (made,) = [run for run in pairs.values() if run.data.tags["pairs"] == tags["pairs"]]
        assert made.data.tags["parent"] == tags["parent"]
        assert (made.data.params["number"], made.data.params["nfe"], made.data.metrics["calls"]) == ("400", "10", 10)
        assert [file.path for file in client.list_artifacts(made.info.run_id)] == ["pairs.json"]
        at = [point.step for point in client.get_metric_history(runs[name].info.run_id, "flow/transport_cost")]
        assert at == ([] if "distilled" in name else [4])
    assert any(path.path.endswith("-lineage.png") for path in client.list_artifacts(runs[whole].info.run_id, "figures"))


@pytest.mark.slow
def test_the_chain_is_printed_and_drawn(
    unbroken: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(unbroken))
    (last,) = [
        path for path in (unbroken / "local" / "runs").iterdir() if read_json(path / "config.json")["reflow"]["distil"]
    ]
    assert main(["lineage", last.name, "--out", str(tmp_path / "chain.png")]) == 0
    told = capsys.readouterr().out
    places = [
        told.index(word)
        for word in ("digits", "1-rectified", "400 pairs", "2-rectified", "3-rectified", "3-rectified distilled")
    ]
    assert places == sorted(places)
    assert "by heun at NFE 10" in told
    assert "4,000 calls" in told
    assert "30 of 30 steps of 32" in told
    assert Image.open(tmp_path / "chain.png").width > 1000
    assert main(["lineage", last.name, "--out", "chain.txt"]) == 2
    assert "--out: chain.txt must end in .png" in capsys.readouterr().err


def test_links_that_do_not_exist_yet_have_no_cost(tiny: RunConfig) -> None:
    run = Run.of(override(tiny, {"reflow.rounds": 1}))
    links = lineage(run)
    assert [link.kind for link in links] == ["data", "flow", "pairs", "flow"]
    assert links[2].title == "0 of 10,000 pairs"
    assert all(link.seconds != link.seconds for link in links)


@pytest.mark.usefixtures("unmeasured")
def test_the_time_of_training_is_that_between_its_lines(tiny: RunConfig) -> None:
    started = time.perf_counter()
    train(Run.of(tiny), lambda _: None, lambda: False)
    assert 0 < training_seconds(Run.of(tiny)) < time.perf_counter() - started


def test_the_time_of_training_counts_the_way_back_and_no_look(tiny: RunConfig) -> None:
    """By hand, for batches of 32: 2 steps at 64 samples per second, then 3 steps from the first step on at 32."""
    run = Run.of(tiny)
    run.folder.mkdir(parents=True)
    lines = (
        {"step": 2, "time": 0, "samples_per_second": 64},
        {"step": 1, "time": 0, "learning_rate_factor": 0.5},
        {"step": 2, "time": 0, "held_out_loss": 1},
        {"step": 4, "time": 0, "samples_per_second": 32},
    )
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.trained.seconds == training_seconds(run) == 1 + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reflow", "{run}", "--rounds", "0"], "0 must be a whole number of 1 or more"),
        (["reflow", "absent"], "absent: no such run."),
        (["reflow", "{run}", "--set", "dataset=eight_gaussians"], "dataset: must be the teacher's"),
        (["reflow", "{run}", "--set", "backbone.channels=16"], "backbone: the network does not fit the teacher's"),
        (["reflow", "{run}", "--set", "reflow.guidance.scale=2"], "reflow.guidance: the teacher is told no classes."),
        (
            ["reflow", "{run}", "--distil", "--set", "interpolant=gvp", "--set", "reflow.warm_start=false"],
            "reflow.distil: with gvp and velocity, one Euler step",
        ),
        (["lineage", "absent"], "absent: no such run."),
    ],
    ids=str,
)
def test_mistakes_are_reported_in_one_line_and_change_nothing(
    teacher: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(teacher))
    before = sorted(teacher.rglob("*"))
    try:
        code = main([word.format(run=name_of(teacher)) for word in arguments])
    except SystemExit as ended:  # argparse
        code = int(str(ended.code))
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert sorted(teacher.rglob("*")) == before


@pytest.mark.slow
def test_a_distilled_run_is_sampled_with_one_call(
    unbroken: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(unbroken))
    (last,) = [
        path for path in (unbroken / "local" / "runs").iterdir() if read_json(path / "config.json")["reflow"]["distil"]
    ]
    assert main(["sample", last.name, "--number", "4", "--out", str(tmp_path / "four.npz")]) == 0
    assert "4 samples at NFE 1 by euler" in capsys.readouterr().out
    assert main(["sample", last.name, "--nfe", "8"]) == 2
    assert "evaluate.nfe: a distilled network has learned t = 1 only" in capsys.readouterr().err
