"""Writes studies/README.md, every question with its verdict, from the tables of finished studies.

python studies/verdicts.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.files import read_json, write_atomic

ROOT = Path(__file__).parent.parent
WORDS = {
    "better": "better than the baseline",
    "worse": "worse",
    "tie": "a tie (the 90 % interval lies within the smallest difference)",
    "undecided": "undecided (these seeds cannot say)",
}


def section(table: Path) -> str:
    """What one study found at one scale, from its CSV and the JSON beside it."""
    about, rows = read_json(table.with_suffix(".json")), pd.read_csv(table)
    rows = rows[rows.primary]
    baseline, seeds = rows[rows.verdict == "baseline"].arm.item(), rows.n.max()
    where = f"{about['primary']['metric'].upper()} at NFE {about['primary']['nfe']} against `{baseline}`, {seeds} seeds"
    lines = [
        f"## {table.stem}",
        about["question"],
        f"{where}; {about['date']}, plan {about['plan']}, commit {', '.join(about['commits'])}.",
    ]
    found = []
    for verdict, words in WORDS.items():
        arms = [
            f"`{row.arm}` {row.difference:+.1%} ({row.low:+.1%} to {row.high:+.1%})"
            for row in rows[rows.verdict == verdict].sort_values("difference").itertuples()
        ]
        found += [f"- {words}: {'; '.join(arms)}"] if arms else []
    noticed = f"- the smallest difference that these seeds find with 80 % power: {about['detectable_difference']:.0%}"
    picture = f"[table](../results/tables/{table.stem}.md), [picture](../results/figures/{table.stem}.png)"
    return "\n\n".join([*lines, "\n".join([*found, noticed]), picture])


def readme(tables: Path) -> str:
    """The whole file."""
    parts = [
        "# What the studies said",
        "Written by `make verdicts` from results/tables: every question that was asked, ties and losers included. Differences are\n"
        "paired over seeds with 95 % intervals; verdicts are Holm-adjusted within a study. Digits are 1,438 training images, 520 steps,\n"
        "400 samples and features of a small classifier: a fast place to find what is broken or large, not a stand-in for CIFAR-10.\n"
        "Rate, batch and length were chosen with the linear path, the velocity, even weights and the U-Net (README), which favours the\n"
        "baselines; arms share steps, not compute. Cells are 3,565 of two healthy bone marrows, 100 genes, 1,200 steps of a small MLP.",
    ]
    return "\n\n".join([*parts, *(section(path) for path in sorted(tables.glob("*-*.csv")) if not path.stem.endswith("-trials"))]) + "\n"


if __name__ == "__main__":
    write_atomic(ROOT / "studies" / "README.md", readme(ROOT / "results" / "tables"))
