"""Search space: Optuna's distributions by configuration path, as a study file declares them.

    {
        "train.learning_rate": log(1e-4, 5e-4),
        "backbone.attention": one_of(None, 4),
        "1 - train.ema_decay": log(1e-4, 1e-2),
        "train.batch_size, train.steps": together((64, 800), (128, 500)),
    }

With `1 - path`, the distance of the value from 1 is drawn, for values near 1. Several paths in one name take the values
of one row together.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import ConfigError, UserError

Space = Mapping[str, BaseDistribution]
DIGITS = 3
"""Drawn numbers are rounded to this many significant digits, so a user can set exactly the number in a table."""
OUTER = 0.1
"""Share of a range at each end where a best value tells that a better one may lie outside."""
_ONE_MINUS = "1 - "
_AND = ", "


def even(low: float, high: float) -> BaseDistribution:
    """Return the uniform distribution from low to high, both included; over integers if both are integers."""
    if _whole(low, high):
        return _checked(lambda: IntDistribution(int(low), int(high)))
    return _checked(lambda: FloatDistribution(low, high))


def log(low: float, high: float) -> BaseDistribution:
    """Return the log-uniform distribution from low to high, both included; over integers if both are integers."""
    if _whole(low, high):
        return _checked(lambda: IntDistribution(int(low), int(high), log=True))
    return _checked(lambda: FloatDistribution(low, high, log=True))


def one_of(*values: Any) -> BaseDistribution:
    """Return a choice of these values.

    A value is a number, text, True, False, None, or a component like {"name": "log_snr", "low": -7.5}; `UserError` for
    any other value.
    """
    drawn = [json.dumps(value) if isinstance(value, Mapping) and "name" in value else value for value in values]
    wrong = [value for value in drawn if not isinstance(value, (int, float, str, type(None)))]
    wrong += [value for value in values if isinstance(value, str) and value.startswith("{")]
    if wrong:
        raise UserError(
            f"space: {wrong[0]!r} must be a number, text, True, False, None or component. Correct the range."
        )
    return _checked(lambda: CategoricalDistribution(drawn))


def together(*rows: Iterable[Any]) -> BaseDistribution:
    """Return a choice of rows, each with one value for every path of the name; `UserError` for any other value.

    Use it for settings that depend on each other, or that must have the same cost together.
    """
    if wrong := [row for row in rows if not isinstance(row, (list, tuple))]:
        raise UserError(f"space: {wrong[0]!r} must be a row, like (64, 800). Correct the range.")
    return _checked(lambda: CategoricalDistribution([_row(row) for row in rows]))


def require_ranges(spaces: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ConfigError` for an entry of {scale: {name: range}} that is not a valid range."""
    for scale, space in spaces.items():
        paths = [path for name in space for path in paths_of(name)]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise ConfigError(f"spaces['{scale}']", f"{twice} is drawn twice. Name each path once.")
        for name, drawn in space.items():
            place = f"spaces['{scale}']['{name}']"
            if not isinstance(drawn, BaseDistribution):
                reason = f"{drawn!r} is not a range. Write even(...), log(...), one_of(...) or together(...)."
                raise ConfigError(place, reason)
            if _AND in name and name.startswith(_ONE_MINUS):
                raise ConfigError(place, '"1 - " works with a single path only. Give the values themselves.')
            if _AND in name and not _rows_of(name, drawn):
                reason = f"expected together(...) with {len(paths_of(name))} values in each row, got {drawn}"
                raise ConfigError(place, f"{reason}. Give each path a value.")


def bare(name: str) -> str:
    """Return a name of a space without "1 - "."""
    return name.removeprefix(_ONE_MINUS)


def paths_of(name: str) -> list[str]:
    """Return the configuration paths in a name of a space."""
    return bare(name).split(_AND)


