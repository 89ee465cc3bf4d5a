"""Check that the values declared in a study file have the types of their fields."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import ConfigError
from harness.core.fields import convert
from harness.core.registry import find


def require_types(declared: Any) -> None:
    """Raise `ConfigError` for the first field of a dataclass whose value has another type or is out of range."""
    for name, hint in typing.get_type_hints(type(declared), include_extras=True).items():
        _require(hint, getattr(declared, name), name)


def require_metric(name: str) -> None:
    """Raise `ConfigError` if no metric has this name."""
    try:
        find("metric", name)
    except ConfigError as error:
        raise error.below("metric") from None


def _require(hint: Any, value: Any, path: str) -> None:
    origin = typing.get_origin(hint)
    inside = typing.get_args(hint)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(path, f"expected a mapping, got {value!r}. Write it like {{'name': ...}}.")
        for name, below in value.items():
            convert(str, name, f"a name in {path}")
            _require(inside[1], below, f"{path}['{name}']")
    elif origin is Sequence:
        convert(types.GenericAlias(tuple, (inside[0], ...)), value, path)
    elif hint is not Any:
        convert(hint, value, path)
