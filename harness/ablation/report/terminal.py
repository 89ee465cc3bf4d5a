"""The tables of a study on a terminal: those that answer the question, on 80 columns. The files have all tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.ablation.report import crossed, statistics, verdicts
from harness.ablation.report.findings import Report
from harness.ablation.report.grid import Grid, capitalised, titled
from harness.ablation.report.grids import by_nfe, comparison, figures, mean_sd, needed

FILES = (
    "The files also have every metric at every NFE, the differences that each look can find, the NFE that each arm "
    "needs, and its seconds."
)
"""The line about the tables that the terminal leaves out."""


def grids(report: Report, width: int) -> list[Grid]:
    """Return the tables of values, and last the verdicts, which fit `width` columns if the arms' names leave room."""
    plan = report.plan
    whole = by_nfe(report, plan.metric)
    out = [whole if whole.fits(width) else _means(report)]
    out += [_others(report)] if report.summary.rows.metric.nunique() > 1 else []
    out += [needed(report)] if plan.expected_nfe else []
    return [*out, *crossed.grids(report), _verdicts(report, width)]


def _means(report: Report) -> Grid:
    """Return the table of the primary metric by NFE, without its sd."""
    plan = report.plan
    own = _values(report, plan.metric)
    nfes = sorted(own.index.unique("nfe"))
    rows = [[arm, *(_mean(own.loc[arm, nfe]) for nfe in nfes)] for arm in plan.arms]
    title = f"{capitalised(titled(plan.metric))} by NFE, mean over the seeds"
    return Grid(title, ["arm", *(str(nfe or "adaptive") for nfe in nfes)], rows)


def _mean(row: pd.Series) -> str:
    return figures(row["mean"], row.sd if row.n > 1 else row["mean"]) if row.n else "-"


def _others(report: Report) -> Grid:
    """Return the table of the other metrics at the primary NFE; metrics without a value there have their own NFE."""
    plan = report.plan
    header = ["arm"]
    columns = []
    for metric in report.summary.rows.metric.unique():
        if metric == plan.metric:
            continue
        own = _values(report, metric)
        nfes = own.index.unique("nfe")
        at = plan.nfe if plan.nfe in nfes else max(nfes)
        place = "" if at == plan.nfe or len(nfes) == 1 else f" at NFE {at}"
        header.append(titled(metric) + place)
        columns.append([mean_sd(own.loc[arm, at], own.loc[arm, at].n) for arm in plan.arms])
    rows = [[arm, *values] for arm, *values in zip(plan.arms, *columns, strict=True)]
    return Grid(f"Other metrics at NFE {plan.nfe}, mean ± sd; no verdict is on them", header, rows)


def _values(report: Report, metric: str) -> Any:
    """Return the rows of a metric, indexed by arm and NFE."""
    rows = report.summary.rows
    return rows[(rows.metric == metric) & rows.arm.isin(report.plan.arms)].set_index(["arm", "nfe"])


def _verdicts(report: Report, width: int) -> Grid:
    """Return the table of the verdicts, without columns that do not fit."""
    plan = report.plan
    rows: Any = report.summary.rows
    primary = rows[rows.primary]
    columns = {
        plan.kind: [*primary.arm],
        "seeds": [f"{row.n} of {row.seeds}" if row.n < row.seeds else str(row.n) for _, row in primary.iterrows()],
        "mean ± sd": [mean_sd(row, row.n) for _, row in primary.iterrows()],
    }
    compared = [comparison(row) if row.verdict != verdicts.NOT_COMPARED else ["", ""] for _, row in primary.iterrows()]
    columns |= dict(zip(("difference", "interval"), map(list, zip(*compared, strict=True)), strict=True))
    columns["verdict"] = [_word(row, plan.smallest_difference) for _, row in primary.iterrows()]
    title = f"Verdicts: {titled(plan.metric)} at NFE {plan.nfe} against {plan.against}"
    for left_out in ((), ("mean ± sd",), ("mean ± sd", "seeds")):
        shown = {name: values for name, values in columns.items() if name not in left_out}
        grid = Grid(title, [*shown], [list(row) for row in zip(*shown.values(), strict=True)])
        if grid.fits(width):
            break
    return grid


def _word(row: Any, smallest: float) -> str:
    """Return the verdict, with the smallest difference if the whole interval is smaller."""
    small = row.verdict in ("better", "worse") and statistics.is_small(row, smallest)
    return f"{row.verdict}, < {100 * smallest:g}%" if small else str(row.verdict)
