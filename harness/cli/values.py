"""Parsers of an option's value: hours, whole numbers, choices."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection

from harness.core.errors import ConfigError, did_you_mean
from harness.core.fields import Range
from harness.core.reading import short


def number_of_hours(text: str) -> float:
    """Read a positive number of hours."""
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise ArgumentTypeError(f"'{text[:40]}' must be a number of hours above 0.")
    return hours


def within(allowed: Range) -> Callable[[str], int]:
    """Return a parser of whole numbers of 1 or more within a range."""

    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 4000 or int(text) < 1:
            raise ArgumentTypeError(f"{text[:40]} must be a whole number of 1 or more.")
        try:
            allowed.refuse(int(text), "")
        except ConfigError as error:
            raise ArgumentTypeError(error.message) from None
        return int(text)

    return read


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """Return a parser of one of several words; its error suggests the nearest word."""

    def read(text: str) -> str:
        if text not in choices:
            raise ArgumentTypeError(f"{short(text)} is not a choice. {did_you_mean(text, choices)}")
        return text

    return read
