"""NFEs with more samples than others: their sentences in the report, and curves over equal numbers of samples."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report.outcomes import MEASURED, Cell


def judged(plan: Plan, arms: Iterable[str], metric: str, nfe: int) -> int | None:
    """Return the number of samples behind the values of arms at an NFE, as verdicts use them.

    None where the arms differ in it, and for a metric of the flow itself.
    """
    configs = [plan.arms[arm].evaluate for arm in arms]
    if metric in {own.name for config in configs for own in config.flow_metrics}:
        return None
    numbers = {config.samples_at(nfe) for config in configs}
    return numbers.pop() if len(numbers) == 1 else None


def more(plan: Plan) -> dict[int, int]:
    """Return {NFE: number of samples} of the NFEs at which the baseline has more samples than at others."""
    config = plan.arms[plan.baseline].evaluate
    return {nfe: number for nfe in config.nfe if (number := config.samples_at(nfe)) > config.num_samples}


def header(plan: Plan, nfe: int) -> str:
    """Return the column header of an NFE, with its number of samples where that is larger than at others."""
    told = str(nfe) if nfe else "adaptive"
    return f"{told} ({number:,} samples)" if (number := more(plan).get(nfe)) else told


def alike(plan: Plan, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with equal numbers of samples at every NFE: where there are more, the first of them."""
    asked = {arm: {more.nfe for more in config.evaluate.more} for arm, config in plan.arms.items()}
    if not any(asked.values()):
        return cells
    known = {key: plan.run(*key).evaluation(plan.protocol(key[0]))["values"] for key in plan.trials()}

    def value(cell: Cell) -> float:
        if cell.state != MEASURED or cell.nfe not in asked[cell.arm]:
            return cell.value
        return known[cell.arm, cell.seed][cell.metric][str(cell.nfe)]

    return cells.assign(value=[value(Cell(*row)) for row in cells[list(Cell._fields)].itertuples(index=False)])


def curves(plan: Plan, cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a summary's rows with mean and sd over equal numbers of samples; other columns are unchanged."""
    if not more(plan):
        return rows
    key = ["arm", "metric", "nfe"]
    found = alike(plan, cells).groupby(key).value.agg(["mean", "std"]).rename(columns={"std": "sd"})
    return rows.drop(columns=["mean", "sd"]).join(found, on=key)[rows.columns]


def notes(plan: Plan) -> list[str]:
    """Return the sentences about NFEs with more samples than others."""
    config = plan.arms[plan.baseline].evaluate
    lines = []
    for nfe, number in more(plan).items():
        lines.append(
            f"Values at NFE {nfe} use {number:,} samples, at other NFE {config.num_samples:,}. A metric such as "
            f"FID falls with the number of samples, so compare NFEs by the first {config.num_samples:,} samples only, "
            "as the curves of the figure and the values read off them do."
        )
    return lines
