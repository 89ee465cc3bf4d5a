"""The place of MLflow's records: a SQLite store is complete or absent, lies next to its pictures, and stops no work."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.core.errors import Stopped, UserError
from harness.core.files import results_folder
from harness.runs import mlflow_store
from harness.runs.mlflow_mirror import Mirror, Record, close_dead
from harness.runs.mlflow_store import Busy, connect, default_uri

HOSTILE = ("a?b#c%20d", "sp ace'q\"é日", "50%", "x;y&z=1:2@3", "back\\slash", "new\nline")
"""Characters with a meaning in a URI, in SQL or in a shell."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_tables: Callable[[Path], None]) -> Path:
    """The store that two simultaneous first starts have made."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(mlflow_store, "_make_tables", make_tables)
        patch.setenv("HARNESS_RESULTS", str(tmp_path_factory.mktemp("made")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert [*pool.map(connect, [default_uri()] * 2)]
        return results_folder() / "local" / "mlflow.db"


@pytest.fixture
def placed(made: Path) -> Path:
    """A copy of it as the default store of a test's results."""
    path = results_folder() / "local" / "mlflow.db"
    path.parent.mkdir(parents=True)
    shutil.copy(made, path)
    return path


def sent(mirror: Mirror, name: str = "run") -> Record:
    """Return a record with a picture, of a folder in the results."""
    folder = results_folder() / "local" / "runs" / name
    picture = folder / "step.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"picture")
    record = mirror.record(folder, name, {"a": 1}, {})
    record.send_files([picture], "samples", again=True)
    return record


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def unfinished(path: Path) -> None:
    """Write the state after a kill in MLflow's first seconds: empty tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, made: Path) -> None:
    """Copy the tables instead of having MLflow make them."""
    monkeypatch.setattr(mlflow_store, "_make_tables", functools.partial(shutil.copy, made))


def test_two_simultaneous_first_starts_make_one_store_and_one_experiment(made: Path, placed: Path) -> None:
    assert files(made.parent) == ["mlflow.db", "mlflow.db.lock"]
    with ThreadPoolExecutor(2) as pool:
        mirrors = [*pool.map(Mirror, ["train"] * 2)]
    assert mirrors[0].experiment_id == mirrors[1].experiment_id
    assert files(placed.parent) == ["mlflow.db"]


def test_an_experiment_that_another_process_begins_in_between_is_taken(
    placed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process creates it between this process's search and its attempt to create it."""
    from mlflow import MlflowClient

    begin = MlflowClient.create_experiment

    def second(client: MlflowClient, *given: Any) -> str:
        begin(client, *given)
        return begin(client, *given)

    monkeypatch.setattr(MlflowClient, "create_experiment", second)
    mirror = Mirror("train")
    assert mirror.client.get_run(sent(mirror).run_id).info.experiment_id == mirror.experiment_id


@pytest.mark.usefixtures("quick")
def test_a_store_that_a_kill_left_unfinished_is_made_again() -> None:
    path = results_folder() / "local" / "mlflow.db"
    unfinished(path)
    path.with_name("mlflow.db-journal").write_bytes(b"what the kill left")
    path.with_name(".mlflow.db.new").write_bytes(b"of a kill under this code")
    assert sent(Mirror("train")).run_id
    assert [name for name in files(results_folder()) if "mlflow.db" in name] == [
        "local/mlflow.db", "local/mlflow.db.lock",
    ]  # fmt: skip


