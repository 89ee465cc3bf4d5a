"""The A/A test of the looks on real seeds: the committed rates follow from their values, and few verdicts are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.aa import LOOKS, METRICS, SMALLEST, split_verdicts
from harness.ablation.design.looks import LEVEL

COMMITTED = Path(__file__).parent.parent / "results" / "benchmarks" / "aa.json"


@pytest.mark.parametrize("metric", METRICS)
def test_seeds_of_one_training_seldom_differ(metric: str) -> None:
    """The rates of 2,000 splits of 40 real seeds. The splits depend on each other, so a rate has no standard error."""
    about = json.loads(COMMITTED.read_text())
    told = next(note for note in about["notes"] if note.startswith(f"{metric}: "))
    values = [float(value) for value in told.partition(": ")[2].split(", ")]
    assert len({*values}) == 2 * LOOKS.last
    words = split_verdicts(values, 2000, SMALLEST)
    wrong = np.mean([word in ("better", "worse") for word in words])
    row = next(row for row in about["rows"] if row["metric"] == metric)
    assert row["better or worse"] == pytest.approx(wrong, abs=0.002)
    assert wrong <= LEVEL