def settings(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return {path: value} of a draw {name: drawn value}, with numbers rounded to `DIGITS`."""
    return {path: value for name, x in drawn.items() for path, value in _settings(name, x).items()}


def at_ends(space: Space, values: Mapping[str, Any]) -> list[str]:
    """Return the paths whose value {path: value} lies in the first or the last tenth of its range."""
    return [
        bare(name)
        for name, drawn in inverse(space, values).items()
        if not OUTER <= _place(space[name], drawn) <= 1 - OUTER
    ]


def inverse(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the draw {name: value} that gives these values {path: value}, as far as the space contains it."""
    known = [name for name in space if all(path in values for path in paths_of(name))]
    wanted = {name: _wanted(name, [values[path] for path in paths_of(name)]) for name in known}
    return {name: x for name, x in wanted.items() if _within(space[name], x)}


def combinations(space: Space, most: int) -> list[dict[str, Any]]:
    """Return all possible draws; empty if there are more than `most`, or if a range is not a list of choices."""
    choices = [drawn.choices for drawn in space.values() if isinstance(drawn, CategoricalDistribution)]
    if len(choices) < len(space) or math.prod(map(len, choices)) > most:
        return []
    return [dict(zip(space, drawn, strict=True)) for drawn in itertools.product(*choices)]


def ends(name: str, distribution: BaseDistribution) -> list[dict[str, Any]]:
    """Return the settings to check before a search: at both ends of a range, or at every choice."""
    if isinstance(distribution, CategoricalDistribution):
        drawn = distribution.choices
    else:
        drawn = (distribution.low, distribution.high)  # type: ignore[attr-defined]
    return [_settings(name, x) for x in drawn]


def evened(distribution: BaseDistribution) -> tuple[BaseDistribution, Callable[[Any], Any]]:
    """Return the distribution on the scale on which it is uniform, and the map of drawn values to that scale."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution, lambda x: x
    scale = math.log if distribution.log else float  # type: ignore[attr-defined]
    return FloatDistribution(scale(distribution.low), scale(distribution.high)), scale  # type: ignore[attr-defined]


def _settings(name: str, x: Any) -> dict[str, Any]:
    """Return {path: value} for the value x that was drawn for a name."""
    paths = paths_of(name)
    if len(paths) > 1:
        return dict(zip(paths, _values(x), strict=True))
    if not isinstance(x, float):
        return {paths[0]: json.loads(x) if isinstance(x, str) and x.startswith("{") else x}
    rounded = float(f"{x:.{DIGITS}g}")
    return {paths[0]: _from_one(rounded) if name.startswith(_ONE_MINUS) else rounded}


def _wanted(name: str, values: list[Any]) -> Any:
    """Return the draw for a name that gives its paths these values."""
    if len(values) > 1:
        return _row(values)
    return _from_one(values[0]) if name.startswith(_ONE_MINUS) and values[0] is not None else values[0]


def _place(drawn: BaseDistribution, value: Any) -> float:
    """Return where a value lies in its range, from 0 to 1; 1/2 for a choice, which has no ends."""
    if not isinstance(drawn, (FloatDistribution, IntDistribution)) or drawn.single():
        return 0.5
    low, high, own = (math.log(number) if drawn.log else number for number in (drawn.low, drawn.high, value))
    return (own - low) / (high - low)


def _row(values: Iterable[Any]) -> str:
    """Return a row of values as the single text that Optuna draws."""
    return json.dumps([*values])[1:-1]


def _values(row: Any) -> list[Any]:
    return json.loads(f"[{row}]")


def _rows_of(name: str, distribution: BaseDistribution) -> bool:
    """Whether each choice is a row with a value for every path of the name."""
    try:
        rows = [_values(row) for row in getattr(distribution, "choices", [""])]
    except ValueError:
        return False
    return all(len(row) == len(paths_of(name)) for row in rows)


def _from_one(x: float) -> float:
    """Return 1 - x without floating-point error in the last digits."""
    return round(1 - x, 12)


def _within(distribution: BaseDistribution, x: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return x in distribution.choices
    return x is not None and distribution.low <= x <= distribution.high  # type: ignore[attr-defined]


def _whole(low: float, high: float) -> bool:
    """Whether both ends are integers; `UserError` if one is not a finite number."""
    for end in (low, high):
        if not isinstance(end, (int, float)) or not abs(end) <= sys.float_info.max:
            raise UserError(f"space: {end!r} must be a finite number. Correct the range.")
    return isinstance(low, int) and isinstance(high, int)


def _checked(build: Callable[[], BaseDistribution]) -> BaseDistribution:
    try:
        return build()
    except ValueError as error:  # Optuna's message names both ends
        raise UserError(f"space: {str(error).rstrip('.')}. Correct the range.") from None