def test_a_file_on_a_network_file_system_is_refused_and_a_server_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The innermost mount decides; the folder of a link is the one that it leads to."""
    places = {"/": "ext4", str(tmp_path): "nfs4", str(tmp_path / "scratch"): "xfs", str(tmp_path / "scr"): "lustre"}
    mounted = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in places.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounted)
    told = r"^MLFLOW_TRACKING_URI: .*shared/one\.db lies on nfs4, a network file system, where two hosts can damage"
    with pytest.raises(UserError, match=told):
        connect(f"sqlite:///{tmp_path}/shared/one.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "scratch")
    connect(f"sqlite:///{tmp_path}/link/one.db")
    assert (tmp_path / "scratch" / "one.db").exists()
    with pytest.raises(UserError, match="cannot be reached"):
        connect("http://127.0.0.1:9")


def test_a_file_that_is_not_a_store_is_left_alone_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    unfinished(path)
    said = {path.read_bytes(): "MLflow was killed while it made its tables"}
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE moz_places (url TEXT)")
    said |= {path.read_bytes(): "is another program's database", b"no database" * 99: "file is not a database"}
    for content, reason in said.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as refused:
            Mirror("train")
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert path.read_bytes() == content
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        with pytest.raises(UserError, match=r"own\.db: is not a file"):
            Mirror("train")
        (path.rmdir if path.is_dir() else path.unlink)()


def test_a_store_of_another_version_is_reported(placed: Path) -> None:
    with contextlib.closing(sqlite3.connect(placed)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(UserError, match=r"has another version \(.*ffffffffffff.*Install the MLflow that made it"):
        Mirror("train")


def test_an_address_without_a_store_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("http://", "https:///x", "sqlite://", "sqlite://host/x.db", "sqlite:///:memory:", "sqlite:///"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        with pytest.raises(UserError, match=rf"^MLFLOW_TRACKING_URI: {given} has no (server|path).*\. Write "):
            default_uri()


@pytest.mark.usefixtures("quick")
def test_any_path_is_valid_for_a_store_and_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOSTILE:
        home = tmp_path / "home"
        monkeypatch.setenv("HARNESS_RESULTS", str(home / name))
        record = sent(Mirror("train"))
        local = home / name / "local"
        assert [path.name for path in home.iterdir()] == [name]
        assert (local / "mlflow-artifacts" / record.run_id / "artifacts" / "samples" / "step.png").exists(), name
        with contextlib.closing(sqlite3.connect(local / "mlflow.db")) as connection:
            assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(record.run_id,)]
        shutil.rmtree(home)


@pytest.mark.parametrize("copied", [True, False])
def test_a_store_that_moves_with_its_results_takes_its_pictures_along(
    placed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], copied: bool
) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    first = sent(Mirror("train"))
    _artifact_repos_cache.clear()  # the next command does not have this cache
    old = results_folder()
    new = tmp_path / "elsewhere 50%"
    (shutil.copytree if copied else os.rename)(old, new)
    before = files(old)
    monkeypatch.setenv("HARNESS_RESULTS", str(new))
    for said in (1, 0):
        mirror = Mirror("train")
        assert capsys.readouterr().err.count("are now read from") == said
        assert sent(mirror).run_id == first.run_id
        other = sent(mirror, "other")
    assert files(old) == before
    for record in (first, other):
        (picture,) = mirror.client.list_artifacts(record.run_id, "samples")
        assert picture.path == "samples/step.png"
        place = new / "local" / "mlflow-artifacts" / record.run_id
        assert mirror.client.get_run(record.run_id).info.artifact_uri == f"{place.as_uri()}/artifacts"
        assert (place / "artifacts" / picture.path).exists()


def test_a_store_that_several_results_share_does_not_move(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared.db"
    shutil.copy(made, shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    first = sent(Mirror("train"))
    place = results_folder() / "local" / "mlflow-artifacts"
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "other"))
    assert (place / sent(Mirror("train"), "other").run_id).exists()
    shutil.rmtree(place)
    assert not (place / sent(Mirror("train"), "third").run_id).exists()
    assert Mirror("train").client.get_run(first.run_id).info.artifact_uri.startswith(f"file://{tmp_path}/other/")


@contextlib.contextmanager
def written_to(path: Path, how: str) -> Iterator[None]:
    """Hold a lock on the file with another connection."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {how}")
        yield


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_store_that_is_locked_at_the_start_gets_everything_later(
    placed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    monkeypatch.setattr(mlflow_store, "PATIENCE_S", 0.05)
    with written_to(placed, how):
        mirror = Mirror("train")
        mirror.close_dead()
        with pytest.raises(Busy):
            sent(mirror)
        with pytest.raises(Busy):  # as `harness ui` does
            close_dead(connect(default_uri()))
    assert capsys.readouterr().err.count("accepts no records now (database is locked). The work goes on") == 1
    record = sent(mirror)
    assert mirror.client.get_run(record.run_id).data.params == {"a": "1"}


def test_a_full_disk_is_not_a_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow_store, "_make", full)
    assert not Mirror("train").open
    assert "accepts no records now ([Errno 28] No space left on device)" in capsys.readouterr().err


def test_a_stop_while_another_process_makes_the_store_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise Stopped("stopped while it waited")

    monkeypatch.setattr(mlflow_store, "_make", stopped)
    with pytest.raises(Stopped):
        Mirror("train")


def test_an_overloaded_server_is_not_a_users_mistake_but_another_page_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(BaseHTTPRequestHandler):
        code = 503

        def do_POST(self) -> None:
            self.send_error(self.code)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        assert not Mirror("train").open
        Answer.code = 404
        with pytest.raises(UserError, match="cannot be reached"):
            Mirror("train")
        server.shutdown()


def test_a_deleted_experiment_stays_deleted_and_a_new_one_is_made(
    placed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Mirror("train")
    old = sent(first)
    first.client.delete_experiment(first.experiment_id)
    for said in (1, 0):
        second = Mirror("train")
        told = "the experiment train was deleted there. Records go to train (2)."
        assert capsys.readouterr().err.count(told) == said
        new = sent(second)
    assert second.client.get_experiment(second.experiment_id).name == "train (2)"
    assert len(second.client.search_runs([second.experiment_id])) == 1
    assert second.client.get_run(old.run_id).info.lifecycle_stage == "deleted"
    second.client.delete_experiment(second.experiment_id)
    assert sent(Mirror("train")).run_id not in (old.run_id, new.run_id)
