"""Types of configuration fields: ranges of numbers, and the conversion of values to a field's annotation."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
import typing
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from harness.core.errors import ConfigError, did_you_mean
from harness.core.reading import Damaged, parse, short


@dataclass(frozen=True)
class Range:
    """The values a number may take; `ends` says which ends belong to it, as in `[0, 1)`."""

    low: float = -math.inf
    high: float = math.inf
    ends: Literal["[]", "[)", "(]", "()"] = "[]"
    why: str = ""
    """Why no value may lie above `high`, as a clause for the error message."""

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        low = "(-inf" if self.low == -math.inf else f"{self.ends[0]}{_number(self.low)}"
        high = "inf)" if self.high == math.inf else f"{_number(self.high)}{self.ends[1]}"
        return f"{low}, {high}"

    def refuse(self, value: float, path: str) -> None:
        """`ConfigError` at `path` for a value outside."""
        if value not in self:
            why = f" ({self.why})" if self.why and value > self.high else ""
            raise ConfigError(path, f"{short(value)} is outside {self}{why}. Choose a value inside.")


def _number(value: float) -> str:
    """Return an end of a range as text; an int keeps all its digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class Nested:
    """Base of the configurations that a field can hold."""

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """Build from a mapping of fields; return an instance unchanged."""


class Typed(str):
    """A value as a user typed it: text for a text field; for other fields JSON, if it parses."""

    def read(self) -> Any:
        """Return the JSON value, or the text if it is not JSON."""
        return self._json()

    def nested(self) -> Any:
        """Return the JSON value with its numbers as typed text, because a field in a list or mapping may be text."""
        return self._json(parse_int=Typed, parse_float=Typed, parse_constant=Typed)

    def _json(self, **numbers: Any) -> Any:
        try:
            return parse(self, finite=False, **numbers)
        except Damaged:
            return str(self)


def _hints(cls: type) -> dict[str, Any]:
    """Return {field: annotation}.

    `ConfigError` for a type that a configuration cannot hold, or for a field that is ADDED without a default.
    """
    found = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if not _holdable(found[field.name]):
            advice = "Declare it int, float, str, bool, Literal, a component, one of them | None, or a tuple."
            raise ConfigError(field.name, f"a configuration cannot hold {field.type}. {advice}")
        if field.metadata.get("added") and required(field):
            raise ConfigError(field.name, "is ADDED but has no default. Give it the default that changes nothing.")
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


hints: Callable[[type], dict[str, Any]] = functools.cache(_hints)
"""{field: annotation} of a configuration's class."""


def _holdable(hint: Any) -> bool:
    """Whether the values of an annotation differ by their type alone, and JSON keeps them."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Annotated:
        return _bare(hint) in (int, float) and all(isinstance(allowed, Range) for allowed in arguments[1:])
    if origin in _UNIONS:
        return type(None) in arguments and len(arguments) == 2 and _holdable(_bare(hint))
    if origin is Literal:
        return all(choice is None or type(choice) in (int, str, bool) for choice in arguments)
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _holdable(arguments[0])
    return hint in _SAID or (isinstance(hint, type) and issubclass(hint, Nested))


def _bare(hint: Any) -> Any:
    """An annotation without its range and without None."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Annotated:
        return _bare(arguments[0])
    return _bare(next(a for a in arguments if a is not type(None))) if origin in _UNIONS else hint


def range_of(hint: Any) -> Range | None:
    """Return the range that an annotation, or the items of its tuple, declares; None if it declares no range."""
    if typing.get_origin(hint) is Annotated:
        return next((allowed for allowed in typing.get_args(hint)[1:] if isinstance(allowed, Range)), None)
    return next(filter(None, map(range_of, typing.get_args(hint))), None)


def read(hint: Any, value: Any) -> Any:
    """Return a typed value as its field takes it; any other value unchanged.

    A text field takes the text as typed, without the quotes of a JSON string. `null` is None where None is allowed.
    """
    if not isinstance(value, Typed):
        return value
    bare = _bare(hint)
    plain = value.read()
    if plain is None and typing.get_origin(hint) in _UNIONS:
        return None
    if isinstance(plain, (dict, list)) and bare is not str:
        return value.nested()
    if bare is not str and isinstance(plain, str) and value.lstrip()[:1] in ("{", "["):
        _refuse_json(value)
    component = isinstance(bare, type) and issubclass(bare, Nested)
    as_text = bare is str or component or (typing.get_origin(bare) is Literal and value in typing.get_args(bare))
    return str(value) if as_text and not isinstance(plain, str) else plain


def untyped(value: Any) -> Any:
    """Return lists and mappings with their typed numbers as numbers; the inverse of `Typed.nested`."""
    if isinstance(value, Mapping):
        return {name: untyped(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [untyped(item) for item in value]
    return value.read() if isinstance(value, Typed) else value


def _refuse_json(value: str) -> None:
    """Raise `ConfigError` with the reason if a text that begins like a list or a mapping is not valid JSON."""
    try:
        parse(value, finite=False)
    except Damaged as error:
        raise ConfigError("", f"{short(str(value))} cannot be read ({error}). Write it as JSON.") from None


def required(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def convert(hint: Any, value: Any, path: str) -> Any:
    """Return `value` converted to the annotation `hint`; `ConfigError` at `path` if that is impossible."""
    try:
        value = read(hint, value)
    except ConfigError as error:
        raise error.below(path) from None
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Annotated:
        value = convert(arguments[0], value, path)
        for allowed in arguments[1:]:
            if value is not None:
                allowed.refuse(value, path)
        return value
    if origin in _UNIONS:
        return None if value is None else convert(next(a for a in arguments if a is not type(None)), value, path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise ConfigError(path, f"{short(value)} is not a choice. {did_you_mean(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, f"expected a list, got {short(value)}. Write it like [1, 2].")
        return tuple(convert(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if issubclass(hint, Nested):
        try:
            return hint.parse(value)
        except ConfigError as error:
            raise error.below(path) from None
    return _single(hint, value, path)


def _single(hint: Any, value: Any, path: str) -> Any:
    """Return `value` as one of the types in `_SAID`."""
    if hint is float and type(value) is int:
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(path, f"expected {_SAID[hint]}, got {short(value)}. Give {_SAID[hint]}.")
    return value + 0.0 if hint is float else value  # -0.0 and 0.0 are one value, and must have one digest


_SAID = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
_UNIONS = (types.UnionType, typing.Union)
