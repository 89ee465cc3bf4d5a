"""A study's results in Python, and how a notebook shows them."""

from __future__ import annotations

import base64
import html
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from harness.ablation.report import tables, terminal
from harness.ablation.report.findings import Report
from harness.ablation.report.notes import remarks

WIDE = 120
"""Width of a notebook's tables, in columns of text."""


@dataclass(frozen=True, repr=False)
class StudyReport:
    """The results of a study. As the last line of a notebook's cell it shows its tables, its figure and its notes."""

    found: Report
    paths: tuple[Path, ...]
    """The files that were written: tables, figures and the page."""
    command: str
    """The command that makes these tables again."""

    @property
    def values(self) -> pd.DataFrame:
        """One row per arm, seed, metric and NFE: `value`, `calls` of the network, the outcome (`state`), the number of
        `samples`, and the `settings` in which the arm differs from the baseline."""
        return tables.by_seed(self.found)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per arm, metric and NFE, with means over seeds and unadjusted comparisons (`summary.COLUMNS`)."""
        return self.found.summary.rows

    @property
    def verdicts(self) -> pd.DataFrame:
        """By arm, at the primary metric and NFE: relative `difference` from the baseline, its interval from `low` to
        `high` at confidence 1 - `level`, the pairs of seeds, the look, the `verdict` and its reason."""
        rows = self.summary
        columns = ["pairs", "difference", "low", "high", "level", "look", "verdict", "reason"]
        primary = rows[rows.primary].set_index("arm")[columns]
        return primary.assign(reason=primary.reason.astype(object).fillna(""))

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader needs to trust the tables."""
        return remarks(self.found)

    @property
    def figures(self) -> dict[str, Figure]:
        """{name: figure}, drawn anew each time; their PNGs are among the paths."""
        return {name: draw() for name, draw in tables.drawn(self.found).items()}

    def formatted(self, form: tables.Format) -> str:
        """Return all tables as markdown, csv or latex."""
        pictures = [os.path.relpath(path) for path in self._pictures()]
        return tables.formatted(self.found, form, self.command, pictures)

    def _pictures(self) -> list[Path]:
        return [path for path in self.paths if path.suffix == ".png" and path.exists()]

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=80, markup=False, force_terminal=False, force_jupyter=False)
        tables.show(self.found, console)
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]

    def _repr_markdown_(self) -> str:
        return self.formatted("markdown")

    def _repr_html_(self) -> str:
        pictures = (base64.b64encode(path.read_bytes()).decode() for path in self._pictures())
        notes = "".join(f"<li>{html.escape(line)}</li>" for line in self.notes)
        return "\n".join(
            [
                f"<h3>{html.escape(self.found.plan.question)}</h3>",
                *(grid.html() for grid in terminal.grids(self.found, WIDE)),
                *(f'<img src="data:image/png;base64,{picture}">' for picture in pictures),
                f"<details><summary>Notes</summary><ul>{notes}</ul></details>",
            ]
        )
