"""Recognise the times of a table's rows, and check that the rows are in the order of time and evenly spaced."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.core.errors import UserError

NAMES = ("time", "times", "date", "dates", "datetime", "timestamp", "timestamps", "epoch", "unix", "year")
"""Names of numeric columns that hold times, in lower case."""
STAMP = re.compile(r"(1[89]|2[01])\d\d(0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)?)?")
"""A time written as one number, like 20240131 or 202401."""
STAMPS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?( ?[AaPp][Mm])?")
"""A time of the day without a date."""
DATE = re.compile(r"\d{4}|\d[-/.:]\d")
"""A pattern that every date contains; other texts are not tried."""
SHARE = 0.9
"""Minimum share of dates among the filled cells of a column of dates."""
UNEVEN = 1.5
"""Time steps that differ by at most this factor count as even, such as months and quarters."""


def stamps(texts: Sequence[str]) -> pd.Series | None:
    """Parse times that are written as numbers of one length, like 20240131; None if a cell is not such a number."""
    lengths = {len(text) for text in texts}
    if len(lengths) != 1 or not all(STAMP.fullmatch(text) for text in texts):
        return None
    return pd.Series(pd.to_datetime(list(texts), format=STAMPS[lengths.pop()], errors="coerce"))


def dates(texts: Sequence[str]) -> pd.Series | None:
    """Parse dates that are written as text; None if they are not dates.

    The order of day and month is the one that reads more dates, or, if both read as many, ascending dates.
    """
    filled = [text for text in texts if text]
    if not filled or not DATE.search(filled[0]):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about formats that differ between cells
        read = [
            pd.Series(pd.to_datetime(list(texts), errors="coerce", utc=True, dayfirst=first)) for first in (False, True)
        ]
    read = [times for times in read if times.notna().sum() >= SHARE * len(filled)]
    return max(read, key=lambda times: (times.notna().sum(), _rising(times)), default=None)


def _rising(times: pd.Series) -> bool:
    return bool(times.dropna().is_monotonic_increasing)


def of_array(name: str, array: np.ndarray) -> pd.Series | None:
    """Return an array [T] as times, by its dtype or its name; None if it does not hold times."""
    if array.dtype.kind == "M" or (array.dtype.kind in "fiu" and name.lower() in NAMES):
        return pd.Series(array)
    return dates(array.tolist()) if array.dtype.kind == "U" else None


def counts(values: np.ndarray) -> bool:
    """Whether numbers [T] rise or fall by the same step in every row, like a row counter or a clock."""
    if len(values) < 3 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    return steps[0] != 0 and np.ptp(steps) <= 1e-6 * abs(steps[0])


def check(times: pd.Series, path: Path, place: Callable[[int], str]) -> list[str]:
    """Return a line about uneven steps, or none; `UserError` if the rows are not in the order of time.

    `place(row)` names a row in messages.
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
            "a later time. Sort the rows, and give each series a separate file."
        )
    if shared := int((steps == zero).sum()):
        return [
            f"dataset: {path}: {shared} rows have the same time as the row before. Windows treat rows as evenly spaced."
        ]
    if steps.max() <= UNEVEN * steps.min() or _regular(known):
        return []
    widest = place(int(steps.index[int(steps.argmax())]))
    return [
        f"dataset: {path}: its rows are {steps.min()} to {steps.max()} apart, the widest step before {widest}. "
        "Windows treat rows as evenly spaced."
    ]


def _regular(times: pd.Series) -> bool:
    """Whether pandas recognises a regular calendar in the times, such as working days or ends of months."""
    if not pd.api.types.is_datetime64_any_dtype(times) or len(times) < 3:
        return False
    return pd.infer_freq(pd.DatetimeIndex(times)) is not None
