"""What a search draws from: Optuna's distributions by configuration path.

    {
        "train.learning_rate": log(1e-4, 5e-4),
        "train.batch_size": one_of(128, 256),
        "1 - train.ema_decay": log(1e-4, 1e-2),
    }

`1 - path` stands for how far the value is from one, for what is near it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.core.errors import ConfigError, UserError

Space = Mapping[str, BaseDistribution]
DIGITS = 3
"""Significant digits of a number in use: its reader can set the very one that a table shows."""
_ONE_MINUS = "1 - "


def even(low: float, high: float) -> BaseDistribution:
    """From low to high, both included; whole numbers when both are."""
    if _whole(low, high):
        return _checked(lambda: IntDistribution(int(low), int(high)))
    return _checked(lambda: FloatDistribution(low, high))


def log(low: float, high: float) -> BaseDistribution:
    """From low to high, both included, evenly in the logarithm; whole numbers when both are."""
    if _whole(low, high):
        return _checked(lambda: IntDistribution(int(low), int(high), log=True))
    return _checked(lambda: FloatDistribution(low, high, log=True))


def one_of(*values: Any) -> BaseDistribution:
    """One of these: numbers, texts, true, false or None."""
    if wrong := [value for value in values if not isinstance(value, (int, float, str, type(None)))]:
        raise UserError(f"space: {wrong[0]!r} is no number, text, True, False or None. Correct the range.")
    return _checked(lambda: CategoricalDistribution(values))


def require_ranges(spaces: Mapping[str, Mapping[str, Any]]) -> None:
    """`ConfigError` for what is drawn from no range, by scale and name."""
    for scale, space in spaces.items():
        for name, drawn in space.items():
            if not isinstance(drawn, BaseDistribution):
                reason = f"{drawn!r} is no range. Write even(...), log(...) or one_of(...)."
                raise ConfigError(f"spaces['{scale}']['{name}']", reason)


def path_of(name: str) -> str:
    """The configuration path that a name in a space stands for."""
    return name.removeprefix(_ONE_MINUS)


def settings(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """{path: value} of what was drawn by name, numbers rounded to `DIGITS`."""
    return {path_of(name): _value(name, x) for name, x in drawn.items()}


def inverse(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be drawn for the values of these paths, as far as the space has it."""
    wanted = {
        name: _from_one(values[path_of(name)]) if name.startswith(_ONE_MINUS) else values[path_of(name)]
        for name in space
    }
    return {name: x for name, x in wanted.items() if _within(space[name], x)}


def ends(name: str, distribution: BaseDistribution) -> list[Any]:
    """The values to check before any is drawn: both ends, or all of a choice."""
    if isinstance(distribution, CategoricalDistribution):
        drawn = distribution.choices
    else:
        drawn = (distribution.low, distribution.high)  # type: ignore[attr-defined]
    return [_value(name, x) for x in drawn]


def evened(distribution: BaseDistribution) -> tuple[BaseDistribution, Callable[[Any], Any]]:
    """The distribution on the scale on which it is even, and what takes a drawn value there."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution, lambda x: x
    scale = math.log if distribution.log else float  # type: ignore[attr-defined]
    return FloatDistribution(scale(distribution.low), scale(distribution.high)), scale  # type: ignore[attr-defined]


def _value(name: str, x: Any) -> Any:
    if not isinstance(x, float):
        return x
    rounded = float(f"{x:.{DIGITS}g}")
    return _from_one(rounded) if name.startswith(_ONE_MINUS) else rounded


def _from_one(x: float) -> float:
    """1 - x without the last digits that are not its own."""
    return round(1 - x, 12)


def _within(distribution: BaseDistribution, x: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return x in distribution.choices
    return distribution.low <= x <= distribution.high  # type: ignore[attr-defined]


def _whole(low: float, high: float) -> bool:
    """Whether both ends are whole numbers; `UserError` where one is no finite number."""
    for end in (low, high):
        if not isinstance(end, (int, float)) or not abs(end) <= sys.float_info.max:
            raise UserError(f"space: {end!r} is no finite number. Correct the range.")
    return isinstance(low, int) and isinstance(high, int)


def _checked(build: Callable[[], BaseDistribution]) -> BaseDistribution:
    try:
        return build()
    except ValueError as error:  # Optuna's own words, which name both ends
        raise UserError(f"space: {str(error).rstrip('.')}. Correct the range.") from None
