"""Lower bound on the memory that an evaluation needs, part by part, computed before sampling."""

from __future__ import annotations

import math

from harness.core.memory import Need
from harness.data.base import Data
from harness.evaluation.extractors import extractor_of
from harness.evaluation.flow_metrics import PathMetric
from harness.evaluation.protocol import EvaluateConfig, num_reference

FLOAT = 4
DOUBLE = 8
"""Bytes per number, in float32 and in float64."""


def judging_needs(config: EvaluateConfig, data: Data) -> list[Need]:
    """Return the main memory for the samples that a metric reads, and for the metric that needs most.

    If sample values are compared, every process also reads the training samples, which may need more.
    """
    if not config.sample_metrics:
        return []
    extractor = extractor_of(config.extractor)
    row = (1 + DOUBLE) * math.prod(data.shape) if extractor is None else (FLOAT + DOUBLE) * extractor.dimensions
    samples = config.every_number[-1]
    asked = "evaluate.more_samples" if config.more else "evaluate.num_samples"
    reference = 0 if config.reference else num_reference(config, data)
    read = Need(asked, f"the data of {samples} samples", samples * row)
    if extractor is None and reference > samples:  # features' summaries may be on disk
        read = Need("evaluate.num_reference", f"the data of {reference} training samples", reference * row)
    place = asked if samples >= reference else "evaluate.num_reference"
    added = [
        Need(place, f"{metric.name} of {samples} samples and {reference} others", metric.held_bytes(samples, reference))
        for metric in config.sample_metrics
    ]
    return [read, max(added, key=lambda need: need.bytes)]


def drawing_needs(config: EvaluateConfig, data: Data) -> list[Need]:
    """Return the device memory for drawing samples, or for measuring their paths if that needs more."""
    numbers = 2 * FLOAT * math.prod(data.shape)
    batch = min(config.batch_size, config.every_number[-1])
    needs = [Need("evaluate.batch_size", f"{batch} samples and their noise", batch * numbers)]
    for i, metric in enumerate(config.metrics):
        if isinstance(metric, PathMetric):
            said = f"{metric.samples} paths of {metric.steps} steps"
            needs.append(Need(f"evaluate.metrics[{i}]", said, metric.samples * (metric.steps + 1) * numbers))
    return [max(needs, key=lambda need: need.bytes)]
