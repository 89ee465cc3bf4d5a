"""The page of a published table: its values beside ours and the verdicts on its claims, in one HTML file."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from harness.ablation.design.claim import Column
from harness.ablation.design.paper import PaperTable
from harness.ablation.report import beside, page
from harness.ablation.report.claims import FAILS, HOLDS, UNDECIDED, Judged, Measured, place_of
from harness.ablation.report.figures import signed_axis
from harness.ablation.report.page_figures import STYLE, WIDE
from harness.core.drawing import inches, legend_below, shown
from harness.core.errors import listed
from harness.core.files import write_atomic
from harness.core.provenance import named

LINEAR = 10.0
"""Differences up to this many percent have a linear axis, larger ones a logarithmic one."""


def write(
    table: PaperTable, scale: str, measured: Mapping[str, Measured], found: pd.DataFrame, judged: Sequence[Judged],
    protocols: Sequence[str], folder: Path, command: str,
) -> Path:  # fmt: skip
    """Write the page to `folder`/reports/papers/<table>-<scale>.html and return its path.

    `found` are the values that `beside.values` returns; `command` prints the table again.
    """
    path = folder / "reports" / "papers" / f"{table.name}-{scale}.html"
    grids = beside.grids(table, found, scale)
    names = [f"column{i}" for i in range(len(grids))]
    drawn = {}
    for name, (column, own) in zip(names, found.groupby("column", sort=False), strict=True):
        if len(own) > 1:
            make = functools.partial(draw, table.columns[str(column)], own)
            drawn[name] = (f"Published differences beside ours: {column}", make)
    text = page.template("beside.html.j2").render(
        name=f"{table.name}-{scale}",
        paper=table.paper,
        answers=_answers(judged),
        claims=[(each, beside.of_claim(each), beside.expected(each)) for each in judged],
        grids=grids,
        pictured=names,
        pictures=page.pictures(drawn, path),
        verdict_words=[HOLDS, FAILS, UNDECIDED],
        protocols=protocols,
        origin={study: f"{known.path.name}; {named(known.commits)}" for study, known in measured.items()},
        command=command,
    )
    write_atomic(path, text)
    return path


def _answers(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """Return (verdict, the claims that have it)."""
    keys = {word: [each.key for each in judged if each.word == word] for word in (HOLDS, FAILS, UNDECIDED)}
    return [(word, listed(own)) for word, own in keys.items() if own]


def draw(column: Column, own: pd.DataFrame) -> Figure:
    """Draw a column's differences from its first row: ours with their intervals, and the published ones."""
    rows = own.iloc[1:]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDE, 1.5 + 0.42 * len(rows)), layout="constrained")
        labels = [shown(row) for row in rows.row]
        figure.set_figwidth(max(WIDE, 3.2 + max(inches(figure, label, 9) for label in labels)))
        axes = figure.subplots()
        axes.axvline(0, color="grey", lw=1)
        places = range(len(rows))
        axes.hlines(places, 100 * rows.low, 100 * rows.high, color="#0072b2", lw=2)
        axes.plot(100 * rows.difference, places, "o", color="#0072b2", ls="", label="ours, 95 % interval")
        published = rows.published_difference
        if published.notna().any():
            axes.plot(100 * published, places, "D", color="#d55e00", mfc="none", mew=1.5, ls="", label="published")
        signed_axis(axes, LINEAR)
        axes.set_yticks(places, labels)
        axes.set_ylim(len(rows) - 0.5, -0.6)
        axes.set_xlabel(f"{place_of(column)} against {shown(own.row.iloc[0])}, %")
        axes.grid(axis="x", alpha=0.25)
        legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure
