"""Published values beside ours: a row for each cell of a published table that a study measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from harness.ablation.design.looks import LEVEL, quantile
from harness.ablation.design.paper import PAPER, PaperTable, Published, agrees, at, shown
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.report import statistics
from harness.ablation.report.claims import FAILS, HOLDS, UNDECIDED, Effect, Judged, Measured, centre, place_of
from harness.ablation.report.grid import Grid
from harness.ablation.report.paper_page import number
from harness.core.config import to_dict

COLUMNS = [
    "column", "row", "published", "published_sd", "ours", "half_width", "seeds", "published_difference", "difference",
    "low", "high",
]  # fmt: skip
"""Differences are relative, and to the first row of the column; intervals are 95 % ones, not adjusted."""


def values(table: PaperTable, measured: Mapping[str, Measured]) -> pd.DataFrame:
    """Return our values with the published ones beside them, in `COLUMNS`; NaN where the paper gives none."""
    rows = []
    for name, column in table.columns.items():
        known = measured[column.study]
        own = {row: known.values(arm, column.metric, column.nfe) for row, arm in column.arms.items()}
        published = {row: table.published(name, row) for row in own}
        centres = {row: math.nan if value is None else centre(value) for row, value in published.items()}
        first = next(iter(own))
        for row, mine in own.items():
            sd = value[1] if isinstance(value := published[row], tuple) else math.nan
            ours = [mine.mean(), _half_width(mine.dropna()), mine.notna().sum()]
            differences = [math.nan] * 4
            if row != first:
                pairs = pd.concat([mine, own[first]], axis=1, join="inner").dropna()
                against = statistics.compare(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
                differences = [centres[row] / centres[first] - 1, against.difference, against.low, against.high]
            rows.append([name, row, centres[row], sd, *ours, *differences])
    return pd.DataFrame(rows, columns=COLUMNS)


def _half_width(own: pd.Series[float]) -> float:
    """Return the half width of the 95 % interval of a mean over seeds; NaN for one seed."""
    return quantile(LEVEL, len(own)) * own.std() / math.sqrt(len(own)) if len(own) > 1 else math.nan


def grids(table: PaperTable, found: pd.DataFrame, scale: str) -> list[Grid]:
    """Return a grid for each column of a published table."""
    header = ["row", "published", "ours", "seeds", "published difference", "our difference", "95 %"]
    out = []
    for name, own in found.groupby("column", sort=False):
        column = table.columns[str(name)]
        title = f"{name}; ours: {place_of(column)}, scale {scale}; against {next(iter(column.arms))}"
        rows = [_cells(each, table.published(str(name), each.row), scale == PAPER) for _, each in own.iterrows()]
        out.append(Grid(title, [*header, *(["ours / published"] if scale == PAPER else [])], rows))
    return out


def _cells(each: pd.Series, published: Published | None, ratio: bool) -> list[str]:
    """Return a row of `values` as text, with the ratio of our value and the published one if asked."""
    interval = f"{each.low:+.1%} to {each.high:+.1%}" if each.low == each.low else ""
    width = f" ± {each.half_width:.2g}" if each.half_width == each.half_width else ""
    differences = ["" if pd.isna(value) else f"{value:+.1%}" for value in (each.published_difference, each.difference)]
    told = "" if published is None else number(published)
    cells = [each.row, told, f"{each.ours:.3g}{width}", str(each.seeds), *differences, interval]
    return [*cells, f"{each.ours / each.published:.2f}"] if ratio else cells


def of_claims(judged: Sequence[Judged], scale: str) -> Grid:
    """Return the grid of the verdicts on claims, a row for each comparison."""
    header = ["claim", "comparison", "published", "ours", "interval", "seeds", "seeds find", "verdict"]
    rows = [[each.key, effect.compared, *cells(effect), each.word] for each in judged for effect in each.effects]
    return Grid(f"Claims at the scale {scale}", header, rows)


def of_claim(judged: Judged) -> Grid:
    """Return the grid of one claim, a row for each comparison."""
    header = ["comparison", "published", "ours", "interval", "seeds", "seeds find", "verdict"]
    return Grid("", header, [[effect.compared, *cells(effect), effect.word] for effect in judged.effects])


def expected(judged: Judged) -> str:
    """Return the prediction of a claim in words."""
    claim = judged.claim
    if claim.expected is None:
        return "No prediction was stated for this scale."
    return f"Expected{' (stated after the runs)' if claim.after else ''}: {claim.expected}; {claim.because}."


def cells(effect: Effect) -> list[str]:
    """Return the published difference, ours, its interval, the seeds, and what they find with 80 % power."""
    told = "" if effect.published is None else f"{effect.published:+.1%}"
    comparison = effect.comparison
    if comparison is None:
        return [told, "", "", effect.why, ""]
    ends = (comparison.narrow_low, comparison.narrow_high) if effect.is_tie else (comparison.low, comparison.high)
    interval = f"{ends[0]:+.1%} to {ends[1]:+.1%}"
    power = effect.power
    found = f"{power.found.fall:+.0%} or {power.found.rise:+.0%}" if power else ""
    return [told, f"{comparison.difference:+.1%}", interval, str(comparison.n), found]


def told(judged: Judged) -> str:
    """Return the verdict on a claim in words, with its comparisons and its prediction."""
    claim = judged.claim
    parts = []
    for effect in judged.effects:
        published, ours, interval, seeds, found = cells(effect)
        if not ours:
            parts.append(f"{effect.compared}: {effect.why}")
            continue
        beside = f"; the paper has {published}" if published else ""
        sees = f" (they find {found})" if found and effect.word == UNDECIDED else ""
        small = f", a tie within {100 * claim.smallest_difference:g} %" if effect.is_tie else ""
        parts.append(f"{effect.compared}: {ours} ({interval}{small}), {seeds} seeds{sees}{beside}")
    return f"{judged.key}: {judged.word}. {claim.says} {'. '.join(parts)}. {expected(judged)}"


def counted(judged: Sequence[Judged]) -> str:
    """Return how many claims hold, do not hold, and are undecided."""
    words = [each.word for each in judged]
    undecided = len(words) - words.count(HOLDS) - words.count(FAILS)
    return f"{words.count(HOLDS)} hold, {words.count(FAILS)} do not hold, {undecided} are undecided"


def protocols(table: PaperTable, scale: str) -> list[str]:
    """Return the sentences about settings that the authors state and our values do not have at this scale."""
    rows: dict[str, dict[str, None]] = {}
    for column in table.columns.values():
        study = load_study(column.study)
        arms = Plan.of(study.as_written(), scale, load_scale(scale), {}, None, []).arms
        drawn = study.tuned.drawn if study.tuned else set()
        for row, arm in column.arms.items():
            plain = to_dict(arms[arm])
            stated = table.rows[row].stated if row in table.rows else {}
            for path, value in {**table.stated, **stated}.items():
                if path in ("evaluate.nfe", "evaluate.metrics"):  # the title of the column has them
                    continue
                if path in drawn or not agrees(at(plain, path), value):
                    here = "tuned" if path in drawn else shown(at(plain, path))
                    rows.setdefault(f"{path} {shown(value)} in the paper, {here} here", {})[row] = None
    everywhere = {row for own in rows.values() for row in own}
    shared = [told for told, own in rows.items() if own.keys() == everywhere]
    others = [f"{told} ({', '.join(own)})" for told, own in rows.items() if own.keys() != everywhere]
    said = [f"The protocols differ, so compare differences, not values: {'; '.join(shared)}."] if shared else []
    return [*said, *([f"In some rows: {'; '.join(others)}."] if others else [])]
