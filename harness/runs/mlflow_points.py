"""The numbers of a run directory that MLflow gets, and when the training began and ended."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from harness.evaluation.protocol import Protocol
from harness.runs.contents import value_of
from harness.runs.folder import Run

if TYPE_CHECKING:
    from mlflow.entities import Metric

POINTS = 200
"""Approximate number of points per curve in MLflow; metrics.jsonl has all points."""
SELDOM = {"straightness", "learning_rate_factor"}
"""Lines with these keys are all sent."""
SYSTEM = {"samples_per_second", "mfu", "coupling_seconds"}
"""Keys that MLflow shows with the machine, below `system/`, not with the model."""
BY_NOISE = "by_log_snr/"
"""Part of the names of diagnostics by noise level."""


def point(name: str, value: float, seconds: float, step: int, model_id: str | None = None) -> Metric:
    """Return a value in MLflow's form, with the model if `model_id` is given; `seconds` is Unix time."""
    from mlflow.entities import Metric

    return Metric(name, value, int(seconds * 1000), step, model_id)


def metric_name(text: str) -> str:
    """Return a name that MLflow accepts: characters other than letters, digits and `_-./: ` become `_`."""
    return re.sub(r"[^/\w.\- :]", "_", text)


def at_primary(metric: str, nfe: int) -> str:
    """Return the name of the value that verdicts compare, like `fid_at_nfe_32`."""
    return f"{metric}_at_nfe_{nfe}"


def curves(run: Run, lines: list[dict[str, Any]], sent: int, by_noise: bool = False) -> list[Metric]:
    """Return the points of `lines`, thinned to about `POINTS` per training; lines with `SELDOM` keys are all kept.

    `sent` is the number of earlier lines. With `by_noise`, return only the diagnostics by noise level, else the rest.
    """
    every = math.ceil(run.config.train.steps / run.config.train.log_every / POINTS)
    numbered = enumerate(lines, sent + 1)
    chosen = [line for i, line in numbered if i % every == 0 or line.keys() & SELDOM]
    return [
        point(f"system/{key}" if key in SYSTEM else key, value, line["time"], line["step"])
        for line in chosen
        for key, value in line.items()
        if key not in ("step", "time") and (BY_NOISE in key) == by_noise
    ]


def measured(known: dict[str, Any]) -> list[list[str]]:
    """Return [metric, NFE as text] of each value of an evaluation."""
    return [[name, nfe] for name, by_nfe in _by_name(known).items() for nfe in by_nfe]


def values(run: Run, known: dict[str, Any], new: list[list[str]]) -> list[Metric]:
    """Return the `new` values of an evaluation by metric and NFE, and the calls that an adaptive solver chose."""
    flows = {metric.name for metric in run.config.evaluate.flow_metrics}
    found = _by_name(known)
    points = []
    for metric, nfe in new:
        name = f"flow/{metric}" if metric in flows else metric  # training logs similar values under the plain name
        points.append(point(name, found[metric][nfe], known["time"][nfe], int(nfe)))
        if nfe == "0" and metric not in flows:
            points.append(point("calls", known["calls"][nfe]["mean"], known["time"][nfe], 0))
    return points


def _by_name(known: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return {metric: {NFE as text: value}}; values from more samples are called `<metric>_<number>_samples`."""
    found = {**known["values"]}
    for metric, by_nfe in known["precise"].items():
        for nfe, precise in by_nfe.items():
            found.setdefault(f"{metric}_{precise['samples']}_samples", {})[nfe] = precise["value"]
    return found


def primary_value(run: Run, protocol: Protocol, metric: str, nfe: int, model_id: str) -> Metric | None:
    """Return the value of a run and its model that verdicts compare; None if there is no value."""
    known = run.evaluation(protocol)
    value = value_of(known, metric, nfe)
    if value is None:
        return None
    return point(at_primary(metric, nfe), value, known["time"][str(nfe)], run.config.train.steps, model_id)


def looks(lines: list[dict[str, Any]], protocol: Protocol) -> list[Metric]:
    """Return the values that a search measured during training, under a protocol."""
    own = [look for look in lines if look["protocol"] == protocol.digest]
    return [point(f"rung_{m}", v, look["time"], look["step"]) for look in own for m, v in look["values"].items()]


def trained_between(run: Run) -> tuple[float, float] | None:
    """Return the Unix times of the start of training and of its last line; None before the first line.

    metrics.jsonl has no line at the start, so the start is computed from the speed of the first line's steps.
    """
    lines = run.metrics()
    if not lines:
        return None
    first = lines[0]
    speed = first.get("samples_per_second", math.inf)
    return first["time"] - first["step"] * run.config.train.batch_size / speed, lines[-1]["time"]
