"""Verdicts on the claims of papers, from the values by seed beside a study's table.

A claim has its own error level of 5 %, divided over its contrasts and over the looks of its study (`design.looks`).
Each contrast is a paired comparison on logarithms over the seeds that its arms share (`statistics`), and keeps the
finding of the look that decides it. A trend compares the slope of the logarithm over the arms' places with 0, seed by
seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from harness.ablation.design.claim import CALLS, Claim, Column, Relation, Tie, Trend
from harness.ablation.design.looks import Looks, Spending
from harness.ablation.design.paper import PaperTable, Published
from harness.ablation.report import statistics
from harness.ablation.report.committed import RESTORED, is_current, read_table
from harness.ablation.report.outcomes import MEASURED
from harness.ablation.report.power import Power
from harness.ablation.report.statistics import Comparison
from harness.core.errors import UserError, did_you_mean
from harness.core.files import read_json
from harness.core.registry import find
from harness.evaluation.metric import label_of

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
_COLUMNS = {"arm": "O", "seed": "i", "metric": "O", "nfe": "i", "value": "f", "calls": "if", "state": "O"}


class _Looks(TypedDict):
    seeds: list[int]
    spending: Spending


class About(TypedDict):
    """The entries that claims use of the JSON beside a study's table."""

    looks: _Looks
    commits: list[str]


@dataclass(frozen=True)
class Measured:
    """The values by seed of a study at a scale, as its table's files hold them."""

    study: str
    rows: pd.DataFrame
    looks: Looks
    commits: tuple[str, ...]
    path: Path

    @classmethod
    def read(cls, folder: Path, study: str, scale: str) -> Measured | None:
        """Read the files of a study's table below `folder`/tables.

        None if there is no table, or if an earlier version of the code made it.
        """
        path = folder / "tables" / f"{study}-{scale}-seeds.csv"
        beside = folder / "tables" / f"{study}-{scale}.json"
        if not path.exists() or not is_current(beside):
            return None
        about = read_json(beside, About, RESTORED)
        looks = Looks(tuple(about["looks"]["seeds"]), about["looks"]["spending"])
        return cls(study, read_table(path, _COLUMNS), looks, tuple(about["commits"]), path)

    def values(self, arm: str, metric: str, nfe: int) -> pd.Series[float]:
        """Return an arm's values by seed, NaN where a seed has none; `UserError` if the arm is not measured there."""
        known = self.rows[self.rows.arm == arm]
        if known.empty:
            raise UserError(f"'{arm}' is not an arm of {self.study}. {did_you_mean(arm, self.rows.arm.unique())}")
        at = known[known.nfe == nfe]
        own = at[at.metric == (at.metric.iloc[0] if metric == CALLS and len(at) else metric)].set_index("seed")
        if own.empty or not (own.state != "unasked").any():
            places = ", ".join(f"{name} at {at}" for name, at in sorted({*zip(known.metric, known.nfe, strict=True)}))
            raise UserError(f"{self.study}, {arm}: no {metric} at NFE {nfe}. It has {places}.")
        return (own.calls if metric == CALLS else own.value).where(own.state == MEASURED).sort_index()


