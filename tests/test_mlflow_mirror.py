import argparse
import contextlib
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import REQUEST_LIMIT_EXCEEDED, RESOURCE_ALREADY_EXISTS
from PIL import Image
from rich.console import Console

from harness.cli import ui
from harness.core.config import override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json, results_folder, write_json
from harness.evaluation.protocol import Protocol
from harness.runs import mlflow_mirror
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.mlflow_pages import Columns, Told, pages, views
from harness.runs.mlflow_points import values
from harness.runs.mlflow_record import Record
from harness.runs.progress import Followed, Watch

FID = {1: 30.0, 2: 20.0}
CURVES = ("loss", "system/samples_per_second")
BY_NOISE = "loss_by_log_snr/-2_to_0"
LOGGED = ("loss", BY_NOISE, "samples_per_second")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The database of an empty store: creating it takes seconds, copying it none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(tmp_path_factory.mktemp("store")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mirror = Mirror("first")
        path = results_folder() / "local" / "mlflow.db"
        assert mirror.uri == f"sqlite:///{path}"
        yield path


@pytest.fixture
def mirror(store: Path) -> Mirror:
    copy = results_folder() / "local" / "mlflow.db"
    copy.parent.mkdir(parents=True)
    shutil.copy(store, copy)
    return Mirror("study")


@pytest.fixture
def run(tiny: RunConfig, score: Any) -> Run:
    """A run with six log lines, two grids and an evaluation."""
    return made_up(tiny, score)


def made_up(config: RunConfig, score: Any) -> Run:
    run = Run.of(config)
    every = config.train.log_every
    write_json(run.folder / "config.json", to_dict(config))
    write_json(
        run.folder / "environment.json", {"commits": ["abc"], "machine": {}, "parameters": 123, "weight_mean": 0.5}
    )
    with open(run.folder / "metrics.jsonl", "w") as file:
        for step in range(every, config.train.steps + 1, every):
            file.write(json.dumps({"step": step, "time": 1.75e9 + step, **dict.fromkeys(LOGGED, step / 8)}) + "\n")
    protocol = protocol_of(run)
    score(run, protocol, FID)
    for name in ("step-0000012", f"{protocol.digest}-nfe-0001", "0123456789ab-nfe-0001"):
        grid = run.folder / "samples" / f"{name}.png"
        grid.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(grid)
    return run


def protocol_of(run: Run) -> Protocol:
    return run.config.protocol()


def record(mirror: Mirror, run: Run, **tags: str) -> Record:
    return mirror.record(run.folder, "arm seed 0", {"weighting": "uniform", "evaluate.nfe": [1, 2]}, tags, key="arm")


def curve(mirror: Mirror, record: Record, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in mirror.client.get_metric_history(record.run_id, name))


def all_curves(mirror: Mirror, record: Record) -> dict[str, list[tuple[int, float]]]:
    return {name: curve(mirror, record, name) for name in (*CURVES, "fid")}


WHOLE = {name: [(step, step / 8) for step in range(2, 13, 2)] for name in CURVES} | {"fid": list(FID.items())}


def test_all_files_of_a_run_arrive(mirror: Mirror, run: Run) -> None:
    parent = mirror.record(
        results_folder() / "local" / "studies" / "toy", "toy", {"question": "Which?"}, {"plan": "123"}
    )
    sent = record(mirror, run, **{"arm": "a", "mlflow.parentRunId": parent.run_id})
    sent.send_run(run, protocol_of(run))
    sent.set_status("FINISHED")
    found = mirror.client.get_run(sent.run_id)
    assert all_curves(mirror, sent) == WHOLE
    assert found.data.params == {"weighting": "uniform", "evaluate.nfe": "[1, 2]"}
    assert (found.data.tags["arm"], found.data.tags["mlflow.parentRunId"]) == ("a", parent.run_id)
    files = {artifact.path for artifact in mirror.client.list_artifacts(sent.run_id)}
    assert files == {"config.json", "environment.json", "samples"}
    assert (found.info.run_name, found.info.status) == ("arm seed 0", "FINISHED")
    grids = {artifact.path for artifact in mirror.client.list_artifacts(sent.run_id, "samples")}
    assert grids == {"samples/step-0000012.png", f"samples/{protocol_of(run).digest}-nfe-0001.png"}
    assert mirror.client.get_run(parent.run_id).data.params["question"] == "Which?"


def test_the_looks_of_a_search_are_a_curve_and_its_pruned_run_is_ended(mirror: Mirror, run: Run) -> None:
    looks = [{"step": step, "time": 1.75e9 + step, "nfe": 2, "values": {"fid": 60.0 - step}} for step in (3, 6)]
    digests = protocol_of(run).digest, "0123456789ab"
    (run.folder / "rungs.jsonl").write_text(
        "".join(json.dumps({**look, "protocol": d}) + "\n" for look in looks for d in digests)
    )
    sent = record(mirror, run)
    for _ in range(2):
        sent.send_run(run, protocol_of(run))
        sent = record(mirror, run)
    assert curve(mirror, sent, "rung_fid") == [(3, 57.0), (6, 54.0)]
    trial = Followed("a", run, protocol_of(run), {})
    assert trial.status() == "FINISHED"
    write_json(run.folder / "pruned.json", {"reason": "it fell behind"})
    assert (trial.status(), trial.progress()) == ("KILLED", 1.0)


def test_points_sent_twice_are_the_same_points(mirror: Mirror, run: Run) -> None:
    sent = record(mirror, run)
    before = sent.path.read_bytes()
    for _ in range(2):
        sent.send_run(run, protocol_of(run))
        sent.path.write_bytes(before)  # a kill between sending and recording the position
        sent = record(mirror, run)
    sent.send_run(run, protocol_of(run))
    assert all_curves(mirror, sent) == WHOLE
    assert len(mirror.client.search_runs([mirror.experiment_id])) == 1


def test_a_parameter_that_mlflow_would_cut_is_marked(mirror: Mirror, run: Run) -> None:
    params = {"nfe": [*range(2000)], "question": "é" * 6000}
    kept = mirror.client.get_run(mirror.record(run.folder, "a", params, {}).run_id).data.params
    assert kept["nfe"].startswith("[0, 1, 2, ")
    assert kept["nfe"].endswith("... (10890 characters, config.json has all)")
    assert len(kept["nfe"]) == 6000
    assert kept["question"] == params["question"]


def test_later_files_are_added(mirror: Mirror, run: Run) -> None:
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    sent = record(mirror, run)
    sent.send_run(run, protocol_of(run))
    assert curve(mirror, sent, "loss") == WHOLE["loss"][:3]
    path.write_text("".join(lines))
    record(mirror, run).send_run(run, protocol_of(run))
    assert all_curves(mirror, sent) == WHOLE


def test_a_store_that_lost_a_run_gets_all_of_it_again(mirror: Mirror, run: Run) -> None:
    first = record(mirror, run)
    first.send_run(run, protocol_of(run))
    mirror.client.delete_run(first.run_id)
    again = record(mirror, run)
    again.send_run(run, protocol_of(run))
    assert again.run_id != first.run_id
    assert all_curves(mirror, again) == WHOLE
    assert len(mirror.client.list_artifacts(again.run_id, "samples")) == 2


@pytest.mark.parametrize("lost", ["file", "number"])
def test_a_lost_position_is_found_again_in_the_store(mirror: Mirror, run: Run, lost: str) -> None:
    first = record(mirror, run)
    first.send_run(run, protocol_of(run))
    if lost == "file":
        first.path.unlink()
    else:
        write_json(first.path, read_json(first.path) | {"run_id": "0" * 32})
    again = record(mirror, run)
    again.send_run(run, protocol_of(run))
    assert again.run_id == first.run_id
    assert all_curves(mirror, again) == WHOLE


def test_long_curves_are_thinned(mirror: Mirror, tiny: RunConfig, score: Any) -> None:
    run = made_up(override(tiny, {"train.steps": 3000, "train.log_every": 1}), score)
    sent = record(mirror, run)
    sent.send_run(run, protocol_of(run))
    points = curve(mirror, sent, "loss")
    assert 150 <= len(points) <= 200
    assert points[-1][0] == 3000
    assert len(run.metrics()) == 3000


def test_the_point_where_training_went_back_is_sent_for_curves_of_any_length(
    mirror: Mirror, tiny: RunConfig, score: Any
) -> None:
    run = made_up(override(tiny, {"train.steps": 3000, "train.log_every": 1}), score)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 100, "time": 1.75e9, "learning_rate_factor": 0.5}\n')
    sent = record(mirror, run)
    sent.send_run(run, protocol_of(run))
    assert curve(mirror, sent, "learning_rate_factor") == [(100, 0.5)]


