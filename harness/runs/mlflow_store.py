"""The store of MLflow's records: its address, and repairs of a SQLite file.

MLflow creates its tables step by step, so a kill or a second process can leave them incomplete. It stores absolute
paths, so a moved store would write to the old place. This module repairs both before MLflow opens the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from harness.core.errors import Stopped, UserError, redacted
from harness.core.files import locked, results_folder
from harness.core.garbage import pass_over
from harness.core.reading import say_once

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported, which reads it once
PATIENCE_S = 2.0
"""Seconds that the start of a command waits for a SQLite file that another process writes to."""
NETWORKED = {
    "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "nfs",
    "nfs4", "panfs", "smb3", "smbfs",
}  # fmt: skip
"""Types of file systems that several hosts share."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
_SIDES = ("", "-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite writes; it applies a leftover journal to any database file of that name."""


class Busy(UserError):
    """The store exists but accepts nothing now: it is locked or full, or its server is overloaded."""


def default_uri() -> str:
    """Return MLFLOW_TRACKING_URI with an absolute path, or else a SQLite file below the results folder."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return _uri_of(_own())
    if given.startswith("sqlite"):
        return _uri_of(sqlite_path(given), given)
    if given.startswith(("http:", "https:")) and not urlsplit(given).hostname:
        raise UserError(f"MLFLOW_TRACKING_URI: {given} has no server name. Write it like http://127.0.0.1:5000.")
    if given.startswith("file:") and not given.startswith("file:/"):
        given = given.removeprefix("file:")
    return given if ":" in given else str(Path(given).absolute())


def artifacts() -> Path:
    """Return the folder of artifacts for a store without a server."""
    return results_folder() / "local" / "mlflow-artifacts"


def for_mlflow(uri: str) -> str:
    """Return an address for MLflow: for plain `sqlite:` it would make a folder named like the quoted path."""
    return f"sqlite+pysqlite:{uri.removeprefix('sqlite:')}" if uri.startswith("sqlite:") else uri


def connect(uri: str) -> MlflowClient:
    """Return a client of the store at an address; creates a missing SQLite file first.

    Raises `Busy`, or another `UserError` if the store cannot be used.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # MLflow also raises the errors that it logs
    with told(uri):
        if uri.startswith("sqlite"):
            _mend(sqlite_path(uri).resolve())
        from mlflow import MlflowClient

        client = MlflowClient(for_mlflow(uri))
        pass_over()
        client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Turn any error of a store into `Busy` or another `UserError`, in one line."""
    try:
        yield
    except (UserError, Stopped):
        raise
    except Exception as error:  # each store raises its own
        why = reason(error)
        if _is_busy(error):
            raise Busy(f"MLflow at {uri} accepts no records now ({why}).") from error
        if "database schema" in why or "Can't locate revision" in why:
            why = why.partition(". ")[0]
            advice = "Install the MLflow that made it, or run `mlflow db upgrade` if the installed MLflow is newer."
            raise UserError(f"MLflow at {uri} has another version ({why}). {advice}") from error
        raise UserError(
            f"MLflow at {uri} cannot be reached ({why}). Correct MLFLOW_TRACKING_URI or the store."
        ) from error


def reason(error: Exception) -> str:
    """Return a store's error in one line."""
    source = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    return redacted(str(source).strip().partition("\n")[0]).rstrip(".")


def is_lost(error: Exception) -> bool:
    """Whether a run or an experiment no longer exists: it was deleted in the pages, or for good."""
    return getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def _is_busy(error: BaseException | None) -> bool:
    """Whether an error or its cause is temporary."""
    from requests.exceptions import ReadTimeout, RetryError

    if error is None:
        return False
    passes = isinstance(error, (ReadTimeout, RetryError)) or getattr(error, "errno", None) == errno.ENOSPC
    passes = passes or getattr(error, "sqlite_errorcode", -1) & 0xFF in _BUSY  # the higher bits only give details
    return passes or _is_busy(error.__cause__ or error.__context__)


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of a SQLite store."""
    from sqlalchemy import make_url

    with told(uri):
        url = make_url(uri)
    if url.host or not url.database or url.database == ":memory:":
        raise UserError(f"MLFLOW_TRACKING_URI: {uri} has no path of a file. Write sqlite:/// and the path.")
    return Path(url.database).absolute()


def statuses(uri: str) -> dict[str, str] | None:
    """Return {id: status} of all runs of a SQLite store that are not deleted; None if it must be asked in MLflow's way.

    MLflow answers for one run at a time, in milliseconds.
    """
    if not uri.startswith("sqlite"):
        return None
    place = f"file:{quote(str(sqlite_path(uri)))}?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(place, uri=True)) as data:
        return dict(data.execute("select run_uuid, status from runs where lifecycle_stage = 'active'"))
    return None  # another version of MLflow may have other tables


def _uri_of(path: Path, like: str = "sqlite://") -> str:
    """Return the address of a SQLite file, with the driver and the options of the address `like`."""
    from sqlalchemy import make_url

    return make_url(like).set(database=str(path)).render_as_string(hide_password=False)


def _refuse_network(path: Path) -> None:
    """Raise `UserError` if a network file system holds a path: there, locks of two hosts may not see each other."""
    import psutil

    places = [place for place in psutil.disk_partitions(all=True) if path.is_relative_to(place.mountpoint)]
    kind = max(places, key=lambda place: len(place.mountpoint)).fstype if places else ""
    if kind in NETWORKED:
        reason = f"{path} lies on {kind}, a network file system, where two hosts can damage a SQLite file"
        advice = "Name a server, or a file on a disk of this machine: sqlite:/// and its path."
        raise UserError(f"MLFLOW_TRACKING_URI: {reason}. {advice}")


def _own() -> Path:
    return results_folder() / "local" / "mlflow.db"


def _mend(path: Path) -> None:
    """Make a SQLite store complete and writable; if it lies in this results folder, its artifacts do too."""
    _refuse_network(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_made(path):
        with locked(path.with_name(f"{path.name}.lock")):
            if not _is_made(path):
                _make(path)
    with contextlib.closing(sqlite3.connect(path, PATIENCE_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE experiments SET name = name")  # fails if the file is read-only
        _bring_files_along(connection, path)
        connection.execute("COMMIT")


def _is_made(path: Path) -> bool:
    """Whether MLflow has created all its tables in a file; its last step adds an experiment.

    `UserError` if the file is not a store, or an incomplete store of the user.
    """
    if not path.exists():
        return False
    if not path.is_file():
        raise UserError(f"{path}: is not a file. Set MLFLOW_TRACKING_URI to the path of a file.")
    with contextlib.closing(sqlite3.connect(path, PATIENCE_S)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "experiments" not in tables:
            raise UserError(f"{path}: is another program's database. Set MLFLOW_TRACKING_URI to another file.")
        if tables and connection.execute("SELECT 1 FROM experiments").fetchone():
            return True
    if tables and path != _own().resolve():
        raise UserError(
            f"{path}: MLflow was killed while it made its tables, and they are empty. "
            "Remove the file and run the same command again."
        )
    return False


def _make(path: Path) -> None:
    """Create an empty store under another name and rename it: a kill leaves no store or a complete one."""
    new = path.with_name(f".{path.name}.new")
    _remove(new)
    _make_tables(new)
    _remove(path)
    new.replace(path)


def _make_tables(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(for_mlflow(_uri_of(path)), artifacts().as_uri()).engine.dispose()


def _remove(path: Path) -> None:
    for side in _SIDES:
        path.with_name(path.name + side).unlink(missing_ok=True)


def _bring_files_along(connection: sqlite3.Connection, store: Path) -> None:
    """Update the paths of artifacts in a store that was moved or copied with its results folder.

    A store outside the results folder keeps paths that still exist: other results may share it.
    """
    ours = artifacts()
    for (location,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
        place = Path(url2pathname(urlsplit(location).path))
        if place.parts[-2:] != ours.parts[-2:] or place.resolve() == ours.resolve():
            continue
        if store.is_relative_to(results_folder().resolve()) or not place.exists():
            for column in ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location"):
                _replace_start(connection, column, location, ours.as_uri())
            say_once(f"MLflow: files of {place} are now read from {ours}.")


def _replace_start(connection: sqlite3.Connection, column: str, old: str, new: str) -> None:
    """Replace the prefix `old` of the addresses in a column."""
    table, _, name = column.partition(".")
    connection.execute(
        f"UPDATE {table} SET {name} = ? || substr({name}, length(?) + 1) "
        f"WHERE substr({name} || '/', 1, length(?) + 1) = ? || '/'",
        (new, old, old, old),
    )
