"""Trials and hours of the committed studies, beside designs with a fixed number of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from typing_extensions import TypedDict

from harness.ablation.report.verdicts import BASELINE, NOT_COMPARED, UNDECIDED
from harness.core.files import read_json

FIXED = (5, 20)
"""Numbers of seeds of the designs without looks."""


class Seconds(TypedDict):
    """Means over an arm's trials, in seconds."""

    trials: int
    training: float | None
    evaluation: float


class Took(TypedDict):
    """The entries about trials in the JSON beside a study's table."""

    runs: dict[str, list[str]]
    seconds: dict[str, Seconds]
    verdicts: dict[str, dict[str, Any]]


def table(tables: Sequence[Path], remedy: str) -> str:
    """Return a Markdown table: a row for each study, from the JSON beside its CSV, and for each search of theirs.

    `UserError` with the `remedy` where a JSON cannot be read.
    """
    rows = {path.stem: read_json(path.with_suffix(".json"), Took, remedy) for path in tables}
    fixed = "".join(f" {n} seeds: trials | hours |" for n in FIXED)
    lines = [f"| study | arms | decided | trials | hours |{fixed}", "| --- |" + " ---: |" * (4 + 2 * len(FIXED))]
    for name, took in rows.items():
        verdicts = [found["verdict"] for found in took["verdicts"].values()]
        words = [verdict for verdict in verdicts if verdict not in (BASELINE, NOT_COMPARED)]
        decided = f"{sum(word != UNDECIDED for word in words)} of {len(words)}"
        designs = [took["runs"], *(_fixed(took["runs"], n) for n in FIXED)]
        spent = [cell for runs in designs for cell in _spent(runs, took["seconds"])]
        lines.append(f"| {' | '.join([name, str(len(took['runs'])), decided, *spent])} |")
    for search in (path.with_name(f"{path.stem}-trials.csv") for path in tables):
        if search.exists():
            seconds = pd.read_csv(search).seconds
            lines.append(f"| {search.stem} | | | {len(seconds)} | {seconds.sum() / 3600:.2g} |" + " |" * 2 * len(FIXED))
    return "\n".join(lines)


def _fixed(runs: Mapping[str, Sequence[str]], seeds: int) -> dict[str, list[str]]:
    """Return the runs of a design with this number of seeds: arms that share their first training share all."""
    return {arm: [f"{own[0]} {seed}" for seed in range(seeds)] for arm, own in runs.items()}


def _spent(runs: Mapping[str, Sequence[str]], seconds: Mapping[str, Seconds]) -> list[str]:
    """Return trials, and hours of one core, as text; a training that several arms share counts once."""
    trainings = {run: seconds[arm]["training"] or 0.0 for arm, own in runs.items() if arm in seconds for run in own}
    evaluations = sum(len(own) * seconds[arm]["evaluation"] for arm, own in runs.items() if arm in seconds)
    hours = (sum(trainings.values()) + evaluations) / 3600
    return [str(sum(map(len, runs.values()))), f"{hours:.2g}"]
