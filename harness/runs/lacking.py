"""What the settings of an evaluation ask for and its results lack: `known` is the content of its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import EvaluateConfig
from harness.runs.contents import Note


def without_value(config: EvaluateConfig, known: Mapping[str, Any]) -> list[int]:
    """Return the NFEs at which a sample metric has no value."""
    wanted = [metric.name for metric in config.sample_metrics]

    def lacks(nfe: int) -> bool:
        kept = ["values", *(["precise"] if config.samples_at(nfe) > config.num_samples else [])]
        return any(str(nfe) not in known[kind].get(metric, {}) for kind in kept for metric in wanted)

    return [nfe for nfe in config.nfe if lacks(nfe)]


def missing(config: EvaluateConfig, known: Mapping[str, Any]) -> list[int]:
    """Return the NFEs at which a sample metric has no value and has not failed."""
    return [nfe for nfe in without_value(config, known) if str(nfe) not in known["failures"]]


def flow_missing(config: EvaluateConfig, known: Mapping[str, Any]) -> list[FlowMetric]:
    """Return the flow metrics that have no value and have not failed."""
    flows = [metric for metric in config.flow_metrics if metric.name not in known["failures"]]
    return [metric for metric in flows if str(metric.nfe) not in known["values"].get(metric.name, {})]


def failures(config: EvaluateConfig, known: Mapping[str, Any]) -> dict[str, Note]:
    """Return {NFE as text, or flow metric: the note of why it has no value}, as far as the settings ask for it."""
    if not known["failures"]:
        return {}
    asked = {*map(str, without_value(config, known)), *(metric.name for metric in config.flow_metrics)}
    return {place: note for place, note in known["failures"].items() if place in asked}


def settled(config: EvaluateConfig, known: Mapping[str, Any]) -> bool:
    """Whether nothing is left to measure: each metric at each NFE has a value or has failed."""
    return not missing(config, known) and not flow_missing(config, known)
