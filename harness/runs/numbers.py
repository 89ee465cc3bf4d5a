"""The numbers of a run, so few bytes that a report keeps those of thousands of runs; all of them are plain JSON."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.core.errors import NoValue
from harness.evaluation.protocol import EvaluateConfig
from harness.runs import lacking
from harness.runs.config import RunConfig
from harness.runs.contents import Note, value_of
from harness.training.diagnostics import BINS

LAST = 0.1
"""Share of the training steps, at its end, over which losses are averaged."""


class Judged(NamedTuple):
    """What an evaluation's file holds for the settings of its run."""

    values: Sequence[float | None]
    """In the order of `EvaluateConfig.places`; None where there is no value."""
    calls: Sequence[int | float]
    """Calls of the network per sample there: the NFE, or the mean that an adaptive solver made, whose NFE is 0."""
    failures: Mapping[str, Note]
    """{NFE as text, or flow metric: the note of why it has no value}"""
    settled: bool
    """Whether nothing is left to measure."""
    seconds: float
    sampling: Mapping[str, float]
    """{NFE as text: seconds of sampling}"""
    commits: Sequence[str]

    @classmethod
    def of(cls, config: EvaluateConfig, known: Mapping[str, Any]) -> Judged:
        """Build from the content of an evaluation's file."""
        values = [value_of(known, metric, nfe) for metric, nfe in config.places]
        whole = array("d", [value for value in values if value is not None])
        return cls(
            values if len(whole) < len(values) else whole,
            tuple(known["calls"].get(str(nfe), {}).get("mean", nfe) for _, nfe in config.places),
            lacking.failures(config, known),
            lacking.settled(config, known),
            sum(known["seconds"].values()),
            known["sampling_seconds"],
            known["commits"],
        )

    @property
    def failed(self) -> dict[str, NoValue]:
        """{NFE as text, or flow metric: why it has no value}"""
        return {place: NoValue.of(note) for place, note in self.failures.items()}

    @property
    def whole(self) -> bool:
        """Whether every metric has a value at every NFE."""
        return self.settled and not self.failures


class Trained(NamedTuple):
    """What the lines and the environment of a training tell."""

    seconds: float
    """Seconds of the steps, without looks and checkpoints; NaN if there are no steps."""
    losses: Mapping[str, float]
    """{bin of log SNR: mean loss in the last `LAST` of a finished training}, of the bins that are recorded."""
    commits: Sequence[str]
    hardware: str
    """The GPU or the processor; empty if it is not known."""

    @classmethod
    def of(cls, config: RunConfig, lines: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> Trained:
        """Build from the intact lines of metrics.jsonl and the content of environment.json."""
        on_gpu = environment.get("resolved", {}).get("device") == "cuda"
        machine = environment.get("machine", {})
        return cls(
            seconds_of(lines, config.train.batch_size),
            _late(lines, config.train.steps),
            environment.get("commits", []),
            str(machine.get("accelerator" if on_gpu else "processor", "")),
        )


def seconds_of(lines: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Return the seconds of the steps in a training's lines, without looks and checkpoints; NaN without steps."""
    spent = 0.0
    last = 0
    for line in lines:
        if "samples_per_second" in line:
            spent += (line["step"] - last) * batch_size / line["samples_per_second"]
            last = line["step"]
        elif "learning_rate_factor" in line:  # training went back to this step
            last = line["step"]
    return spent if last else math.nan


def _late(lines: Sequence[Mapping[str, Any]], steps: int) -> dict[str, float]:
    if not lines or lines[-1]["step"] < steps:
        return {}
    late: dict[str, list[float]] = {}
    for line in lines:
        if line["step"] > (1 - LAST) * steps:
            for name in BINS:
                if math.isfinite(value := line.get(f"loss_by_log_snr/{name}", math.nan)):
                    late.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in late.items()}
