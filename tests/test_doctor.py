"""`harness doctor`: it passes here, and it reports each fault that prevents training with a remedy."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import socket
import sqlite3
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness.cli import doctor, main
from harness.core.files import results_folder
from harness.runs import mlflow_store


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code, and the output as one line."""
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return code, " ".join(out.replace("│", " ").split())


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_nothing_hinders_here(capsys: pytest.CaptureFixture[str]) -> None:
    """It also leaves no files behind."""
    code, said = examined(capsys)
    assert (code, said.endswith("nothing prevents training")) == (0, True)
    for what in ("Python", "torch", "GPU", "packages", "results", "runs", "MLflow", "data", "Inception", "studies"):
        assert what in said
    assert not results_folder().exists()


def test_a_folder_that_cannot_be_written_hinders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", "/proc/results")
    code, said = examined(capsys)
    assert code == 1
    assert said.endswith("prevents training: results, MLflow")  # its SQLite file would be there
    assert "Set HARNESS_RESULTS to another folder." in said


def test_a_file_system_without_locks_hinders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    (found,) = doctor._results()
    assert found.hinders
    assert found.found == f"{results_folder()}: its file system has no file locks"


def test_wrong_folders_hinder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "no"))
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path / "none"))
    code, said = examined(capsys)
    assert (code, said.endswith("prevents training: data, studies")) == (1, True)
    (tmp_path / "no" / "MNIST").mkdir(parents=True)
    assert "MNIST" in examined(capsys)[1]


def test_a_store_that_is_locked_is_no_fault_and_an_unusable_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on beside a locked SQLite file, but not with a file that is not SQLite, nor without the server. The
    address is printed without its password.
    """
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.05)
    place = mlflow_store.sqlite_path(mlflow_store.default_uri())
    place.parent.mkdir(parents=True)
    with sqlite3.connect(place) as store:
        store.execute("CREATE TABLE one (a)")
        store.execute("BEGIN IMMEDIATE")
        code, said = examined(capsys)
        assert (code, "database is locked" in said) == (0, True)
        store.rollback()
    assert "database" not in examined(capsys)[1]
    place.write_text("no database at all, but long enough to be read as the header of one" * 20)
    code, said = examined(capsys)
    assert (code, "file is not a database" in said) == (1, True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{unused.getsockname()[1]}")
        code, said = examined(capsys)
    assert (code, "Fix this, or set MLFLOW_TRACKING_URI." in said, "secret" in said) == (1, True, False)


def test_packages_are_compared_with_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another version gives a note; a version that is too old, or a missing package, is a fault."""
    real = importlib.metadata.version

    def installed(**versions: str | None) -> list[doctor.Finding]:
        def version(name: str) -> str:
            if name in versions and versions[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        return [*doctor._versions()]

    (well,) = installed()
    assert (well.advice, well.hinders) == ("", False)
    locked_at = doctor._locked(doctor.ROOT / "requirements.lock")
    assert locked_at["numpy"] == real("numpy")
    (other,) = installed(numpy="99.1")
    assert (other.found, other.hinders) == (f"numpy 99.1 (lock: {locked_at['numpy']})", False)
    for versions in ({"numpy": "1.0"}, {"numpy": None}):
        (wrong,) = installed(**versions)
        assert wrong.hinders
        assert "numpy" in wrong.found
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert "in versions that the package allows" in installed()[0].found


def test_the_weights_are_found_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_INCEPTION", str(tmp_path / "weights.pth"))
    assert "Set HARNESS_INCEPTION to a copy" in examined(capsys)[1]
    (tmp_path / "weights.pth").write_bytes(b"weights")
    assert "HARNESS_INCEPTION" not in examined(capsys)[1]
