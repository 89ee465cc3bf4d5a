"""MLflow as a mirror of run directories: everything on disk is sent once, in order; a new store gets it all again.

Training never waits for MLflow. The run directory keeps the state of each record (MLflow run id, lines and files sent).
A point that is sent twice after a kill is the same point, since it includes the time of its measurement.
"""

from __future__ import annotations

import getpass
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import digest
from harness.core.errors import redacted
from harness.core.files import locked, results_folder
from harness.core.reading import say_once
from harness.runs.mlflow_pages import NOTE, VIEW, View, shortened
from harness.runs.mlflow_record import Record, sent_of
from harness.runs.mlflow_store import Busy, artifacts, connect, default_uri, reason, statuses, told
from harness.runs.pairs import PairSet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


class Mirror:
    """One MLflow experiment; `UserError` if the store cannot be used. A busy store is tried again later."""

    def __init__(self, experiment: str):
        self.uri = default_uri()
        self.experiment = experiment
        self.open = False
        """Whether the store has answered and nothing has failed since."""
        self._active: Container[str] = ()
        """Ids of runs that `list_active` found."""
        try:
            self._connect()
        except Busy as busy:
            say_once(f"{busy} The work goes on; MLflow gets its records later.")

    def _connect(self) -> None:
        self.client = connect(self.uri)
        with told(self.uri):
            self.experiment_id = self._experiment()
        self.open = True

    def list_active(self) -> None:
        """Find the runs that exist in a SQLite store, all at once; another store is asked for each."""
        self._active = statuses(self.uri) or ()

    def forget(self) -> None:
        """Connect again before the next record: the store may have lost the experiment."""
        self.open = False

    def _experiment(self) -> str:
        """Return the experiment's id, found or created; a deleted experiment gets a successor with a numbered name."""
        names = itertools.chain([self.experiment], (f"{self.experiment} ({number})" for number in itertools.count(2)))
        known = (self.client.get_experiment_by_name(name) or self._begin_experiment(name) for name in names)
        return next(one.experiment_id for one in known if one and one.lifecycle_stage == "active")

    def _begin_experiment(self, name: str) -> Experiment | None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, None if self.uri.startswith("http") else artifacts().as_uri())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        if name != self.experiment:
            say_once(f"MLflow: the experiment {self.experiment} was deleted there. Records go to {name}.")
        return self.client.get_experiment_by_name(name)

    def record(
        self, folder: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], key: str = "",
        start: float | None = None,
    ) -> Record:  # fmt: skip
        """Return the MLflow run of `folder` in this experiment, found or created, with this name and these parameters
        and tags. It started at `start`, in Unix time, or now."""
        if not self.open:
            self._connect()
        path, state = self.noted(folder, key)
        if not state:
            own = {**_source(), **tags}
            begun = self._begun(path.stem)
            run_id = begun or self._begin(name, {**own, "record": path.stem}, start)
            state = {"run_id": run_id, "uri": redacted(self.uri), "status": "", "lines": 0, "values": [], "files": []}
            state |= {} if begun else {"name": name, "tags": own}
        record = Record(self.client, path, state)
        record.label(name, params, tags)
        return record

    def save_views(self, views: Iterable[View]) -> None:
        """Add saved views to the experiment."""
        for view in views:
            self.client.set_experiment_tag(self.experiment_id, f"{VIEW}{view.key}", view.tag())

    def noted(self, folder: Path, key: str) -> tuple[Path, dict[str, Any]]:
        """Return a record's tracking file and its content; empty if there is none or the store has lost the run.

        The file's name contains the store's address when the record was created; the store may have moved since.
        """
        about = {"uri": redacted(self.uri), "experiment": self.experiment, "folder": folder.name, "key": key}
        usual = folder / "tracking" / f"{digest(about)}.json"
        for path in _places(usual):
            state = sent_of(path)
            named = about | {"uri": state.get("uri")}
            own = usual.stem if named == about else digest(named)
            if state and path.stem == own and self._holds(state["run_id"]):
                return path, state
        return usual, {}

    def _holds(self, run_id: str) -> bool:
        return run_id in self._active or _exists(self.client, run_id)

    def describe(self, note: str) -> None:
        """Set the description of the experiment, in Markdown."""
        self.client.set_experiment_tag(self.experiment_id, NOTE, shortened(note))

    def begin_description(self, note: str) -> None:
        """Set the description of an experiment that has none yet."""
        if NOTE not in self.client.get_experiment(self.experiment_id).tags:
            self.describe(note)

    def send_pairs(self, pairs: PairSet, tags: dict[str, str], study: str) -> None:
        """Send the MLflow run of a set of pairs: its parameters say how they were made, pairs.json is its artifact."""
        about = pairs.about
        params = {"number": pairs.number, **about["made"]}
        tags = {"pairs": pairs.name, "parent": about["teacher"], "commit": about["commit"], **tags}
        record = self.record(pairs.folder, f"pairs of {about['teacher']}", params, tags, study)
        if not record.state["files"]:
            for name in ("calls", "pairs_per_second"):
                self.client.log_metric(record.run_id, name, about[name])
            record.send_files([pairs.folder / "pairs.json"])
        record.set_status("FINISHED")

    def _begun(self, place: str) -> str | None:
        """Return the id of a record's MLflow run whose tracking file was lost, by a kill or by hand."""
        found = self.client.search_runs([self.experiment_id], f"tags.record = '{place}'", max_results=1)
        return found[0].info.run_id if found else None

    def _begin(self, name: str, tags: dict[str, str], start: float | None) -> str:
        began = None if start is None else int(1000 * start)
        return self.client.create_run(self.experiment_id, began, tags, name).info.run_id

    def close_dead(self) -> None:
        """Mark runs as KILLED that a kill left as RUNNING, unless the store fails."""
        try:
            if self.open:
                running = statuses(self.uri)
                if running is None or {"RUNNING"} & {*running.values()}:
                    close_dead(self.client)
        except Exception as error:  # each store raises its own
            say_once(f"MLflow cannot mark killed runs now ({reason(error)}); the next command tries again.")


def close_dead(client: MlflowClient) -> None:
    """Mark RUNNING runs without a process as KILLED: a process that gets SIGKILL cannot do it."""
    for path in (results_folder() / "local").glob("*/*/tracking/*.json"):
        state = sent_of(path)
        if state and state["status"] in ("", "RUNNING") and _exists(client, state["run_id"]):
            with locked(path.parents[1] / "lock", wait=False) as free:
                if free:
                    Record(client, path, state).set_status("KILLED")


def _places(usual: Path) -> Iterator[Path]:
    """Yield the tracking files beside the usual one, which comes first."""
    yield usual
    yield from (path for path in sorted(usual.parent.glob("*.json")) if path != usual)


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _source() -> dict[str, str]:
    """Return the tags for the user and the program that send records."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
