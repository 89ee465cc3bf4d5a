"""Costs that a search can weigh against quality: of training one model, or of drawing one sample.

Each cost is read from the run directory. So a search with a new journal finds the same values again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.registry import find
from harness.evaluation.protocol import Protocol
from harness.runs import lineage
from harness.runs.folder import Run

NEAR = 0.05
"""A value within this share of the best value counts as reaching the best."""
Against = Literal["calls", "sampling_seconds", "training_flops", "training_seconds"]


@dataclass(frozen=True)
class Cost:
    """A cost of a trial; lower is better."""

    unit: str
    """Unit of the cost, in words."""
    of: Callable[[Run, Protocol, str], float]
    """of(run, protocol, metric): cost of a trained run that was evaluated under this protocol."""
    of_curve: bool
    """Whether it depends on the metric's curve over NFE; trials are then judged at every NFE of their scale."""
    timed: bool
    """Whether it depends on the machine and its load; two searches then never share its values."""


def fewest(curve: Iterable[tuple[Any, float]], best: float, lower: bool) -> int | None:
    """Return the smallest NFE of a curve of (NFE, value) whose value is within `NEAR` of `best`; None without one."""
    slack = NEAR * abs(best)
    near = [nfe for nfe, value in curve if (value <= best + slack if lower else value >= best - slack)]
    return int(min(near)) if near else None


def calls(run: Run, protocol: Protocol, metric: str) -> float:
    """Return the smallest NFE (network calls per sample) at which the metric is within `NEAR` of the run's best value.

    The value is the same on every machine, except for effects of the metric's last digits.
    """
    values = run.evaluation(protocol)["values"][metric]
    curve = [(nfe, values[str(nfe)]) for nfe in run.config.evaluate.nfe]
    lower = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    found = fewest(curve, (min if lower else max)(value for _, value in curve), lower)
    assert found is not None, "the best is near itself"
    return found


def sampling_seconds(run: Run, protocol: Protocol, metric: str) -> float:
    """Return seconds per sample at the NFE that `calls` returns, in batches of `evaluate.batch_size`."""
    at = str(int(calls(run, protocol, metric)))
    return run.evaluation(protocol)["sampling_seconds"].get(at, math.nan) / protocol.num_samples


def training_flops(run: Run, protocol: Protocol, metric: str) -> float:
    """Return the floating-point operations of a training: one forward and one backward pass per sample and step.

    torch's formulas count them, so they are the same on every machine. The training of a teacher does not count.
    """
    train = run.config.train
    return run.environment["device_use"]["flops_per_sample"] * train.batch_size * train.steps


def training_seconds(run: Run, protocol: Protocol, metric: str) -> float:
    """Return the seconds of all training steps, without evaluations in between and without a teacher's training."""
    return lineage.training_seconds(run)


_NEAR_ITS_BEST = f" (within {NEAR:.0%} of the trial's best)"
COSTS: dict[Against, Cost] = {
    "calls": Cost(f"calls for each sample{_NEAR_ITS_BEST}", calls, of_curve=True, timed=False),
    "sampling_seconds": Cost(f"seconds for each sample{_NEAR_ITS_BEST}", sampling_seconds, of_curve=True, timed=True),
    "training_flops": Cost("operations of a training", training_flops, of_curve=False, timed=False),
    "training_seconds": Cost("seconds of a training", training_seconds, of_curve=False, timed=True),
}


def knee(front: Sequence[Sequence[float]]) -> int:
    """Return the index of the knee of a Pareto front of (quality, cost), a point between its two ends.

    The front starts with the best quality and ends with the lowest cost; it has at least three points. Quality and cost
    are divided by their difference between the ends, on a logarithmic scale if all values are positive. The knee has
    the smallest sum of the distances from the best quality and from the lowest cost. So it is the point farthest from
    the line through the ends, on the side of the ideal (Das 1999, "On characterizing the knee of the Pareto curve based
    on normal-boundary intersection").
    """
    assert len(front) > 2
    away = [0.0] * len(front)
    for column, ideal in zip(zip(*front, strict=True), (0, -1), strict=True):
        scaled = [math.log(x) for x in column] if min(column) > 0 else list(column)
        for i, x in enumerate(scaled):
            away[i] += abs(x - scaled[ideal]) / abs(scaled[0] - scaled[-1])
    return min(range(1, len(front) - 1), key=away.__getitem__)
