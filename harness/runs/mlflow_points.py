"""What MLflow is told of a run directory as numbers, and when the training began and ended."""

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
"""About how many points of a curve MLflow gets; metrics.jsonl has them all."""
SELDOM = {"straightness", "learning_rate_factor"}
"""Lines with these are sent whatever their number."""
SYSTEM = {"samples_per_second", "mfu", "coupling_seconds"}
"""MLflow shows these with the machine, below `system/`, not with the model."""
BY_NOISE = "by_log_snr/"
"""Within the names of diagnostics by noise level."""


def point(name: str, value: float, seconds: float, step: int, model_id: str | None = None) -> Metric:
    """A value as MLflow takes it, of a model too where one is named; `seconds` is Unix time."""
    from mlflow.entities import Metric

    return Metric(name, value, int(seconds * 1000), step, model_id)


def metric_name(text: str) -> str:
    """A name that MLflow takes: other characters than letters, digits and `_-./: ` become `_`."""
    return re.sub(r"[^/\w.\- :]", "_", text)


def at_primary(metric: str, nfe: int) -> str:
    """The name of the value that verdicts rest on, like `fid_at_nfe_32`."""
    return f"{metric}_at_nfe_{nfe}"


def curves(run: Run, lines: list[dict[str, Any]], sent: int, by_noise: bool = False) -> list[Metric]:
    """About `POINTS` of all lines of a training, of which so many were sent, and those with what is measured seldom.

    These are the diagnostics `by_noise` level, or all else.
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
    """[metric, NFE as text] of the values of an evaluation."""
    return [[name, nfe] for name, by_nfe in _by_name(known).items() for nfe in by_nfe]


def values(run: Run, known: dict[str, Any], new: list[list[str]]) -> list[Metric]:
    """The values of an evaluation by metric and NFE, and the calls that an adaptive solver chose."""
    flows = {metric.name for metric in run.config.evaluate.flow_metrics}
    found = _by_name(known)
    points = []
    for metric, nfe in new:
        name = f"flow/{metric}" if metric in flows else metric  # training measures the like under the bare name
        points.append(point(name, found[metric][nfe], known["time"][nfe], int(nfe)))
        if nfe == "0" and metric not in flows:
            points.append(point("calls", known["calls"][nfe]["mean"], known["time"][nfe], 0))
    return points


def _by_name(known: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{metric: {NFE as text: value}} of equally many samples, and `<metric>_<number>_samples` where more are judged."""
    found = {**known["values"]}
    for metric, by_nfe in known["precise"].items():
        for nfe, precise in by_nfe.items():
            found.setdefault(f"{metric}_{precise['samples']}_samples", {})[nfe] = precise["value"]
    return found


def primary_value(run: Run, protocol: Protocol, metric: str, nfe: int, model_id: str) -> Metric | None:
    """The value that a verdict takes of a run and its model; None where there is none."""
    known = run.evaluation(protocol)
    value = value_of(known, metric, nfe)
    if value is None:
        return None
    return point(at_primary(metric, nfe), value, known["time"][str(nfe)], run.config.train.steps, model_id)


def looks(lines: list[dict[str, Any]], protocol: Protocol) -> list[Metric]:
    """What a search saw before the end, under a protocol."""
    own = [look for look in lines if look["protocol"] == protocol.digest]
    return [point(f"rung_{m}", v, look["time"], look["step"]) for look in own for m, v in look["values"].items()]


def trained_between(run: Run) -> tuple[float, float] | None:
    """Unix time at which training began and logged its last line; None before its first.

    metrics.jsonl has no line at the start: that is as long before the first line as its steps took.
    """
    lines = run.metrics()
    if not lines:
        return None
    first = lines[0]
    speed = first.get("samples_per_second", math.inf)
    return first["time"] - first["step"] * run.config.train.batch_size / speed, lines[-1]["time"]
