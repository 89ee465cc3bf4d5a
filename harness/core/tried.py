"""What a user's component gives, held against what is due: a line that names class and method where it is not that.

The harness's own components are called and believed.
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
    """A finite tensor with the shape, dtype and device of another, its numbers from `low` to `high`."""

    other: Tensor
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        most = f" to {self.high:g}" if self.high < math.inf else " or more"
        within = f" of {self.low:g}{most}" if self.low > -math.inf else ""
        return f"a finite {_described(self.other)}{within}"

    def fault(self, given: Any) -> str | None:
        """What something is instead; None where it is as it should be."""
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
    """A value of one of these types, in words."""

    types: tuple[type, ...]
    words: str

    def __str__(self) -> str:
        return self.words

    def fault(self, given: Any) -> str | None:
        """What something is instead; None where it is as it should be."""
        return None if isinstance(given, self.types) and not isinstance(given, bool) else _described(given)


NUMBER = Instance((int, float), "a number")
WHOLE = Instance((int,), "a whole number")


def tried(component: Any, method: str, *arguments: Any, due: Like | Instance) -> Any:
    """What a method gives; `UserError` where a user's does not give what is due, or raises anything of its own."""
    given = attempted(component, method, lambda: getattr(component, method)(*arguments))
    if not is_own(type(component)):
        require(component, method, given, due)
    return given


def attempted(component: Any, method: str, call: Callable[[], Any]) -> Any:
    """What a call of a method, or of what it made, gives.

    `UserError` where a user's raises anything but what ends a work in order.
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
    """`UserError` where what a method gave, or a part of it, is not what is due."""
    if (fault := due.fault(given)) is not None:
        what = f"{_called(component, method)} gives {fault}{part and f' for {part}'}, and {due} is due"
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
    """Times between the ends, at which everything is finite."""
    return torch.linspace(0.05, 0.95, number, dtype=dtype)
