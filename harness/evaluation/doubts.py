"""Warnings about the values of an evaluation: too few samples, too few steps, modes that may be missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from harness.data.base import Data
from harness.evaluation.metric import Metric
from harness.evaluation.protocol import EvaluateConfig, comparisons

GAIN = 0.05
"""A metric that falls by more than this share between the last two NFEs would fall further with more steps."""
LOPSIDED = 0.3
"""Recall that is lower than precision by more than this is a sign of missing modes."""


def short_of_samples(config: EvaluateConfig, data: Data) -> str | None:
    """Return the metrics' warnings about too few samples, joined to one text; None if there are enough samples."""
    given = comparisons(config, data)
    said = (metric.short_of_samples(read) for metric in config.sample_metrics for read in given)
    return " ".join(filter(None, said)) or None


def doubts(
    values: Mapping[str, Mapping[str, float]],
    metrics: Iterable[Metric],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = MappingProxyType({}),
) -> list[str]:
    """Return warnings, one line each, about an evaluation's values {metric: {NFE as text: value}}.

    `intervals` is {metric: {NFE as text: (low, high)}}. A fall within the interval gives no warning. Nor does a fall
    from a value of 0 or less: it is chance.
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
                f"{metric.label} still falls with more steps ({before:.4g} at NFE {fewer}, {after:.4g} at {more}): "
                "judge at a larger NFE too."
            )
    if shared := values.get("precision", {}).keys() & values.get("recall", {}).keys():
        nfe = max(shared, key=int)
        precision = values["precision"][nfe]
        recall = values["recall"][nfe]
        if precision - recall > LOPSIDED:
            said.append(
                f"recall {recall:.2f} is far below precision {precision:.2f} at NFE {nfe}: modes may be missing. "
                "Raise train.batch_size; check the noise and the augmentation. Strong guidance lowers recall too."
            )
    return said
