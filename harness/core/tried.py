"""Check what a user's component returns. The error is one line that names the class and the method.

The harness's own components are called without a check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.core.declared import is_own, place_of
from harness.core.errors import Pruned, Stopped, UserError, in_a_line, place_in, shortage
from harness.core.registry import Component


@dataclass(frozen=True)
class Like:
    """A finite tensor with the shape, dtype and device of another, and values in [`low`, `high`]."""

    other: Tensor
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        most = f" to {self.high:g}" if self.high < math.inf else " or more"
        within = f" with values of {self.low:g}{most}" if self.low > -math.inf else ""
        return f"a finite {_described(self.other)}{within}"

    def fault(self, given: Any) -> str | None:
        """Return what `given` is instead, in words; None if it is right."""
        if not isinstance(given, Tensor) or _described(given) != _described(self.other):
            return _described(given)
        if not given.isfinite().all():
            return "NaN or infinity"
        if (given < self.low).any() or (given > self.high).any():
            worst = given.min() if (given < self.low).any() else given.max()
            return f"{worst.item():g}"
        return None


@dataclass(frozen=True)
class Instance:
    """A value of one of `types`, which messages call `words`."""

    types: tuple[type, ...]
    words: str

    def __str__(self) -> str:
        return self.words

    def fault(self, given: Any) -> str | None:
        """Return what `given` is instead, in words; None if it is right."""
        return None if isinstance(given, self.types) and not isinstance(given, bool) else _described(given)


NUMBER = Instance((int, float), "a number")
WHOLE = Instance((int,), "a whole number")


def tried(component: Any, method: str, *arguments: Any, due: Like | Instance) -> Any:
    """Call a method and return its result; `UserError` if a user's method raises, or returns anything but `due`."""
    given = attempted(component, method, lambda: getattr(component, method)(*arguments))
    if not is_own(type(component)):
        require(component, method, given, due)
    return given


def attempted(component: Any, method: str, call: Callable[[], Any]) -> Any:
    """Return the result of `call`, which calls a component's method or an object that the method made.

    `UserError` if a user's component raises. Exceptions that end the work in order pass through: `UserError`,
    `Stopped`, `Pruned`, `OSError`.
    """
    try:
        return call()
    except (UserError, Stopped, Pruned, OSError):
        raise
    except (Exception, SystemExit) as error:
        if is_own(type(component)):
            raise
        place = place_in(error, [place_of(type(component)).rpartition(", line")[0]]) or place_of(type(component))
        said = f"{place}: {_called(component, method)}"
        if shortage(error) is not None:
            error.add_note(said)
            raise
        raise UserError(f"{said} raises {in_a_line(error)}. Correct it.") from error


def require(component: Component, method: str, given: Any, due: Like | Instance, part: str = "") -> None:
    """Raise `UserError` if the result of a method, or the named `part` of it, is not what is `due`."""
    if (fault := due.fault(given)) is not None:
        what = f"{_called(component, method)} returns {fault}{part and f' for {part}'}, but should return {due}"
        own = vars(type(component)).get(method, type(component))
        raise UserError(f"{place_of(own)}: {what}. Correct it.")


def _called(component: Any, method: str) -> str:
    return f"{type(component).__name__}.{method}"


def _described(given: Any) -> str:
    if isinstance(given, Tensor):
        where = "" if given.device.type == "cpu" else f" on {given.device}"
        return f"{str(given.dtype).removeprefix('torch.')} tensor {list(given.shape)}{where}"
    if given is None:
        return "None"
    shown = f" {given!r}" if isinstance(given, (int, float, str)) and len(repr(given)) < 30 else ""
    return f"{type(given).__name__}{shown}"


def times(number: int, dtype: torch.dtype) -> Tensor:
    """Return `number` times in [0.05, 0.95], where all quantities are finite."""
    return torch.linspace(0.05, 0.95, number, dtype=dtype)
