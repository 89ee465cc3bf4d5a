"""The MLflow run of a folder. Everything in the folder is sent once, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from harness.core.config import to_dict
from harness.core.errors import UserError
from harness.core.files import read_json_if_there, read_lines, signature, write_json
from harness.core.reading import say_once
from harness.evaluation.protocol import Protocol
from harness.runs.contents import Look
from harness.runs.folder import Run
from harness.runs.mlflow_pages import NOTE, Told, shortened
from harness.runs.mlflow_points import curves, looks, measured, metric_name, point, primary_value, values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

LONGEST = 6000
"""Most characters of a parameter in MLflow."""


class Sent(TypedDict):
    """tracking/<place>.json: the MLflow run of a record, and how much of the folder was sent."""

    run_id: str
    uri: str
    status: str
    lines: int
    values: list[list[str]]
    files: list[str]
    looks: NotRequired[int]
    name: NotRequired[str]
    tags: NotRequired[dict[str, str]]
    params: NotRequired[list[str]]
    diagnosed: NotRequired[int]
    model: NotRequired[str]
    """Id of the trained model."""
    closed: NotRequired[list[int | None]]
    """`marks` of the run when all of it was sent and its status was final."""


def sent_of(path: Path) -> dict[str, Any]:
    """Return the content of a tracking file; empty if there is none or if it is damaged, which is reported."""
    try:
        return read_json_if_there(path, Sent, "It is skipped; remove it to stop this message.")
    except (UserError, OSError) as error:
        say_once(str(error))
        return {}


def marks(run: Run, protocol: Protocol) -> list[int | None]:
    """Return the signatures of the files that a run's record is made of, without reading them."""
    files = (
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "rungs.jsonl",
        "diverged.json",
        "pruned.json",
        "samples",
    )
    return [*(signature(f"{run.folder}/{name}") for name in files), signature(run.evaluation_file(protocol))]


