"""What became of every trial of a plan: measured, diverged, failed otherwise, not finished yet, or never asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from harness.ablation.design.plan import Plan
from harness.core.errors import Diverged, NoValue
from harness.runs.config import RunConfig

MEASURED, DIVERGED, FAILED, UNFINISHED, UNASKED = "measured", "diverged", "failed", "unfinished", "unasked"
"""A metric of a trial at an NFE has a value; its training or its samples are not finite; a solver gave up; it has none
yet (what was killed or ran out of memory is run again); or its arm is not measured there."""


class Cell(NamedTuple):
    """A metric of a trial at an NFE."""

    arm: str
    seed: int
    metric: str
    nfe: int
    value: float
    """NaN unless measured."""
    calls: float
    """NFE, but for an adaptive solver's 0."""
    state: str


@dataclass(frozen=True)
class Seeds:
    """What became of an arm's seeds at one metric and NFE, of a plan with `number` of them."""

    number: int
    measured: int
    diverged: int
    failed: int
    asked: bool

    @classmethod
    def of(cls, row: pd.Series) -> Seeds:
        """From a row of a summary where an arm was asked."""
        return cls(row.seeds, row.n, row.diverged, row.failed, True)

    @property
    def unfinished(self) -> int:
        """Seeds that have no value yet."""
        return self.number - self.measured - self.diverged - self.failed if self.asked else 0

    @property
    def missing(self) -> str:
        """What became of those without a value, as `2 of 5 diverged, 1 unfinished`; empty where all have one."""
        counts = {DIVERGED: self.diverged, FAILED: self.failed, UNFINISHED: self.unfinished}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return said.replace(" ", f" of {self.number} ", 1)


def collect(plan: Plan) -> tuple[pd.DataFrame, list[str]]:
    """The cells of all trials, and the commits they come from.

    The primary metric and NFE have a cell for every arm, whether it is asked there or not.
    """
    cells = list[Cell]()
    commits = set[str]()
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        protocol = plan.protocol(arm)
        known = run.evaluation(protocol)
        gave_up = run.gave_up
        failed = run.failed(protocol)
        of_flow = {metric.name for metric in run.config.evaluate.flow_metrics}
        commits |= {*known["commits"], *run.environment.get("commits", [])}
        for metric, nfe, asked in _wanted(plan, run.config):
            value = known["values"].get(metric, {}).get(str(nfe))
            error = gave_up or failed.get(metric if metric in of_flow else str(nfe))
            state = _state(asked, value, gave_up, error)
            calls = known["calls"].get(str(nfe), {}).get("mean", nfe)
            cells.append(Cell(arm, seed, metric, nfe, value if state == MEASURED else float("nan"), calls, state))
    return pd.DataFrame(cells, columns=Cell._fields), sorted(commits)


def is_asked(plan: Plan, config: RunConfig) -> bool:
    """Whether an arm's configuration measures the primary metric at the primary NFE."""
    return (plan.metric, plan.nfe, True) in _wanted(plan, config)


def _wanted(plan: Plan, config: RunConfig) -> Iterator[tuple[str, int, bool]]:
    """(metric, NFE, whether the arm is measured there)."""
    wanted = config.evaluate
    at = {metric.name: (metric.nfe,) for metric in wanted.flow_metrics}
    points = {metric.name: at.get(metric.name, wanted.nfe) for metric in wanted.metrics}
    yield from ((metric, nfe, True) for metric, nfes in points.items() for nfe in nfes)
    if plan.nfe not in points.get(plan.metric, ()):
        yield plan.metric, plan.nfe, False


def _state(asked: bool, value: float | None, gave_up: NoValue | None, error: NoValue | None) -> str:
    if error is not None and (value is None or gave_up):
        return DIVERGED if isinstance(error, Diverged) else FAILED
    if not asked:
        return UNASKED
    return UNFINISHED if value is None else MEASURED


def seeds_of(cells: pd.DataFrame, plan: Plan) -> dict[tuple[str, str, int], Seeds]:
    """{(arm, metric, NFE): what became of its seeds}."""
    groups: Any = cells.groupby(["arm", "metric", "nfe"]).state
    out = {}
    for key, states in groups:
        measured, diverged, failed, unasked = (
            int((states == state).sum()) for state in (MEASURED, DIVERGED, FAILED, UNASKED)
        )
        out[key] = Seeds(len(plan.seeds), measured, diverged, failed, not unasked)
    return out
