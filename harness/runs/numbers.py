"""The numbers of an evaluation, so few bytes that a report keeps those of thousands of runs."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.core.errors import NoValue
from harness.evaluation.protocol import EvaluateConfig
from harness.runs import lacking
from harness.runs.contents import value_of


class Numbers(NamedTuple):
    """What an evaluation's file holds for the settings of its run."""

    values: Sequence[float | None]
    """In the order of `EvaluateConfig.places`; None where there is no value."""
    calls: Sequence[float]
    """Calls of the network per sample there: the NFE, or the mean that an adaptive solver made, whose NFE is 0."""
    failed: Mapping[str, NoValue]
    """{NFE as text, or flow metric: why it has no value}"""
    settled: bool
    """Whether nothing is left to measure."""
    seconds: float
    sampling: Mapping[int, float]
    """{NFE: seconds of sampling}"""
    commits: Sequence[str]

    @classmethod
    def of(cls, config: EvaluateConfig, known: Mapping[str, Any]) -> Numbers:
        """Build from the content of an evaluation's file."""
        values = [value_of(known, metric, nfe) for metric, nfe in config.places]
        whole = array("d", [value for value in values if value is not None])
        return cls(
            values if len(whole) < len(values) else whole,
            tuple(known["calls"].get(str(nfe), {}).get("mean", nfe) for _, nfe in config.places),
            lacking.failed(config, known),
            lacking.settled(config, known),
            sum(known["seconds"].values()),
            {int(nfe): seconds for nfe, seconds in known["sampling_seconds"].items()},
            tuple(map(sys.intern, known["commits"])),
        )

    @property
    def complete(self) -> bool:
        """Whether every metric has a value at every NFE."""
        return self.settled and not self.failed