class Record:
    """One MLflow run, and how much of its folder was sent."""

    def __init__(self, client: MlflowClient, path: Path, state: dict[str, Any]):
        self.client = client
        self.path = path
        self.state = state
        self.run_id: str = state["run_id"]

    def label(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Set its name and the missing parameters and tags; MLflow does not let parameters change."""
        from mlflow.entities import Param, RunTag

        known = {"name": self.state.get("name"), "tags": self.state.get("tags", {}), "params": self.state.get("params")}
        new = {key: value for key, value in tags.items() if known["tags"].get(key) != value}
        written = [Param(key, _shown(value)) for key, value in params.items() if key not in (known["params"] or ())]
        if name != known["name"]:
            self.client.update_run(self.run_id, name=name)
        for start in range(0, max(len(written), len(new) and 1), 100):  # MLflow's limit
            own = () if start else [RunTag(key, value) for key, value in new.items()]
            self.client.log_batch(self.run_id, params=written[start : start + 100], tags=own)
        self.state |= {"name": name, "tags": known["tags"] | new, "params": sorted({*(known["params"] or ()), *params})}
        if new or written or name != known["name"] or not self.path.exists():
            write_json(self.path, self.state)

    def tell(self, told: Told) -> None:
        """Send a report about all runs of a plan."""
        from mlflow.entities import RunTag

        now = time.time()
        metrics = [point(metric_name(name), value, now, told.seeds) for name, value in told.metrics.items()]
        tags = {**told.tags, **({NOTE: shortened(told.note)} if told.note else {})}
        self.client.log_batch(self.run_id, metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        for path in told.files:
            self.send_files([path], path.parent.name, again=True)

    def send_run(self, run: Run, protocol: Protocol) -> None:
        """Send everything new in a run directory: curves, looks of a search, values by NFE, pictures."""
        if "config.json" not in self.state["files"]:
            self.client.log_inputs(self.run_id, _inputs(run))
            self.send_files([run.folder / "environment.json", run.folder / "config.json"])
        lines = run.metrics(self.state["lines"])
        seen = read_lines(run.folder / "rungs.jsonl", Look, self.state.get("looks", 0))
        known = run.evaluation(protocol)
        new = [value for value in measured(known) if value not in self.state["values"]]
        points = [*curves(run, lines, self.state["lines"]), *values(run, known, new), *looks(seen, protocol)]
        self._send_points(points)
        self.state["lines"] += len(lines)
        self.state["values"] += new
        self.state["looks"] = self.state.get("looks", 0) + len(seen)
        if points or lines:
            write_json(self.path, self.state)
        grids = sorted([*run.folder.glob("samples/step-*.png"), *run.folder.glob(f"samples/{protocol.digest}-*.png")])
        self.send_files(grids, "samples")

    def send_model(self, experiment_id: str, run: Run, protocol: Protocol, primary: tuple[str, int] | None) -> None:
        """Send the model of a finished run once, with its value of the `primary` metric and NFE, without weights."""
        if "model" in self.state:
            return
        from mlflow.entities import LoggedModelOutput

        model = self.client.create_logged_model(
            experiment_id, run.name, self.run_id, {"checkpoints": f"{run.name}/checkpoints"},
            {"parameters": str(run.environment["parameters"])}, run.config.backbone.name,
        )  # fmt: skip
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, run.config.train.steps)])
        if primary and (found := primary_value(run, protocol, *primary, model.model_id)):
            self.client.log_batch(self.run_id, [found])
        self.state["model"] = model.model_id
        write_json(self.path, self.state)

    def send_diagnostics(self, run: Run) -> None:
        """Send the diagnostics by noise level after the run has ended, since MLflow shows metrics in the order sent."""
        lines = run.metrics(self.state.get("diagnosed", 0))
        if points := curves(run, lines, self.state.get("diagnosed", 0), by_noise=True):
            self._send_points(points)
        if lines:
            self.state["diagnosed"] = self.state.get("diagnosed", 0) + len(lines)
            write_json(self.path, self.state)

    def _send_points(self, points: list[Metric]) -> None:
        for start in range(0, len(points), 1000):  # MLflow's limit
            self.client.log_batch(self.run_id, metrics=points[start : start + 1000])

    def send_files(self, paths: list[Path], below: str | None = None, again: bool = False) -> None:
        """Send files as artifacts; `again` also sends files that were sent before."""
        for path in paths:
            if again or path.name not in self.state["files"]:
                self.client.log_artifact(self.run_id, str(path), below)
                self.state["files"] = sorted({*self.state["files"], path.name})
                write_json(self.path, self.state)

    def set_status(self, status: str, end: float | None = None) -> None:
        """Set RUNNING, FINISHED, FAILED or KILLED; the run ended at `end`, in Unix time, or now."""
        if status != self.state["status"]:
            if status == "RUNNING":
                self.client.update_run(self.run_id, status)
            else:
                self.client.set_terminated(self.run_id, status, None if end is None else int(1000 * end))
            self.state["status"] = status
            write_json(self.path, self.state)

    def close(self, found: list[int | None]) -> None:
        """Note that all of the run was sent, when its `marks` were these."""
        self.state["closed"] = found
        write_json(self.path, self.state)


def _inputs(run: Run) -> list[DatasetInput]:
    """Return a run's data set in MLflow's form; empty if earlier code trained the run and did not store it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = run.environment.get("data")
    if not data:
        return []
    dataset = run.config.dataset
    source = json.dumps(to_dict(dataset))
    found = Dataset(dataset.name, str(data["sha256"]), "harness", source, profile=json.dumps(data))
    return [DatasetInput(found, [InputTag("mlflow.data.context", "training")])]


def _shown(value: Any) -> str:
    """Return a parameter as text, cut with a note: MLflow would cut a long text without a note."""
    text = value if isinstance(value, str) else json.dumps(value)
    cut = f"... ({len(text)} characters, config.json has all)"
    return text if len(text) <= LONGEST else text[: LONGEST - len(cut)] + cut