class Effect(NamedTuple):
    """A comparison of rows, at the look that decides it, else at the last complete look."""

    relation: Relation
    rows: tuple[str, ...]
    """(row, the row that it is compared with), or all rows of a trend."""
    place: str
    """Metric and NFE, like `FID at NFE 8`."""
    comparison: Comparison | None
    """None before the first look, and where a seed has no value."""
    word: str
    """HOLDS, FAILS or UNDECIDED."""
    published: float | None
    """The relative difference of the published values; for a trend, from row to row."""
    is_tie: bool = False
    """Whether the finding is a tie: the difference is smaller than the smallest one of interest."""
    why: str = ""
    """Why there is no comparison."""

    @property
    def compared(self) -> str:
        """The comparison in words, like `OT-CFM against I-CFM, FID at NFE 8`."""
        if isinstance(self.relation, Trend):
            return f"Trend over {', '.join(self.rows)}; {self.place}"
        return f"{self.rows[0]} against {self.rows[1]}, {self.place}"

    @property
    def power(self) -> Power | None:
        """The power of the test."""
        return Power.of(self.comparison, 1) if self.comparison else None


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict at a scale."""

    claim: Claim
    key: str
    word: str
    """HOLDS, FAILS or UNDECIDED."""
    effects: tuple[Effect, ...]


def judge(table: PaperTable, key: str, measured: Mapping[str, Measured]) -> Judged:
    """Return the verdict on a claim, given {study: its values}; `UserError` if a study lacks an arm or a value."""
    claim = table.claims[key]
    pairs = [(relation, rows) for relation in claim.parts for rows in relation.contrasts]
    try:
        effects = tuple(_effect(table, claim, *pair, measured, len(pairs)) for pair in pairs)
    except UserError as error:
        raise UserError(f"{table.name}, claim {key}: {error}") from None
    words = {effect.word for effect in effects}
    return Judged(claim, key, FAILS if FAILS in words else HOLDS if words == {HOLDS} else UNDECIDED, effects)


def _effect(
    table: PaperTable, claim: Claim, relation: Relation, rows: tuple[str, ...], measured: Mapping[str, Measured],
    contrasts: int,
) -> Effect:  # fmt: skip
    """Judge one of the `contrasts` of a claim, look by look."""
    column = table.columns[relation.column]
    known = measured[column.study]
    own = [known.values(column.arms[row], column.metric, column.nfe) for row in rows]
    values = pd.concat(own, axis=1, join="inner")
    why = f"{len(values)} of {known.looks.seeds[0]} seeds"
    found = Effect(relation, rows, place_of(column), None, UNDECIDED, _published(table, relation, rows), why=why)
    lower = column.metric == CALLS or find("metric", column.metric).lower_is_better  # type: ignore[attr-defined]
    for look, seeds in enumerate(known.looks.seeds, 1):
        if len(values) < seeds:
            break
        if lost := int(values.iloc[:seeds].isna().any(axis=1).sum()):
            return found._replace(why=f"{lost} of {seeds} seeds have no value")
        comparison = _compared(values.iloc[:seeds], relation, known.looks.level(look, contrasts))
        word = _word(comparison, relation, claim.smallest_difference, lower)
        tie = statistics.verdict(comparison, claim.smallest_difference, lower) == "tie"
        tie = tie or (isinstance(relation, Tie) and word == HOLDS)
        found = found._replace(comparison=comparison, word=word, why="", is_tie=tie)
        if word != UNDECIDED:
            break
    return found


def place_of(column: Column) -> str:
    """Return the metric and the NFE of a column in words, like `FID at NFE 8`."""
    metric = column.metric if column.metric == CALLS else label_of(column.metric)
    return f"{metric} at NFE {column.nfe}" if column.nfe else f"{metric} with the adaptive solver"


def _compared(values: pd.DataFrame, relation: Relation, level: float) -> Comparison:
    """Return the paired comparison of two rows, or that of a trend's slope with 0, as the change from row to row."""
    if isinstance(relation, Trend):
        slopes = _slopes(values.to_numpy())
        return statistics.compare(np.exp(slopes).tolist(), [1.0] * len(slopes), level)
    return statistics.compare(values.iloc[:, 0].tolist(), values.iloc[:, 1].tolist(), level)


def _slopes(values: np.ndarray) -> np.ndarray:
    """Return the slope of the logarithm of each line, by least squares."""
    slopes: np.ndarray = np.polynomial.polynomial.polyfit(np.arange(values.shape[1]), np.log(values).T, 1)[1]
    return slopes


def _word(comparison: Comparison, relation: Relation, smallest: float, lower_is_better: bool) -> str:
    """Return whether a comparison shows the relation (HOLDS), excludes it (FAILS), or neither."""
    found = statistics.verdict(comparison, smallest, lower_is_better)
    if isinstance(relation, Tie):
        beyond = comparison.low > smallest or comparison.high < -smallest
        return HOLDS if statistics.is_tie(comparison, smallest) else FAILS if beyond else UNDECIDED
    return HOLDS if found == "better" else FAILS if found in ("worse", "tie") else UNDECIDED


def _published(table: PaperTable, relation: Relation, rows: tuple[str, ...]) -> float | None:
    """Return the relative difference of the published values, if the paper gives all of them."""
    values = [table.published(relation.column, row) for row in rows]
    if any(value is None for value in values):
        return None
    centres = [centre(value) for value in values if value is not None]
    if isinstance(relation, Trend):
        return float(np.expm1(_slopes(np.array([centres]))[0]))
    return centres[0] / centres[1] - 1


def centre(published: Published) -> float:
    """Return a published value, or the mean of one that has a standard deviation."""
    return published[0] if isinstance(published, tuple) else float(published)
