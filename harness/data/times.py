"""The times of a table's rows: what is one, and whether the rows follow each other as a series must."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.core.errors import UserError

NAMES = ("time", "times", "date", "dates", "datetime", "timestamp", "timestamps", "epoch", "unix", "year")
"""What columns of numbers that are times are called, in lower case."""
STAMP = re.compile(r"(1[89]|2[01])\d\d(0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)?)?")
"""A time written as one number, like 20240131 or 202401."""
STAMPS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?( ?[AaPp][Mm])?")
"""A time of the day alone."""
DATE = re.compile(r"\d{4}|\d[-/.:]\d")
"""What some part of every date looks like; what has none of it is not tried."""
SHARE = 0.9
"""Cells of a column that are dates at least, where the column is one of dates."""
UNEVEN = 1.5
"""Steps in time that differ by less than this factor are taken as even: months and quarters are."""


def stamps(texts: Sequence[str]) -> pd.Series | None:
    """Times written as numbers of one length; None where a cell is none."""
    lengths = {len(text) for text in texts}
    if len(lengths) != 1 or not all(STAMP.fullmatch(text) for text in texts):
        return None
    return pd.Series(pd.to_datetime(list(texts), format=STAMPS[lengths.pop()], errors="coerce"))


def dates(texts: Sequence[str]) -> pd.Series | None:
    """Dates written as text, None where they are none.

    Day and month are taken in the order that reads most, or else rising, dates.
    """
    filled = [text for text in texts if text]
    if not filled or not DATE.search(filled[0]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that differ from cell to cell
        read = [
            pd.Series(pd.to_datetime(list(texts), errors="coerce", utc=True, dayfirst=first)) for first in (False, True)
        ]
    read = [times for times in read if times.notna().sum() >= SHARE * len(filled)]
    return max(read, key=lambda times: (times.notna().sum(), _rising(times)), default=None)


def _rising(times: pd.Series) -> bool:
    return bool(times.dropna().is_monotonic_increasing)


def of_array(name: str, array: np.ndarray) -> pd.Series | None:
    """An array [T] as times, by its kind or its name; None where it is none."""
    if array.dtype.kind == "M" or (array.dtype.kind in "fiu" and name.lower() in NAMES):
        return pd.Series(array)
    return dates(array.tolist()) if array.dtype.kind == "U" else None


def counts(values: np.ndarray) -> bool:
    """Whether numbers [T] rise or fall by the same step in every row, as a counter of rows or a clock does."""
    if len(values) < 3 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    return steps[0] != 0 and np.ptp(steps) <= 1e-6 * abs(steps[0])


def check(times: pd.Series, path: Path, place: Callable[[int], str]) -> list[str]:
    """What is to be said of uneven steps; `UserError` where the rows are not in the order of time.

    `place(row)` names a row.
    """
    known = times.dropna()
    steps = known.diff().iloc[1:]
    if not len(steps):
        return []
    zero = steps.iloc[0] - steps.iloc[0]
    if back := steps.index[steps < zero].astype(int).tolist():
        first, last = (place(int(row)) for row in known.index[[0, -1]])
        if (steps <= zero).all():
            raise UserError(
                f"{path}: its newest row is the first ({known.iloc[0]} in {first}, {known.iloc[-1]} in {last}), "
                "so the past would be held out. Sort the rows by time."
            )
        raise UserError(
            f"{path}: its rows are not in the order of time: {known[back[0]]} in {place(back[0])} comes after "
            "a later time. Sort the rows, and give each series a file of its own."
        )
    if shared := int((steps == zero).sum()):
        return [
            f"dataset: {path}: {shared} rows have the time of the row before them. Windows take rows as evenly spaced."
        ]
    if steps.max() <= UNEVEN * steps.min() or _regular(known):
        return []
    widest = place(int(steps.index[int(steps.argmax())]))
    return [
        f"dataset: {path}: its rows are {steps.min()} to {steps.max()} apart, the widest step before {widest}. "
        "Windows take rows as evenly spaced."
    ]


def _regular(times: pd.Series) -> bool:
    """Whether pandas knows the calendar of the times: working days, ends of months."""
    if not pd.api.types.is_datetime64_any_dtype(times) or len(times) < 3:
        return False
    return pd.infer_freq(pd.DatetimeIndex(times)) is not None
