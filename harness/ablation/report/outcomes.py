"""The outcome of every trial of a plan: measured, diverged, failed otherwise, not finished yet, or never asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.ablation.design.plan import Plan
from harness.core.errors import Diverged, NoValue

MEASURED, DIVERGED, FAILED, UNFINISHED, UNASKED = "measured", "diverged", "failed", "unfinished", "unasked"
"""States of a metric of a trial at an NFE:

- measured: it has a value
- diverged: the training or the samples are not finite
- failed: a solver gave up
- unfinished: it has no value yet; a trial that was killed or ran out of memory is run again
- unasked: the arm is not measured there
"""


class Cell(NamedTuple):
    """A metric of a trial at an NFE."""

    arm: str
    seed: int
    metric: str
    nfe: int
    value: float
    """NaN unless measured."""
    calls: float
    """Calls of the network: the NFE, or the mean that an adaptive solver made, whose NFE is 0."""
    state: str


@dataclass(frozen=True)
class Seeds:
    """The outcomes of an arm's `number` of seeds at one metric and NFE."""

    number: int
    measured: int
    diverged: int
    failed: int
    asked: bool

    @classmethod
    def of(cls, row: pd.Series) -> Seeds:
        """Build from a row of a summary where the arm was asked."""
        return cls(row.seeds, row.n, row.diverged, row.failed, True)

    @classmethod
    def among(cls, cells: pd.DataFrame | None, seeds: Sequence[int]) -> Seeds:
        """Build from an arm's cells at one metric and NFE, indexed by seed; only these seeds count."""
        if cells is None:
            return cls(len(seeds), 0, 0, 0, False)
        counts = Counter(cells.state[cells.index.isin(seeds)].to_numpy(object))
        measured, diverged, failed, unasked = (counts[state] for state in (MEASURED, DIVERGED, FAILED, UNASKED))
        return cls(len(seeds), measured, diverged, failed, not unasked)

    @property
    def unfinished(self) -> int:
        """Number of seeds that have no value yet."""
        return self.number - self.measured - self.diverged - self.failed if self.asked else 0

    @property
    def missing(self) -> str:
        """The outcomes of seeds without a value, like `2 of 5 diverged, 1 unfinished`; empty where all have one."""
        counts = {DIVERGED: self.diverged, FAILED: self.failed, UNFINISHED: self.unfinished}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return said.replace(" ", f" of {self.number} ", 1)


def collect(plan: Plan, only_primary: bool = False) -> pd.DataFrame:
    """Return the cells of all trials, one row each (`Cell`), or those at the primary metric and NFE.

    Every arm has a cell at the primary metric and NFE, whether it is asked there or not.
    """
    cells = list[Cell]()
    primary = (plan.metric, plan.nfe)
    of_flow = {metric.name for config in plan.arms.values() for metric in config.evaluate.flow_metrics}
    places = {arm: config.evaluate.places for arm, config in plan.arms.items()}
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        gave_up = run.gave_up
        found = run.numbers(plan.protocol(arm))
        known = [*zip(places[arm], found.values, found.calls, strict=True)]
        if primary not in places[arm]:
            known.append((primary, None, plan.nfe))
        for (metric, nfe), value, calls in known:
            if only_primary and (metric, nfe) != primary:
                continue
            error = gave_up or found.failed.get(metric if metric in of_flow else str(nfe))
            state = _state((metric, nfe) in places[arm], value, gave_up, error)
            kept = float("nan") if value is None or state != MEASURED else value
            cells.append(Cell(arm, seed, metric, nfe, kept, calls, state))
    return pd.DataFrame(cells, columns=Cell._fields)


def _state(asked: bool, value: float | None, gave_up: NoValue | None, error: NoValue | None) -> str:
    if error is not None and (value is None or gave_up):
        return DIVERGED if isinstance(error, Diverged) else FAILED
    if not asked:
        return UNASKED
    return UNFINISHED if value is None else MEASURED


def by_arm(cells: pd.DataFrame) -> dict[tuple[str, str, int], pd.DataFrame]:
    """Return {(arm, metric, NFE): its cells, indexed by seed}."""
    groups: Any = cells.groupby(["arm", "metric", "nfe"])
    return {key: own.set_index("seed") for key, own in groups}


_WORST = (DIVERGED, FAILED, UNASKED, UNFINISHED, MEASURED)


def combined(by_arm: Mapping[str, pd.DataFrame], arms: Sequence[str]) -> pd.DataFrame | None:
    """Return value and state by seed of several arms taken as one; None where an arm has no cells.

    The value is the geometric mean, or the smallest value where one is not positive; the state is the worst one.
    """
    if any(arm not in by_arm for arm in arms):
        return None
    if len(arms) == 1:
        return by_arm[arms[0]]
    parts = [by_arm[arm] for arm in arms]
    values, states = (pd.concat([part[of] for part in parts], axis=1, join="inner") for of in ("value", "state"))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = pd.Series(np.exp(np.log(values.to_numpy()).mean(axis=1)), index=values.index)
    value = means.where((values > 0).all(axis=1), values.min(axis=1, skipna=False))
    ranks = states.map(_WORST.index).min(axis=1)
    return pd.DataFrame({"value": value, "state": [_WORST[rank] for rank in ranks]}, index=values.index)


def paired(
    own: pd.DataFrame | None, base: pd.DataFrame | None, seeds: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Return the values of two arms at the `seeds` at which both have one, as two lists in the same order."""
    found = pairs(own, base, seeds)
    return found.own.tolist(), found.base.tolist()


def pairs(own: pd.DataFrame | None, base: pd.DataFrame | None, seeds: Sequence[int]) -> pd.DataFrame:
    """Return the values of two arms, `own` and `base`, by seed, at the `seeds` at which both have one."""
    if own is None or base is None:
        return pd.DataFrame({"own": [], "base": []}, dtype=float)
    found = pd.concat([own.value, base.value], axis=1, join="inner", keys=["own", "base"]).dropna()
    return found[found.index.isin(seeds)]
