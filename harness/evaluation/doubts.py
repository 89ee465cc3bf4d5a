"""What speaks against the values of an evaluation: too few samples, too few steps, modes that may be missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from harness.data.base import Data
from harness.evaluation.metric import Metric
from harness.evaluation.protocol import EvaluateConfig, comparisons

GAIN = 0.05
"""A metric that falls by this share between the last two NFEs would fall further with more steps."""
LOPSIDED = 0.3
"""Recall this much below precision tells of missing modes."""


def short_of_samples(config: EvaluateConfig, data: Data) -> str | None:
    """What the metrics of a configuration do not say of so few samples; None where they are enough."""
    given = comparisons(config, data)
    said = (metric.short_of_samples(read) for metric in config.sample_metrics for read in given)
    return " ".join(filter(None, said)) or None


def doubts(
    values: Mapping[str, Mapping[str, float]],
    metrics: Iterable[Metric],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = MappingProxyType({}),
) -> list[str]:
    """What the values {metric: {NFE as text: value}} of an evaluation say of the samples, a line each.

    A fall that an interval holds is none, nor is one below 0, where only chance leads.
    """
    said = []
    for metric in metrics:
        by_nfe = sorted((int(nfe), value) for nfe, value in values.get(metric.name, {}).items() if nfe != "0")
        if not metric.lower_is_better or len(by_nfe) < 2:
            continue
        (fewer, before), (more, after) = by_nfe[-2:]
        low, _ = intervals.get(metric.name, {}).get(str(fewer), (math.inf, math.inf))
        if after < min((1 - GAIN) * before, low) and before > 0:
            said.append(
                f"{metric.name} still falls with the steps ({before:.4g} at NFE {fewer}, {after:.4g} at {more}): "
                "judge at more."
            )
    if shared := values.get("precision", {}).keys() & values.get("recall", {}).keys():
        nfe = max(shared, key=int)
        precision = values["precision"][nfe]
        recall = values["recall"][nfe]
        if precision - recall > LOPSIDED:
            said.append(
                f"recall {recall:.2f} is far below precision {precision:.2f} at NFE {nfe}: modes may be missing. "
                "Raise train.batch_size, check the noise and the augmentation; strong guidance does it too."
            )
    return said