def test_runs_left_running_by_a_kill_are_closed(mirror: Mirror, run: Run, tiny: RunConfig, score: Any) -> None:
    alive = made_up(override(tiny, {"seed": 1}), score)
    dead = record(mirror, run)
    living = record(mirror, alive)
    ended = mirror.record(run.folder, "ended", {}, {}, key="ended")
    ended.set_status("FINISHED")
    with alive.lock():
        mirror.close_dead()
    status = [mirror.client.get_run(r.run_id).info.status for r in (dead, living, ended)]
    assert status == ["KILLED", "RUNNING", "FINISHED"]
    back = record(mirror, run)
    back.set_status("RUNNING")
    assert back.run_id == dead.run_id
    assert mirror.client.get_run(back.run_id).info.status == "RUNNING"


def lose(mirror: Mirror, run_id: str, what: str) -> None:
    """Delete a run or its experiment, or both permanently, as MLflow's pages and `mlflow gc` do."""
    if what == "run":
        mirror.client.delete_run(run_id)
    if what == "experiment":
        mirror.client.delete_experiment(mirror.experiment_id)
    if what == "all":
        path = results_folder() / "local" / "mlflow.db"
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM experiments WHERE name = 'study'")


@pytest.mark.parametrize("what", ["run", "experiment", "all"])
@pytest.mark.parametrize("below", [True, False])
def test_deletions_while_runs_are_followed_are_sent_again(
    mirror: Mirror, run: Run, capsys: pytest.CaptureFixture[str], what: str, below: bool
) -> None:
    def above() -> Record:
        return mirror.record(results_folder() / "local" / "studies" / "toy", "toy", {}, {"plan": "123"})

    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    trial = Followed("a", run, protocol_of(run), {})
    for text in ("".join(lines[:3]), "".join(lines)):
        path.write_text(text)
        with Watch("toy", [trial], mirror, Console(), above=above if below else None):
            pass
        assert trial.record
        if not trial.closed:
            lose(mirror, trial.record.run_id, what)
    assert trial.record
    assert all_curves(mirror, trial.record) == WHOLE
    tags = mirror.client.get_run(trial.record.run_id).data.tags
    assert tags.get("mlflow.parentRunId") == (above().run_id if below else None)
    assert "MLflow does not accept records" not in capsys.readouterr().out


