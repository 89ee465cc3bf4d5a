"""Configurations: frozen dataclasses whose fields are checked on construction.

`from_dict` and `to_dict` convert, `override` changes by path, `flatten` names every leaf, `digest` identifies.
A field with `metadata=RUN_ONLY` says how a run is carried out and never what comes out of it: no digest sees it.
A field is an int, float, str, bool, a Literal, a configuration, any of these or None, or a tuple of one of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from harness.core.errors import ConfigError, did_you_mean

RUN_ONLY = {"run_only": True}
ADDED = {"added": True}
Presets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Range:
    """The values a number may take; `ends` says which ends belong to it, as in `[0, 1)`."""

    low: float = -math.inf
    high: float = math.inf
    ends: Literal["[]", "[)", "(]", "()"] = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def __str__(self) -> str:
        low = "(-inf" if self.low == -math.inf else f"{self.ends[0]}{self.low:g}"
        high = "inf)" if self.high == math.inf else f"{self.high:g}{self.ends[1]}"
        return f"{low}, {high}"


Positive = Annotated[float, Range(0, ends="()")]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration. Values of the wrong type or range raise `ConfigError` with the field's path."""

    presets: ClassVar[Presets] = {}
    """Sets of values by name: `preset` in a mapping, or as a path, stands for them with all else at its default; fields
    named beside it go before it."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, _convert(hint, getattr(self, name), name))

    @classmethod
    def parse(cls, value: Any) -> Self:
        """From a mapping of fields, or an instance, unchanged."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError("", f"expected {cls.__name__}, got {value!r}. Give its fields.")
        if "preset" in value and cls.presets:
            value = {**_preset(cls, value["preset"]), **{name: v for name, v in value.items() if name != "preset"}}
        known = _hints(cls)
        for name in value:
            if name not in known:
                raise ConfigError(name, f"{cls.__name__} has no such field. {did_you_mean(name, known)}")
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in value and _required(f)]
        if missing:
            raise ConfigError(missing[0], f"{cls.__name__} needs it. Give a value.")
        return cls(**value)


C = TypeVar("C", bound=Config)


def to_dict(config: Config, run_only: bool = True) -> dict[str, Any]:
    """JSON-ready nested mapping; `parse` inverts it. `run_only=False` leaves out what no digest may see."""
    fields = [f for f in dataclasses.fields(config) if run_only or not _undigested(config, f)]
    out = {f.name: _plain(getattr(config, f.name), run_only) for f in fields}
    name = getattr(type(config), "name", None)
    return {"name": name, **out} if name else out


def override(config: C, changes: Mapping[str, Any]) -> C:
    """`config` with `changes` {path: value}; a component is replaced before its fields are set."""
    if "preset" in changes and config.presets:
        config = type(config)(**_preset(type(config), changes["preset"]))
        changes = {path: v for path, v in changes.items() if path != "preset"}
    known = _hints(type(config))
    values = {}
    for head in dict.fromkeys(path.partition(".")[0] for path in changes):
        if head not in known:
            raise ConfigError(head, f"{type(config).__name__} has no such field. {did_you_mean(head, known)}")
        below = {path[len(head) + 1 :]: v for path, v in changes.items() if path.startswith(head + ".")}
        given = _read(known[head], changes.get(head, getattr(config, head)))
        if isinstance(given, str) and below:  # fields without a default must be there from the start
            given = {"name": given, **{path: below.pop(path) for path in list(below) if "." not in path}}
        value = _convert(known[head], given, head)
        if below and not isinstance(value, Config):
            raise ConfigError(next(iter(below)), f"{head} is a single value. Set {head} itself.").below(head)
        try:
            values[head] = override(value, below) if below else value
        except ConfigError as error:
            raise error.below(head) from None
    return dataclasses.replace(config, **values)


def flatten(config: Config, prefix: str = "", run_only: bool = True) -> dict[str, Any]:
    """{path: leaf value}; a component's own path holds its name. `run_only=False` leaves out what no digest may see."""
    out: dict[str, Any] = {}
    if prefix and getattr(type(config), "name", None):
        out[prefix] = type(config).name  # type: ignore[attr-defined]
    for field in dataclasses.fields(config):
        if not run_only and _undigested(config, field):
            continue
        value = getattr(config, field.name)
        path = f"{prefix}.{field.name}" if prefix else field.name
        out.update(flatten(value, path, run_only) if isinstance(value, Config) else {path: _plain(value, run_only)})
    return out


