"""MLflow as a mirror of run directories: what is on disk is sent in order and once, and can be sent again from nothing.

Training never waits for MLflow. Each record's place (MLflow run id, lines and files sent) is kept in the
run directory; a point sent twice after a kill is the same point, since it carries the time it was measured at.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from harness.core.config import digest, flatten
from harness.core.errors import UserError, redacted
from harness.core.files import locked, read_json_if_there, read_lines, results_folder, write_json
from harness.core.provenance import machine
from harness.core.reading import say_once
from harness.evaluation.protocol import Protocol
from harness.runs.contents import Look
from harness.runs.folder import Run
from harness.runs.mlflow_store import Busy, artifacts, connect, default_uri, reason, told
from harness.runs.pairs import PairSet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric

POINTS = 200
"""About how many points of a curve MLflow gets; metrics.jsonl has them all."""
SELDOM = {"straightness", "learning_rate_factor"}
"""Lines with these are sent whatever their number."""
LONGEST = 6000
"""Characters of a parameter that MLflow keeps."""


class Sent(TypedDict):
    """tracking/<place>.json: the MLflow run of a record and how much of its folder it has been sent."""

    run_id: str
    uri: str
    status: str
    lines: int
    values: list[list[str]]
    files: list[str]
    looks: NotRequired[int]


def _sent(path: Path) -> dict[str, Any]:
    """What a tracking file says; empty where there is none, or where it is damaged, which is said."""
    try:
        return read_json_if_there(path, Sent, "It is passed over; remove it to be told no more.")
    except (UserError, OSError) as error:
        say_once(str(error))
        return {}


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

    def record(self, folder: Path, name: str, params: dict[str, Any], tags: dict[str, str], key: str = "") -> Record:
        """The MLflow run that stands for `folder` in this experiment, found again or begun."""
        from mlflow.entities import Param

        if not self.open:
            self._connect()
        path, state = self._noted(folder, key)
        if not state:
            run_id = self._begun(path.stem) or self._begin(name, {**_machine_tags(), **tags, "record": path.stem})
            uri = redacted(self.uri)
            state = {"run_id": run_id, "uri": uri, "status": "", "lines": 0, "values": [], "files": []}
            written = [Param(name, _shown(value)) for name, value in params.items()]
            for start in range(0, len(written), 100):  # MLflow's limit
                self.client.log_batch(run_id, params=written[start : start + 100])
            write_json(path, state)
        return Record(self.client, path, state)

    def _noted(self, folder: Path, key: str) -> tuple[Path, dict[str, Any]]:
        """Where a record's place is kept, and it, empty where there is none or the store has lost it.

        The file is named after the address that the store had when the record was begun; it may have moved since.
        """
        about = {"experiment": self.experiment, "folder": folder.name, "key": key}
        for path in sorted(folder.glob("tracking/*.json")):
            state = _sent(path)
            if state and path.stem == digest({"uri": state["uri"], **about}) and _exists(self.client, state["run_id"]):
                return path, state
        return folder / "tracking" / f"{digest({'uri': redacted(self.uri), **about})}.json", {}

    def send_pairs(self, pairs: PairSet, tags: dict[str, str]) -> None:
        """The MLflow run that stands for pairs: what made them is its parameters, their file of facts its artifact."""
        about = pairs.about
        params = {"number": pairs.number, **about["made"]}
        tags = {"pairs": pairs.name, "parent": about["teacher"], "commit": about["commit"], **tags}
        record = self.record(
            pairs.folder, f"pairs of {about['teacher']}", params, tags, tags.get("mlflow.parentRunId", "")
        )
        if not record.state["files"]:
            for name in ("calls", "pairs_per_second"):
                self.client.log_metric(record.run_id, name, about[name])
            record.send_files([pairs.folder / "pairs.json"])
        record.set_status("FINISHED")

    def _begun(self, place: str) -> str | None:
        """The MLflow run of a record whose place was lost, by a kill or by hand."""
        found = self.client.search_runs([self.experiment_id], f"tags.record = '{place}'", max_results=1)
        return found[0].info.run_id if found else None

    def _begin(self, name: str, tags: dict[str, str]) -> str:
        return self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id

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
        state = _sent(path)
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


class Record:
    """One MLflow run and how much of its folder it has been sent."""

    def __init__(self, client: Any, path: Path, state: dict[str, Any]):
        self.client = client
        self.path = path
        self.state = state
        self.run_id: str = state["run_id"]

    def send_run(self, run: Run, protocol: Protocol) -> None:
        """Send what a run directory holds beyond what was sent: curves, looks of a search, values by NFE, pictures."""
        lines = run.metrics(self.state["lines"])
        looks = read_lines(run.folder / "rungs.jsonl", Look, self.state.get("looks", 0))
        known = run.evaluation(protocol)
        measured = [[name, nfe] for name, by_nfe in _by_name(known).items() for nfe in by_nfe]
        new = [value for value in measured if value not in self.state["values"]]
        points = [*self._curves(run, lines), *_values(run, known, new), *_looks(looks, protocol)]
        for start in range(0, len(points), 1000):
            self.client.log_batch(self.run_id, metrics=points[start : start + 1000])
        self.state["lines"] += len(lines)
        self.state["values"] += new
        self.state["looks"] = self.state.get("looks", 0) + len(looks)
        if points or lines:
            write_json(self.path, self.state)
        grids = sorted([*run.folder.glob("samples/step-*.png"), *run.folder.glob(f"samples/{protocol.digest}-*.png")])
        self.send_files(grids, "samples")

    def _curves(self, run: Run, lines: list[dict[str, Any]]) -> list[Metric]:
        """About `POINTS` of all lines of a training, and those with what is measured seldom."""
        every = math.ceil(run.config.train.steps / run.config.train.log_every / POINTS)
        numbered = enumerate(lines, self.state["lines"] + 1)
        chosen = [line for i, line in numbered if i % every == 0 or line.keys() & SELDOM]
        return [
            _point(key, line[key], line["time"], line["step"])
            for line in chosen
            for key in line.keys() - {"step", "time"}
        ]

    def send_files(self, paths: list[Path], below: str | None = None, again: bool = False) -> None:
        """Send files as artifacts; those sent before only when `again`."""
        for path in paths:
            if again or path.name not in self.state["files"]:
                self.client.log_artifact(self.run_id, str(path), below)
                self.state["files"] = sorted({*self.state["files"], path.name})
                write_json(self.path, self.state)

    def set_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if status != self.state["status"]:
            if status == "RUNNING":
                self.client.update_run(self.run_id, status)
            else:
                self.client.set_terminated(self.run_id, status)
            self.state["status"] = status
            write_json(self.path, self.state)


def run_params(run: Run) -> dict[str, Any]:
    """A run's configuration by path, its number of parameters, the mean of its weighting and its data's fingerprint."""
    facts = {key: run.environment[key] for key in ("parameters", "weight_mean")}
    return {
        **flatten(run.config),
        **facts,
        **{f"data.{key}": value for key, value in run.environment.get("data", {}).items()},
    }


def _shown(value: Any) -> str:
    """A parameter as text; MLflow would cut a long one and say nothing."""
    text = value if isinstance(value, str) else json.dumps(value)
    cut = f"... ({len(text)} characters, config.json has all)"
    return text if len(text) <= LONGEST else text[: LONGEST - len(cut)] + cut


def _machine_tags() -> dict[str, str]:
    return {f"machine.{key}": str(value) for key, value in machine().items()}


def _values(run: Run, known: dict[str, Any], new: list[list[str]]) -> list[Metric]:
    """The values of an evaluation by metric and NFE, and the calls that an adaptive solver chose."""
    flows = {metric.name for metric in run.config.evaluate.flow_metrics}
    values = _by_name(known)
    points = []
    for metric, nfe in new:
        name = f"flow/{metric}" if metric in flows else metric  # training measures the like under the bare name
        points.append(_point(name, values[metric][nfe], known["time"][nfe], int(nfe)))
        if nfe == "0":
            points.append(_point("calls", known["calls"][nfe]["mean"], known["time"][nfe], 0))
    return points


def _by_name(known: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{metric: {NFE as text: value}} of equally many samples, and `<metric>_<number>_samples` where more are judged."""
    values = {**known["values"]}
    for metric, by_nfe in known["precise"].items():
        for nfe, precise in by_nfe.items():
            values.setdefault(f"{metric}_{precise['samples']}_samples", {})[nfe] = precise["value"]
    return values


def _looks(looks: list[dict[str, Any]], protocol: Protocol) -> list[Metric]:
    """What a search saw before the end, under a protocol."""
    own = [look for look in looks if look["protocol"] == protocol.digest]
    return [_point(f"rung_{m}", v, look["time"], look["step"]) for look in own for m, v in look["values"].items()]


def _point(name: str, value: float, seconds: float, step: int) -> Metric:
    """A value as MLflow takes it; `seconds` is Unix time."""
    from mlflow.entities import Metric

    return Metric(name, value, int(seconds * 1000), step)