def test_a_run_that_was_sent_whole_is_not_looked_up_again(
    mirror: Mirror, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(mirror: Mirror) -> Followed:
        trial = Followed("a", run, protocol_of(run), {"seed": "0"}, params={"weighting": "uniform"})

        def above() -> Record:
            return mirror.record(results_folder() / "local" / "studies" / "toy", "toy", {}, {"plan": "123"})

        with Watch("toy", [trial], mirror, Console(), above=above):
            pass
        assert trial.closed
        return trial

    sent = watched(mirror).record
    assert sent
    asked = Mock(side_effect=mirror.client.get_run)
    monkeypatch.setattr(mirror.client, "get_run", asked)
    assert watched(mirror).record is None
    assert all(call.args[0] != sent.run_id for call in asked.call_args_list)
    (run.folder / "environment.json").write_text((run.folder / "environment.json").read_text() + " ")
    assert watched(mirror).record is not None
    mirror.client.delete_run(sent.run_id)
    again = watched(mirror).record
    assert again
    assert again.run_id != sent.run_id


def test_a_damaged_file_of_a_run_is_not_blamed_on_the_store(
    mirror: Mirror, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.evaluation_file(protocol_of(run))
    with Watch("toy", [Followed("a", run, protocol_of(run), {})], mirror, Console(width=500)):
        path.write_text("{")
    said = capsys.readouterr().out
    assert f"{path}: cannot be read" in said
    assert "MLflow does not accept" not in said


def test_a_store_that_fails_during_the_work_does_not_stop_it(
    mirror: Mirror, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("it failed\nin the midst")

    record(mirror, run)
    with monkeypatch.context() as broken:
        for name in ("get_run", "log_batch", "search_runs", "create_run"):
            broken.setattr(mirror.client, name, fail)
        mirror.close_dead()
        with Watch("toy", [Followed("a", run, protocol_of(run), {})], mirror, Console(), above=fail):
            pass
    said = capsys.readouterr()
    assert said.err == "MLflow cannot mark killed runs now (it failed); the next command tries again.\n"
    assert said.out.count("MLflow does not accept records now (it failed); they wait on disk.") == 2
    with Watch("toy", [trial := Followed("a", run, protocol_of(run), {})], mirror, Console()):
        pass
    assert trial.record
    assert all_curves(mirror, trial.record) == WHOLE


def test_a_refusal_of_the_store_is_not_taken_for_an_absence(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing item is found, a missing one is created, and any other answer is an error."""
    for code, told in ((REQUEST_LIMIT_EXCEEDED, True), (RESOURCE_ALREADY_EXISTS, False)):
        refuse = Mock(side_effect=MlflowException("not now", error_code=code))
        monkeypatch.setattr(mirror.client, "create_experiment", refuse)
        with pytest.raises(MlflowException) if told else contextlib.nullcontext():
            found = mirror._begin_experiment("study")
            assert found
            assert found.experiment_id == mirror.experiment_id
    assert not mlflow_mirror._exists(mirror.client, "0" * 32)
    monkeypatch.setattr(mirror.client, "get_run", Mock(side_effect=MlflowException("x", REQUEST_LIMIT_EXCEEDED)))
    with pytest.raises(MlflowException):
        mlflow_mirror._exists(mirror.client, "0" * 32)


def test_the_calls_of_an_adaptive_solver_are_next_to_its_value(run: Run) -> None:
    known = {"values": {"fid": {"0": 9.5}}, "time": {"0": 1.75e9}, "calls": {"0": {"mean": 44.25, "sd": 3.0}}}
    known |= {"precise": {}}
    sent = values(run, known, [["fid", "0"]])
    assert [(point.key, point.value, point.step) for point in sent] == [("fid", 9.5, 0), ("calls", 44.25, 0)]


@pytest.mark.parametrize("uri", ["sqlite:///{file}/mlflow.db", "http://127.0.0.1:9", "nonsense://x"])
def test_a_store_that_cannot_be_reached_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    (tmp_path / "file").touch()
    uri = uri.format(file=tmp_path / "file")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as caught:
        Mirror("study")
    assert str(caught.value).startswith(f"MLflow at {uri} cannot be reached")
    assert "\n" not in str(caught.value)


def followed_to_the_end(mirror: Mirror, run: Run, **named: Any) -> Followed:
    trial = Followed("a seed 0", run, protocol_of(run), {"arm": "a"}, **named)
    with Watch("toy", [trial], mirror, Console()):
        pass
    assert trial.record
    return trial


def test_a_run_begins_and_ends_when_its_training_did(mirror: Mirror, run: Run) -> None:
    """Its first line, at step 2, was written at 1.75e9 + 2; its samples, 32 per step, came at 2 / 8 per second."""
    sent = followed_to_the_end(mirror, run).record
    assert sent
    info = mirror.client.get_run(sent.run_id).info
    assert (info.start_time / 1000, info.end_time / 1000) == (1.75e9 + 2 - 2 * 32 / 0.25, 1.75e9 + 12)


def test_a_run_waits_for_its_first_line(mirror: Mirror, run: Run) -> None:
    """Before that, the start of training is unknown, and MLflow does not allow changes of a start."""
    (run.folder / "metrics.jsonl").unlink()
    trial = Followed("a", run, protocol_of(run), {})
    with Watch("toy", [trial], mirror, Console()):
        pass
    assert trial.record is None
    assert not mirror.client.search_runs([mirror.experiment_id])


def test_the_value_of_the_verdict_comes_before_the_diagnostics_by_noise_level(mirror: Mirror, run: Run) -> None:
    sent = followed_to_the_end(mirror, run, primary=("fid", 2)).record
    assert sent
    names = list(mirror.client.get_run(sent.run_id).data.metrics)
    assert names.index("fid_at_nfe_2") < names.index(BY_NOISE)
    assert curve(mirror, sent, "fid_at_nfe_2") == [(12, FID[2])]
    assert curve(mirror, sent, BY_NOISE) == WHOLE["loss"]
    assert BY_NOISE not in all_curves(mirror, sent)


def test_a_finished_run_names_its_data_its_model_and_its_sender(mirror: Mirror, run: Run) -> None:
    data = {"train": 1437, "held_out": 360, "sha256": "0123456789ab"}
    write_json(run.folder / "environment.json", run.environment | {"data": data})
    for _ in range(2):
        sent = followed_to_the_end(mirror, run, primary=("fid", 2)).record
    assert sent
    found = mirror.client.get_run(sent.run_id)
    assert found.inputs
    assert found.outputs
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("digits", data["sha256"])
    assert json.loads(given.dataset.source)["name"] == "digits"
    (left,) = found.outputs.model_outputs
    model = mirror.client.get_logged_model(left.model_id)
    assert (model.name, model.status, model.source_run_id) == (run.name, "READY", sent.run_id)
    assert [(metric.key, metric.value) for metric in model.metrics or ()] == [("fid_at_nfe_2", FID[2])]
    assert found.data.tags["mlflow.source.name"] == "harness"
    assert found.data.tags["mlflow.source.git.commit"] == "abc"
    assert found.data.tags["mlflow.user"]


def test_a_run_that_takes_part_again_is_one_run_below_the_new_parent(mirror: Mirror, run: Run) -> None:
    """A plan with a new arm is a new plan; its record contains the runs of the earlier plan."""
    ids = []
    for plan, params in (("123", {"weighting": "uniform"}), ("456", {"weighting": "uniform", "loss": "mse"})):

        def above(plan: str = plan) -> Record:
            return mirror.record(results_folder() / "local" / "studies" / f"toy-{plan}", "toy", {}, {"plan": plan})

        trial = Followed("a seed 0", run, protocol_of(run), {"study": "toy", "plan": plan}, params=params)
        with Watch("toy", [trial], mirror, Console(), above=above):
            pass
        assert trial.record
        ids.append(trial.record.run_id)
        found = mirror.client.get_run(ids[-1])
        assert found.data.tags["mlflow.parentRunId"] == above().run_id
        assert (found.data.tags["plan"], found.data.params) == (plan, params)
    assert ids[0] == ids[1]
    assert len(mirror.client.search_runs([mirror.experiment_id])) == 3


def test_a_changed_name_changes_in_mlflow(mirror: Mirror, run: Run) -> None:
    first = record(mirror, run)
    again = mirror.record(run.folder, "other seed 0", {"weighting": "not changed"}, {"arm": "other"}, key="arm")
    assert again.run_id == first.run_id
    found = mirror.client.get_run(first.run_id)
    assert (found.info.run_name, found.data.tags["arm"]) == ("other seed 0", "other")
    assert found.data.params["weighting"] == "uniform"


def test_a_report_puts_verdicts_and_figure_where_mlflows_table_looks(mirror: Mirror, tmp_path: Path) -> None:
    files = [tmp_path / "tables" / "toy.md", tmp_path / "figures" / "toy.png"]
    for path in files:
        path.parent.mkdir()
        path.write_text("![toy](../figures/toy.png)")
    sent = mirror.record(results_folder() / "local" / "studies" / "toy", "toy", {}, {"plan": "123"})
    for seeds, p in ((5, 0.04), (10, 0.01)):
        sent.tell(Told(files, {"p/a=1": p}, {"verdict": "better: a=1"}, "**Which?**", seeds))
    found = mirror.client.get_run(sent.run_id)
    assert found.data.metrics == {"p/a_1": 0.01}
    assert curve(mirror, sent, "p/a_1") == [(5, 0.04), (10, 0.01)]
    assert (found.data.tags["verdict"], found.data.tags["mlflow.note.content"]) == ("better: a=1", "**Which?**")
    paths = [f.path for below in ("tables", "figures") for f in mirror.client.list_artifacts(sent.run_id, below)]
    assert paths == ["tables/toy.md", "figures/toy.png"]


def test_a_note_is_cut_at_a_line_before_mlflow_refuses_it(mirror: Mirror, run: Run) -> None:
    note = "\n".join(f"| {number:6} |" for number in range(3000))
    sent = record(mirror, run)
    sent.tell(Told([], note=note))
    mirror.describe(note)
    experiment = mirror.client.get_experiment(mirror.experiment_id)
    for tags in (mirror.client.get_run(sent.run_id).data.tags, experiment.tags):
        *kept, empty, said = tags["mlflow.note.content"].split("\n")
        assert note.startswith("\n".join(kept) + "\n")
        assert (empty, said) == ("", "(Shortened; the files of the study's run have the full text.)")


def test_an_experiment_is_described_before_its_first_result_and_keeps_a_result(mirror: Mirror) -> None:
    for note in ("No result yet", "Something else"):
        mirror.begin_description(note)
        assert mirror.client.get_experiment(mirror.experiment_id).tags["mlflow.note.content"] == "No result yet"
    mirror.describe("better: a=1")
    mirror.begin_description("No result yet")
    assert mirror.client.get_experiment(mirror.experiment_id).tags["mlflow.note.content"] == "better: a=1"


def test_a_saved_view_finds_the_runs_of_its_plan_the_best_first(mirror: Mirror, tiny: RunConfig, score: Any) -> None:
    """MLflow's table sends this filter and this order to its store."""
    for seed in range(3):
        run = made_up(override(tiny, {"seed": seed}), score)
        score(run, protocol_of(run), FID | {2: 20.0 - seed})
        tags = {"plan": "456" if seed == 2 else "123"}
        with Watch("toy", [Followed(f"{seed}", run, protocol_of(run), tags, primary=("fid", 2))], mirror, Console()):
            pass
    mirror.record(results_folder() / "local" / "studies" / "toy", "toy", {}, {"plan": "123"})
    mirror.save_views(views("toy", "123", "fid", 2, Columns(["arm", "seed"], ["weighting"], ["a"])))
    saved = mirror.client.get_experiment(mirror.experiment_id).tags
    arms, runs = (json.loads(json.loads(saved[name])["state"]) for name in sorted(saved, key=saved.__getitem__))
    assert arms["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]
    assert runs["groupBy"] is None
    assert runs["selectedColumns"] == ["tags.`arm`", "tags.`seed`", "metrics.`fid_at_nfe_2`", "params.`weighting`"]
    order = f"{runs['orderByKey']} {'ASC' if runs['orderByAsc'] else 'DESC'}"
    found = mirror.client.search_runs([mirror.experiment_id], runs["searchFilter"], order_by=[order])
    assert [one.info.run_name for one in found] == ["1", "0"]
    listed = pages(mirror.experiment_id, saved | {"mlflow.sharedViewState.x": "no view"})
    assert list(listed) == ["all runs", "arms of toy", "runs of toy"]
    for place, tag in zip([*listed.values()][1:], sorted(saved, key=saved.__getitem__), strict=True):
        assert f"viewStateShareKey={tag.rpartition('.')[2]}&" in place
    assert not any(view.ascending for view in views("toy", "123", "authenticity", 2, Columns([], [], ["a"])))


def test_ui_prints_the_links_of_every_experiment_with_runs_once_the_server_answers(
    mirror: Mirror, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(mirror, run)
    mirror.save_views(views("toy", "123", "fid", 2, Columns(["arm"], [], ["a"])))
    Mirror("without runs")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setattr(os, "chdir", Mock())
    serve = Mock()
    monkeypatch.setattr(os, "execv", serve)
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "_exit", Mock())
    for variable in ui.QUIET:
        monkeypatch.setenv(variable, "")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ui, "_require_free", Mock())
        ui.run(argparse.Namespace(host="127.0.0.1", port=port, allow_host=[]))
    first, name, *links, last = capsys.readouterr().out.splitlines()
    assert first == f"starting MLflow on http://127.0.0.1:{port} ..."
    ui.print_once_it_answers(["late"], "127.0.0.1", port, -1)  # the server has ended
    assert capsys.readouterr().out == ""
    address = last.removesuffix(" (Ctrl-C ends it)")
    tags = mirror.client.get_experiment(mirror.experiment_id).tags
    assert name == "study"
    assert links == [f"  {what}: {address}/{page}" for what, page in pages(mirror.experiment_id, tags).items()]
    assert "/#/experiments/" in links[0]
    assert "workflowType=machine_learning" in links[0]
    assert serve.call_args.args[1][1:5] == ["-P", "-m", "mlflow", "server"]