def digest(value: Config | Mapping[str, Any]) -> str:
    """12 hex digits over canonical JSON, run-only fields left out."""
    plain = to_dict(value, run_only=False) if isinstance(value, Config) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Typed(str):
    """A value as a user typed it: a text where the field is one, JSON where it parses elsewhere."""

    def read(self) -> Any:
        """The JSON value; the text where it is none."""
        return self._read()

    def parts(self) -> Any:
        """The same, with the numbers in a list or mapping as they were typed: they may stand for texts."""
        return self._read(parse_int=Typed, parse_float=Typed, parse_constant=Typed)

    def _read(self, **numbers: Any) -> Any:
        try:
            return json.loads(self, **numbers)
        except (ValueError, RecursionError):  # no JSON, a number of too many digits, or too many brackets
            return str(self)


def parse_assignments(assignments: list[str]) -> dict[str, Typed]:
    """`["train.steps=20", "weighting=min_snr"]` as {path: what was typed}."""
    out: dict[str, Typed] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError("--set", f"'{text}' is not path=value. Write it like train.steps=200.")
        out[path.strip()] = Typed(value)
    return out


def _annotations(cls: type) -> dict[str, Any]:
    """{field: annotation}; `ConfigError` for one that a configuration cannot hold."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if not _holdable(hints[field.name]):
            advice = "Declare it int, float, str, bool, Literal, a component, one of them | None, or a tuple."
            raise ConfigError(field.name, f"a configuration cannot hold {field.type}. {advice}")
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


_hints: Callable[[type], dict[str, Any]] = functools.cache(_annotations)


def _holdable(hint: Any) -> bool:
    """Whether values of an annotation are told apart by their type alone, and go through JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bare(hint) in (int, float) and all(isinstance(allowed, Range) for allowed in arguments[1:])
    if origin in _UNIONS:
        return type(None) in arguments and len(arguments) == 2 and _holdable(_bare(hint))
    if origin is Literal:
        return all(choice is None or type(choice) in (int, str, bool) for choice in arguments)
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and _holdable(arguments[0])
    return hint in _SAID or (isinstance(hint, type) and issubclass(hint, Config))


def _bare(hint: Any) -> Any:
    """An annotation without its range and without None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bare(arguments[0])
    return _bare(next(a for a in arguments if a is not type(None))) if origin in _UNIONS else hint


def _read(hint: Any, value: Any) -> Any:
    """What was typed for a field as the field takes it; anything else unchanged.

    A field of text takes it as it is, without the quotes of a JSON text; null is None where that is allowed.
    """
    if not isinstance(value, Typed):
        return value
    bare = _bare(hint)
    plain = value.read()
    if plain is None and typing.get_origin(hint) in _UNIONS:
        return None
    if isinstance(plain, (dict, list)) and bare is not str:
        return value.parts()
    component = isinstance(bare, type) and issubclass(bare, Config)
    as_text = bare is str or component or (typing.get_origin(bare) is Literal and value in typing.get_args(bare))
    return str(value) if as_text and not isinstance(plain, str) else plain


def _preset(cls: type[Config], name: Any) -> Mapping[str, Any]:
    """The fields of a preset."""
    if not isinstance(name, str) or name not in cls.presets:
        raise ConfigError("preset", f"{name!r} is no preset. {did_you_mean(str(name), cls.presets)}")
    return cls.presets[name]


def _undigested(config: Config, field: dataclasses.Field) -> bool:
    """Whether no digest may see a field: it is run-only, or was added later and stands at its default."""
    added = field.metadata.get("added") and getattr(config, field.name) == field.default
    return bool(field.metadata.get("run_only") or added)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any, run_only: bool) -> Any:
    if isinstance(value, Config):
        return to_dict(value, run_only)
    return [_plain(v, run_only) for v in value] if isinstance(value, tuple) else value


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotation `hint` wants it, or a `ConfigError` at `path`."""
    value = _read(hint, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _convert(arguments[0], value, path)
        for allowed in arguments[1:]:
            if value is not None and value not in allowed:
                raise ConfigError(path, f"{value} is outside {allowed}. Choose a value inside.")
        return value
    if origin in _UNIONS:
        return None if value is None else _convert(next(a for a in arguments if a is not type(None)), value, path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise ConfigError(path, f"{value!r} is not a choice. {did_you_mean(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(path, f"expected a list, got {value!r}. Write it like [1, 2].")
        return tuple(_convert(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if issubclass(hint, Config):
        try:
            return hint.parse(value)
        except ConfigError as error:
            raise error.below(path) from None
    return _single(hint, value, path)


def _single(hint: Any, value: Any, path: str) -> Any:
    """`value` as one of the types in `_SAID`."""
    if hint is float and type(value) is int:
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(path, f"expected {_SAID[hint]}, got {value!r}. Give {_SAID[hint]}.")
    return value + 0.0 if hint is float else value  # -0.0 and 0.0 are one value, and must have one digest


_SAID = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
_UNIONS = (types.UnionType, typing.Union)
