"""MLflow as a mirror of run directories: what is on disk is sent in order and once, and can be sent again from nothing.

Training never waits for MLflow. Each record's place (MLflow run id, lines and files sent) is kept in the
run directory; a point sent twice after a kill is the same point, since it carries the time it was measured at.
"""

from __future__ import annotations

import getpass
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import digest
from harness.core.errors import redacted
from harness.core.files import locked, results_folder
from harness.core.reading import say_once
from harness.runs.mlflow_pages import NOTE, VIEW, View, shortened
from harness.runs.mlflow_record import Record, sent_of
from harness.runs.mlflow_store import Busy, artifacts, connect, default_uri, reason, told
from harness.runs.pairs import PairSet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


class Mirror:
    """One MLflow experiment; `UserError` when there can be no such store. One that is busy is asked again later."""

    def __init__(self, experiment: str):
        self.uri = default_uri()
        self.experiment = experiment
        self.open = False
        """Whether the store has answered, and nothing has failed since."""
        try:
            self._connect()
        except Busy as busy:
            say_once(f"{busy} The work goes on; what is on disk is sent later.")

    def _connect(self) -> None:
        self.client = connect(self.uri)
        with told(self.uri):
            self.experiment_id = self._experiment()
        self.open = True

    def forget(self) -> None:
        """Look everything up again before the next record: what was known may be gone from the store."""
        self.open = False

    def _experiment(self) -> str:
        """Found or begun. One that was deleted in the pages stays so, and another stands beside it."""
        names = itertools.chain([self.experiment], (f"{self.experiment} ({number})" for number in itertools.count(2)))
        known = (self.client.get_experiment_by_name(name) or self._begin_experiment(name) for name in names)
        return next(one.experiment_id for one in known if one and one.lifecycle_stage == "active")

    def _begin_experiment(self, name: str) -> Experiment | None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_experiment(name, None if self.uri.startswith("http") else artifacts().as_uri())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another process was faster
                raise
        if name != self.experiment:
            say_once(f"MLflow: the experiment {self.experiment} was deleted there. Records go to {name}.")
        return self.client.get_experiment_by_name(name)

    def record(
        self, folder: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], key: str = "",
        start: float | None = None,
    ) -> Record:  # fmt: skip
        """The MLflow run that stands for `folder` in this experiment, found again or begun, with this name and what it
        lacks of the parameters and tags. It began at `start`, in Unix time, or now."""
        if not self.open:
            self._connect()
        path, state = self._noted(folder, key)
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
        """Put saved views among those of the experiment."""
        for view in views:
            self.client.set_experiment_tag(self.experiment_id, f"{VIEW}{view.key}", view.tag())

    def _noted(self, folder: Path, key: str) -> tuple[Path, dict[str, Any]]:
        """Where a record's place is kept, and it, empty where there is none or the store has lost it.

        The file is named after the address that the store had when the record was begun; it may have moved since.
        """
        about = {"experiment": self.experiment, "folder": folder.name, "key": key}
        for path in sorted(folder.glob("tracking/*.json")):
            state = sent_of(path)
            if state and path.stem == digest({"uri": state["uri"], **about}) and _exists(self.client, state["run_id"]):
                return path, state
        return folder / "tracking" / f"{digest({'uri': redacted(self.uri), **about})}.json", {}

    def describe(self, note: str) -> None:
        """Make a note, in Markdown, the description of the experiment."""
        self.client.set_experiment_tag(self.experiment_id, NOTE, shortened(note))

    def send_pairs(self, pairs: PairSet, tags: dict[str, str], study: str) -> None:
        """The MLflow run that stands for pairs: what made them is its parameters, their file of facts its artifact."""
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
        """The MLflow run of a record whose place was lost, by a kill or by hand."""
        found = self.client.search_runs([self.experiment_id], f"tags.record = '{place}'", max_results=1)
        return found[0].info.run_id if found else None

    def _begin(self, name: str, tags: dict[str, str], start: float | None) -> str:
        began = None if start is None else int(1000 * start)
        return self.client.create_run(self.experiment_id, began, tags, name).info.run_id

    def close_dead(self) -> None:
        """Mark as KILLED what a kill left as RUNNING, if the store says it now."""
        try:
            if self.open:
                close_dead(self.client)
        except Exception as error:  # each store raises its own
            say_once(f"MLflow does not say what was killed ({reason(error)}); the next command asks again.")


def close_dead(client: MlflowClient) -> None:
    """Mark as KILLED what stands as RUNNING though no process works on it: SIGKILL lets nobody say so."""
    for path in (results_folder() / "local").glob("*/*/tracking/*.json"):
        state = sent_of(path)
        if state and state["status"] in ("", "RUNNING") and _exists(client, state["run_id"]):
            with locked(path.parents[1] / "lock", wait=False) as free:
                if free:
                    Record(client, path, state).set_status("KILLED")


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _source() -> dict[str, str]:
    """Who sends records, and by what."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "unknown"
    return {"mlflow.user": user, "mlflow.source.name": "harness", "mlflow.source.type": "LOCAL"}
