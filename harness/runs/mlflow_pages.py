"""MLflow's pages of an experiment: addresses that open them, and saved views, which are tags of the experiment.

MLflow opens an experiment on pages for language models unless the address names the type of workflow. A saved view
contains the filter, columns and grouping of the table of runs; an address opens it by its key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from harness.core.files import short_hash
from harness.core.registry import find
from harness.runs.mlflow_points import at_primary

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""
VIEW = "mlflow.sharedViewState."
"""Prefix of the tags of saved views."""
LONGEST_NOTE = 7500
"""Most characters in a note; MLflow keeps 8,000 of a run's tag."""


@dataclass(frozen=True)
class Told:
    """A report's data for MLflow about all runs of a plan."""

    files: Sequence[Path]
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    """Description, in Markdown."""
    seeds: int = 0
    """Step of the metrics."""


@dataclass(frozen=True)
class View:
    """A saved view of the table of runs: the runs of a plan, the best first."""

    name: str
    plan: str
    """Digest of the plan whose runs it shows."""
    columns: Sequence[str]
    """MLflow's names, like "tags.`arm`", from left to right."""
    order: str
    """The column to sort by."""
    ascending: bool
    arms: Sequence[str] = ()
    """Arms with one row each, the average over their runs; empty if each run has a row."""

    @property
    def key(self) -> str:
        """The key in its address. It depends only on the name, so a changed plan replaces the old view."""
        return short_hash(self.name.encode())

    def tag(self) -> str:
        """Return the tag that MLflow stores."""
        by = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "arm"}]}
        state = {
            "searchFilter": f"tags.plan = '{self.plan}' and tags.run LIKE '%'",  # the plan's record has no run
            "orderByKey": self.order,
            "orderByAsc": self.ascending,
            "selectedColumns": self.columns,
            "columnOrder": self.columns,
            "columnWidths": {self.order: 240},
            "runsHiddenMode": "SHOW_ALL",
            "groupBy": by if self.arms else None,
            "groupsExpanded": {f"tag.arm.{arm}": False for arm in self.arms},
        }
        return json.dumps({"name": self.name, "createdAt": 0, "state": json.dumps(state)})


@dataclass(frozen=True)
class Columns:
    """The columns in which the runs of a plan differ."""

    tags: Sequence[str]
    """Tags that identify a run."""
    params: Sequence[str]
    """Settings in which runs differ."""
    arms: Sequence[str] = ()
    """Names of the arms, if runs belong to arms."""


def views(name: str, plan: str, metric: str, nfe: int, columns: Columns) -> list[View]:
    """Return the views of a plan: the averages of its arms, if it has arms, and its runs.

    The columns are the tags of the run, the value at the primary NFE, and the settings in which runs differ.
    """
    value = f"metrics.`{at_primary(metric, nfe)}`"
    which = [f"tags.`{tag}`" for tag in columns.tags]
    settings = [f"params.`{param}`" for param in columns.params]
    lower: bool = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    found = [View(f"runs of {name}", plan, [*which, value, *settings], value, lower)]
    if columns.arms:
        found.insert(0, View(f"arms of {name}", plan, [value, *settings], value, lower, columns.arms))
    return found


def runs_page(experiment_id: str, **query: str) -> str:
    """Return the part of an address that opens the runs of an experiment."""
    return f"#/experiments/{experiment_id}/runs?{urlencode({**query, 'workflowType': 'machine_learning'})}"


def view_page(experiment_id: str, key: str) -> str:
    """Return the part of an address that opens a saved view."""
    return runs_page(experiment_id, viewStateShareKey=key, compareRunsMode="TABLE")


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the part of an address that opens a run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def artifact(run_id: str, path: str) -> str:
    """Return the address of a run's file, relative to the pages."""
    return f"get-artifact?path={quote(path)}&run_uuid={run_id}"


def linked(told: Told, experiment_id: str, run_id: str, views: Iterable[View]) -> Told:
    """Return `told` with links to the views and to the run with its files, and with the pictures, after the note."""
    places = {view.name: view_page(experiment_id, view.key) for view in views}
    places["verdicts and files"] = run_page(experiment_id, run_id)
    links = " · ".join(f"[{name}]({place})" for name, place in places.items())
    pictures = [path for path in told.files if path.suffix == ".png"]
    shown = [f"![{path.stem}]({artifact(run_id, f'{path.parent.name}/{path.name}')})" for path in pictures]
    return replace(told, note="\n\n".join([told.note, links, *shown]))


def pages(experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return {title: address relative to the pages} of all runs of an experiment and of its saved views."""
    keys = {_name(value): tag.removeprefix(VIEW) for tag, value in tags.items() if tag.startswith(VIEW)}
    saved = {name: view_page(experiment_id, key) for name, key in sorted(keys.items()) if name}
    return {"all runs": runs_page(experiment_id), **saved}


def _name(view: str) -> str:
    """Return the name of a saved view; empty if the tag is not a saved view."""
    try:
        return str(json.loads(view)["name"])
    except (ValueError, KeyError, TypeError):
        return ""


def shortened(note: str) -> str:
    """Return a note that MLflow accepts; a longer note is cut after the last line that fits."""
    if len(note) <= LONGEST_NOTE:
        return note
    return note[:LONGEST_NOTE].rpartition("\n")[0] + "\n\n(Shortened; the files of the study's run have the full text.)"


def links(client: MlflowClient, address: str) -> list[str]:
    """Return the names of the experiments that have runs, each followed by its links."""
    lines = []
    for experiment in client.search_experiments(order_by=["last_update_time ASC"]):
        if client.search_runs([experiment.experiment_id], max_results=1):
            lines.append(experiment.name)
            listed = pages(experiment.experiment_id, experiment.tags).items()
            lines += [f"  {name}: {address}/{page}" for name, page in listed]
    return lines
