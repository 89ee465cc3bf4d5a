"""The numeric channels of a table. Doubtful columns and cells are reported or refused; nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.core.errors import ConfigError, UserError, did_you_mean
from harness.core.signals import Say
from harness.data import times
from harness.data.tables import Decimal, Table

SPACES = " '’\u00a0\u202f"
"""Characters that may separate groups of thousands with either decimal sign."""
MISSING = re.compile(r"|[-–—?.]+|#?n/?a|[+-]?nan|<na>|nat|null|none|[+-]?inf(inity)?", re.IGNORECASE)
"""Texts that mean a missing value, including infinity."""


def _pattern(mark: str, other: str) -> re.Pattern[str]:
    """Return the pattern of numbers with the decimal sign `mark`; `other` may separate thousands."""
    grouped = rf"[1-9][0-9]{{0,2}}(?P<sign>[{other}{SPACES}])[0-9]{{3}}(?:(?P=sign)[0-9]{{3}})*"
    return re.compile(rf"[+-]?(?:(?:{grouped}|[0-9]+)(?:[{mark}][0-9]*)?|[{mark}][0-9]+)(?:[eE][+-]?[0-9]+)?")


PLAIN = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?")
"""Numbers in the form that every program writes."""
MARKS = {"point": (".", ","), "comma": (",", ".")}
"""{name: (decimal sign, the sign that then separates thousands)}."""
PATTERNS = {name: _pattern(*signs) for name, signs in MARKS.items()}


def _refuse_headless(table: Table) -> None:
    """Raise `UserError` if the first row holds values, not names of columns."""
    path = table.path
    row = table.first - 1
    plain = [name for name in table.names if name and not any(pattern.fullmatch(name) for pattern in PATTERNS.values())]
    if not any(times.dates([name]) is None for name in plain):
        raise UserError(f"{path}: row {row} holds no names of columns. Write them in a first row.")
    for name, column in zip(table.names, table.texts, strict=True):
        if name in plain and name in column:
            raise UserError(
                f"{path}: '{name}' is in row {row}, which must hold the names of columns, and in the rows below. "
                "Write names in a first row."
            )


def decimal_sign(table: Table, given: Decimal) -> str:
    """Return the decimal sign, "point" or "comma": as given, or the only one that reads every number.

    `UserError` if both signs do, or neither does.
    """
    if given != "auto":
        return given
    only = {name: _first(table, name) for name in PATTERNS}
    if only["point"] and only["comma"]:
        said = " and ".join(filter(None, only.values()))
        raise UserError(
            f"{table.path}: {said} use different decimal signs. Set dataset.decimal, or write both with one sign."
        )
    for name, cell in only.items():
        if cell:
            return name
    unsure = _first(table, "both", "," if table.separator == "," else ",.")
    if unsure:
        raise UserError(
            f"{table.path}: {unsure} may be thousands or a fraction. "
            "Set dataset.decimal=point or dataset.decimal=comma."
        )
    return "point"


def _first(table: Table, reading: str, signs: str = "") -> str | None:
    """Return the first cell, with its place, that is a number by one decimal sign only, or by both.

    `reading` is the name of that sign, or "both". For "both", the cell must contain one of `signs`.
    """
    mark, other = MARKS.get(reading, (".", ","))
    for number, column in enumerate(table.texts):
        for row, text in enumerate(column):
            if mark not in text and (text.count(other) < 2 if reading != "both" else other not in text):
                continue
            text = text.removesuffix("%").rstrip()
            found = [name for name, pattern in PATTERNS.items() if pattern.fullmatch(text)]
            if found == [reading] or (len(found) == 2 and reading == "both" and any(sign in text for sign in signs)):
                return f"'{text}' in {table.place(row, number)}"
    return None


def numbers(texts: Sequence[str], decimal: str) -> np.ndarray:
    """Convert cells to float64 [T]; NaN if a cell is not a number.

    If only some numbers have a per cent sign, the minority becomes NaN.
    """
    mark, other = MARKS[decimal]
    percent = np.array([text.endswith("%") for text in texts], dtype=bool)
    drop = re.compile(f"[{other}{SPACES}]")
    pattern = PATTERNS[decimal]

    def value(text: str) -> float:
        text = text.removesuffix("%").rstrip().replace("\u2212", "-")
        return float(drop.sub("", text).replace(mark, ".")) if pattern.fullmatch(text) else np.nan

    if decimal == "point":
        values = np.array(pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce"), dtype=np.float64)
        for row in np.flatnonzero(np.isnan(values)):
            values[row] = value(texts[int(row)])
    else:
        values = np.array([value(text) for text in texts], dtype=np.float64)
    values[percent != (2 * percent.sum() > (~np.isnan(values)).sum())] = np.nan
    return values


@dataclass(frozen=True)
class Column:
    """The meaning of a column: a channel, times, or neither."""

    left_out: str = ""
    """Why it is not a channel; empty for a channel."""
    times: pd.Series | None = None
    """Times of the rows, if it holds them."""
    rank: int = 0
    """Of several columns with times, the one with the lowest rank is used."""


def _judged(table: Table, number: int, decimal: str, timed: bool) -> Column:
    """Return the meaning of a column, by its cells and its name."""
    texts = table.texts[number]
    filled = [row for row, text in enumerate(texts) if not MISSING.fullmatch(text)]
    if not filled:
        return Column("it is empty")
    values = numbers(texts, decimal)
    if 2 * int(np.isfinite(values).sum()) < len(filled):
        if all(times.CLOCK.fullmatch(texts[row]) for row in filled):
            return Column("times of the day")
        if (dates := times.dates(texts)) is not None:
            return Column("times", times=dates)
        return Column(f"no numbers, like '{texts[filled[0]]}' in {table.place(filled[0], number)}")
    if (dates := times.stamps(texts)) is not None:
        return Column("times", times=dates)
    if timed and table.names[number].lower() in times.NAMES:
        return Column("times", times=pd.Series(values), rank=1)
    if times.counts(values) and (timed or abs(values[1] - values[0]) == 1):
        return Column("it counts the rows", times=pd.Series(values), rank=2)
    return Column()


def channels(
    table: Table, decimal: Decimal, wanted: Sequence[str], say: Say, timed: bool = True, apart: Sequence[int] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the channels float64 [T, D] and their names: the wanted columns, or all numeric ones except `apart`.

    `say` gets lines on columns that are left out, on the reading of unusual numbers, and on uneven times. `UserError`
    names a cell that is not a number, or rows that are not in the order of time. Rows of a table that is not `timed`
    are in any order.
    """
    _refuse_headless(table)
    sign = decimal_sign(table, decimal)
    chosen = [position(table, name, "dataset.columns", "numeric column") for name in wanted]
    others = (number for number in range(len(table.names)) if number not in (*chosen, *apart))
    judged = {number: _judged(table, number, sign, timed) for number in others}
    said = [
        f"left out: {table.path}: {table.column(number)}: {column.left_out}"
        for number, column in judged.items()
        if column.left_out
    ]
    if not wanted:
        chosen = [number for number, column in judged.items() if not column.left_out]
        if not chosen or not table.texts[0]:
            reasons = "; ".join(line.rpartition(f"{table.path}: ")[2] for line in said) or "it has no rows"
            raise UserError(
                f"{table.path}: holds no numeric column ({reasons}). "
                f"Give a .csv with a header and a row for each {'time' if timed else 'sample'}."
            )
        for line in said:
            say(line)
    refuse_unnamed(table, chosen)
    values = np.column_stack([numbers(table.texts[number], sign) for number in chosen])
    _refuse_gaps(table, chosen, values)
    for line in [*_readings(table, chosen, values), *(_order(table, judged) if timed else [])]:
        say(line)
    return values, tuple(table.names[number] for number in chosen)


