"""What a search may weigh against quality: what training one model costs, or one sample of it.

Each is read from run directories, which are the truth: a search that begins its journal anew finds the same values.
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
"""A value within this share of the best counts as reaching it."""
Against = Literal["calls", "sampling_seconds", "training_flops", "training_seconds"]


@dataclass(frozen=True)
class Cost:
    """One of `COSTS`; less is better."""

    unit: str
    """What it counts, and of what."""
    of: Callable[[Run, Protocol, str], float]
    """That of a trained run, judged under a protocol by a metric."""
    of_curve: bool
    """Whether it is read off the metric's curve over NFE, so that trials are judged at every NFE of their scale."""
    timed: bool
    """Whether it depends on the machine and on what else works there, so that two searches never share its values."""


def fewest(curve: Iterable[tuple[Any, float]], best: float, lower: bool) -> int | None:
    """The smallest NFE of (NFE, value) at which the value is within `NEAR` of `best`; None where none comes so near."""
    slack = NEAR * abs(best)
    near = [nfe for nfe, value in curve if (value <= best + slack if lower else value >= best - slack)]
    return int(min(near)) if near else None


def calls(run: Run, protocol: Protocol, metric: str) -> float:
    """Calls of the network for each sample: the smallest NFE at which the metric is within `NEAR` of the run's best.

    It is the same on every machine, up to the last digits of the metric.
    """
    values = run.evaluation(protocol)["values"][metric]
    curve = [(nfe, values[str(nfe)]) for nfe in run.config.evaluate.nfe]
    lower = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    found = fewest(curve, (min if lower else max)(value for _, value in curve), lower)
    assert found is not None, "the best is near itself"
    return found


def sampling_seconds(run: Run, protocol: Protocol, metric: str) -> float:
    """Seconds that each sample took, drawn in batches of `evaluate.batch_size` with as many `calls` as it needs."""
    at = str(int(calls(run, protocol, metric)))
    return run.evaluation(protocol)["sampling_seconds"].get(at, math.nan) / protocol.num_samples


def training_flops(run: Run, protocol: Protocol, metric: str) -> float:
    """Floating-point operations of a training: a forward and a backward pass for each sample of each step.

    They are counted by torch's formulas, and the same on every machine. A teacher's training does not count.
    """
    train = run.config.train
    return run.environment["device_use"]["flops_per_sample"] * train.batch_size * train.steps


def training_seconds(run: Run, protocol: Protocol, metric: str) -> float:
    """Seconds that the steps of a training took, without what is measured on the way. A teacher's do not count."""
    return lineage.training_seconds(run)


_NEAR_ITS_BEST = f" (within {NEAR:.0%} of the trial's best)"
COSTS: dict[Against, Cost] = {
    "calls": Cost(f"calls for each sample{_NEAR_ITS_BEST}", calls, of_curve=True, timed=False),
    "sampling_seconds": Cost(f"seconds for each sample{_NEAR_ITS_BEST}", sampling_seconds, of_curve=True, timed=True),
    "training_flops": Cost("operations of a training", training_flops, of_curve=False, timed=False),
    "training_seconds": Cost("seconds of a training", training_seconds, of_curve=False, timed=True),
}


def knee(front: Sequence[Sequence[float]]) -> int:
    """The place of the member of a front where the least is given up of both its ends, by (quality, cost).

    Both are divided by the distance between the ends, on a logarithmic scale where all are positive. Among what lies
    between the ends, it is the member with the smallest sum of its distances from the best in quality, which comes
    first, and from the cheapest, which comes last: the farthest from the line through the ends on the side of the
    ideal (Das 1999, "On characterizing the knee of the Pareto curve based on normal-boundary intersection").
    """
    assert len(front) > 2
    away = [0.0] * len(front)
    for column, ideal in zip(zip(*front, strict=True), (0, -1), strict=True):
        scaled = [math.log(x) for x in column] if min(column) > 0 else list(column)
        for i, x in enumerate(scaled):
            away[i] += abs(x - scaled[ideal]) / abs(scaled[0] - scaled[-1])
    return min(range(1, len(front) - 1), key=away.__getitem__)
