"""What is found of a study: its results, and what must be said beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report.excess import Excess
from harness.ablation.report.interactions import Interactions
from harness.ablation.report.readouts import Readout
from harness.ablation.report.spent import Seconds
from harness.ablation.report.summary import Summary
from harness.evaluation.floor import Floor


class Beside(NamedTuple):
    """What stands beside the samples of runs: real samples, or noise."""

    label: str
    """In a picture."""
    words: str
    """In a sentence."""


REFERENCES = {
    "resampled": Beside("resampled real", "training samples drawn with replacement"),
    "held_out": Beside("held-out real", "held-out samples"),
    "gaussian": Beside("Gaussian noise", "Gaussian noise"),
}
"""{kind of `Report.references`: how it is called}"""


@dataclass
class Report:
    """A study's results and what must be said beside them."""

    plan: Plan
    cells: pd.DataFrame
    """One row per arm, seed, metric and nfe, with what became of it (`outcomes.Cell`)."""
    summary: Summary
    references: dict[str, dict[str, float]]
    """{one of `REFERENCES`: {metric: value}} under the baseline's protocol."""
    notes: list[str]
    """What a reader must know to trust the table."""
    commits: list[str]
    readouts: dict[str, Readout]
    """{arm: what is read off its curve}"""
    spent: dict[str, Seconds]
    """{arm: the seconds of its trials}"""
    at_primary: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same as `references` by as many samples as the verdicts rest on, where these are more than elsewhere."""
    floor: Floor | None = None
    """Of the primary metric there; None where it has none."""
    excess: dict[str, Excess] = field(default_factory=dict)
    """{arm: how much of the primary metric lies above the floor}"""
    interactions: Interactions | None = None
    """Of a study of axes."""