def position(table: Table, name: str, setting: str, what: str) -> int:
    """Return the index of a column; `ConfigError` at `setting` if there is none of this name."""
    if name not in table.names:
        raise ConfigError(setting, f"{table.path} has no {what} '{name}'. {did_you_mean(name, table.names)}")
    return table.names.index(name)


def refuse_unnamed(table: Table, chosen: Sequence[int]) -> None:
    """Raise `UserError` if a channel has no name, or the name of another column."""
    for number in chosen:
        name = table.names[number]
        if not name:
            raise UserError(
                f"{table.path}: {table.column(number)} holds numbers. Name it in row {table.first - 1}, or remove it."
            )
        if table.names.count(name) > 1:
            places = [table.column(n).split()[1] for n, other in enumerate(table.names) if other == name]
            raise UserError(
                f"{table.path}: the columns {' and '.join(places)} are called '{name}'. Give each a different name."
            )


def _refuse_gaps(table: Table, chosen: Sequence[int], values: np.ndarray) -> None:
    """Raise `UserError` for the first cell that holds no finite number."""
    rows, columns = np.nonzero(~np.isfinite(values))
    if len(rows):
        number = chosen[columns[0]]
        text = table.texts[number][int(rows[0])]
        empty = "1 cell holds" if len(rows) == 1 else f"{len(rows)} cells hold"
        raise UserError(
            f"{table.path}: {empty} no number, the first {table.place(int(rows[0]), number)} "
            f"in column '{table.names[number]}' ({repr(text) if text else 'empty'}). "
            "Fill them in, or set dataset.columns to other columns."
        )


def _readings(table: Table, chosen: Sequence[int], values: np.ndarray) -> Iterator[str]:
    """Yield, for each channel, a line on the reading of the first cell that is not written plainly."""
    for position, number in enumerate(chosen):
        odd = (row for row, text in enumerate(table.texts[number]) if not PLAIN.fullmatch(text))
        if (row := next(odd, None)) is not None:
            where = f"{table.column(number)}: '{table.texts[number][row]}' in {table.place(row, number)}"
            yield f"dataset: {table.path}: {where} is read as {values[row, position]:.15g}"


def _order(table: Table, judged: dict[int, Column]) -> list[str]:
    """Check the times of the rows and return lines about them. Dates and times of the day may be two columns."""
    timed = {number: column for number, column in judged.items() if column.times is not None}
    if not timed:
        return []
    number = min(timed, key=lambda n: (timed[n].rank, n))
    found = timed[number].times
    clock = next((n for n, column in judged.items() if column.left_out == "times of the day"), None)
    if clock is not None and timed[number].rank == 0:
        found = times.dates(
            [f"{day} {hour}" for day, hour in zip(table.texts[number], table.texts[clock], strict=True)]
        )
    return [] if found is None else times.check(found, table.path, lambda row: table.place(row, number))
