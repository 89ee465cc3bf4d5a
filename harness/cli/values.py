"""Parsers of an option's value: hours, whole numbers, choices; and the settings that an option's name may mean."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Mapping
from typing import Any

from harness.core.errors import ConfigError, UserError, did_you_mean
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


def settings_of(options: Namespace) -> Mapping[str, Any]:
    """Return {path: value} of the settings of the command's scale; empty if they cannot be read.

    The imports take seconds; only a mistake needs them.
    """
    from harness.ablation.design.study import load_scale
    from harness.core.config import flatten

    try:
        return flatten(load_scale(getattr(options, "scale", "digits")))
    except UserError:
        return {}


def evaluation_of(options: Namespace) -> Mapping[str, Any]:
    """Return {path: value} of the settings that a finished run may still change."""
    return {path: value for path, value in settings_of(options).items() if path.startswith("evaluate.")}
