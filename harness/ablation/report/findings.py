"""The results of a study, and the sentences that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report.excess import Excess
from harness.ablation.report.interactions import Interactions
from harness.ablation.report.readouts import Readout
from harness.ablation.report.records import Seconds
from harness.ablation.report.summary import Summary
from harness.evaluation.floor import Floor


class Beside(NamedTuple):
    """Names of a yardstick for the samples of runs: real samples, or noise."""

    label: str
    """In a figure."""
    words: str
    """In a sentence."""


REFERENCES = {
    "resampled": Beside("resampled real", "training samples drawn with replacement"),
    "held_out": Beside("held-out real", "held-out samples"),
    "gaussian": Beside("Gaussian noise", "Gaussian noise"),
}
"""{kind of `Report.references`: its names}"""


@dataclass
class Report:
    """A study's results, and the sentences that belong to them."""

    plan: Plan
    cells: pd.DataFrame
    """One row per arm, seed, metric and nfe, with its outcome (`outcomes.Cell`)."""
    summary: Summary
    references: dict[str, dict[str, float]]
    """{one of `REFERENCES`: {metric: value}} under the baseline's protocol."""
    notes: list[str]
    """Sentences that a reader needs to trust the table."""
    commits: list[str]
    readouts: dict[str, Readout]
    """{arm: the numbers read off its curve}"""
    spent: dict[str, Seconds]
    """{arm: the seconds of its trials}"""
    at_primary: dict[str, dict[str, float]] = field(default_factory=dict)
    """`references` with the number of samples of the verdicts, where that is larger than elsewhere; else empty."""
    floor: Floor | None = None
    """Floor of the primary metric at the primary NFE; None where it has none."""
    excess: dict[str, Excess] = field(default_factory=dict)
    """{arm: its excess of the primary metric over the floor}"""
    sampling: dict[tuple[str, int], float] = field(default_factory=dict)
    """{(arm, NFE): seconds of sampling per sample}"""
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    """{arm: {bin of log SNR: mean loss at the end of training}}"""
    interactions: Interactions | None = None
    """Interactions of the axes; None for a study without axes."""
