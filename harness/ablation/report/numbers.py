"""NFEs at which more samples are judged than elsewhere: what the report says of them, and curves of equal numbers."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.ablation.report.outcomes import MEASURED, Cell


def judged(plan: Plan, arms: Iterable[str], metric: str, nfe: int) -> int | None:
    """How many samples the values of arms are of, as verdicts take them.

    None where arms differ in it, and for a metric of the flow itself.
    """
    configs = [plan.arms[arm].evaluate for arm in arms]
    if metric in {own.name for config in configs for own in config.flow_metrics}:
        return None
    numbers = {config.samples_at(nfe) for config in configs}
    return numbers.pop() if len(numbers) == 1 else None


def more(plan: Plan) -> dict[int, int]:
    """{NFE: number of samples} where the baseline is judged by more of them than elsewhere."""
    config = plan.arms[plan.baseline].evaluate
    return {nfe: number for nfe in config.nfe if (number := config.samples_at(nfe)) > config.num_samples}


def header(plan: Plan, nfe: int) -> str:
    """An NFE at the top of a column, with its samples where they are more."""
    told = str(nfe) if nfe else "calls of its own"
    return f"{told} ({number:,} samples)" if (number := more(plan).get(nfe)) else told


def alike(plan: Plan, cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with values of as many samples at every NFE: where they are more, of the first of them."""
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
    """The rows of a summary with mean and sd over cells of equal numbers; all else as it is."""
    if not more(plan):
        return rows
    key = ["arm", "metric", "nfe"]
    found = alike(plan, cells).groupby(key).value.agg(["mean", "std"]).rename(columns={"std": "sd"})
    return rows.drop(columns=["mean", "sd"]).join(found, on=key)[rows.columns]


def notes(plan: Plan) -> list[str]:
    """What a reader must know of them."""
    config = plan.arms[plan.baseline].evaluate
    lines = []
    for nfe, number in more(plan).items():
        lines.append(
            f"Values at NFE {nfe} are of {number:,} samples, at others of {config.num_samples:,}: where a metric falls "
            f"with their number, as FID does, NFEs are compared by the first {config.num_samples:,} alone. So are the "
            "curves of the picture and what is read off."
        )
    return lines
