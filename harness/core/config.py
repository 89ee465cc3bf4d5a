"""Configurations: frozen dataclasses whose fields are checked on construction.

`parse` and `to_dict` convert, `override` changes by path, `flatten` names every leaf, `digest` identifies.
A field with `metadata=RUN_ONLY` says how a run is carried out and never what comes out of it: no digest sees it.
A field with `metadata=ADDED` came after its class was first used: no digest sees it while it stands at its default, so
that what earlier code named keeps its name. That default means what was done before the field, and never changes.
A field of both kinds, `metadata=RUN_ONLY | ADDED`, is run-only.
A field is an int, float, str, bool, a Literal, a configuration, any of these or None, or a tuple of one of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from harness.core.errors import ConfigError, did_you_mean
from harness.core.fields import Nested, Range, Typed, convert, hints, read, required
from harness.core.files import short_hash
from harness.core.reading import short

RUN_ONLY = {"run_only": True}
"""A field's metadata, where it says only how a run is carried out."""
ADDED = {"added": True}
"""A field's metadata, where earlier code did without the field."""
Presets = Mapping[str, Mapping[str, Any]]

Positive = Annotated[float, Range(1e-150, 1e150, why="Python holds no larger square")]
NonNegative = Annotated[float, Range(0, 1e150, why="Python holds no larger square")]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 10**9, why="no machine gets through a billion")]
"""How many. A field of which far fewer are too many says so in a range of its own."""
Index = Annotated[int, Range(0, 10**9, why="no machine gets through a billion")]
"""The same, or none."""
Seed = Annotated[int, Range(0, 2**128 - 1, why="its digits are part of names")]
Width = Annotated[int, Range(4, 65_536, why="no published network is wider")]
Depth = Annotated[int, Range(1, 1000, why="no published network is deeper")]
Calls = Annotated[int, Range(0, 10_000, why="no published sampler takes more")]
"""Of the network for one sample; 0 lets an adaptive solver choose."""
Repeats = Annotated[int, Range(1, 100_000, why="more change no digit that is shown")]
SEEDS = Range(1, 10_000, why="a verdict needs tens")
"""Of a study."""
AGAIN = Range(2, 1000, why="the variance is known long before")
"""Sampling seeds of a run."""
TRIALS = Range(1, 100_000, why="a search ends long before")
ROUNDS = Range(1, 20, why="flows are straight long before")
"""Of reflow."""
WORKERS = Range(1, 1024, why="each is a process")


@dataclass(frozen=True, kw_only=True)
class Config(Nested):
    """Base of every configuration. Values of the wrong type or range raise `ConfigError` with the field's path."""

    presets: ClassVar[Presets] = {}
    """Sets of values by name: `preset` in a mapping, or as a path, stands for them with all else at its default; fields
    named beside it go before it."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, convert(hint, getattr(self, name), name))

    @classmethod
    def parse(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError("", f"expected {cls.__name__}, got {short(value)}. Give its fields.")
        if "preset" in value and cls.presets:
            value = {**_preset(cls, value["preset"]), **{name: v for name, v in value.items() if name != "preset"}}
        known = hints(cls)
        for name in value:
            if name not in known:
                raise ConfigError(name, f"{cls.__name__} has no such field. {did_you_mean(name, known)}")
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in value and required(f)]
        if missing:
            raise ConfigError(missing[0], f"{cls.__name__} needs it. Give a value.")
        return cls(**value)


C = TypeVar("C", bound=Config)


def to_dict(config: Config, digested: bool = False) -> dict[str, Any]:
    """JSON-ready nested mapping; `parse` inverts it. `digested` gives what a digest sees and leaves out all else."""
    return _mapping(config, _digested if digested else _any)


def override(config: C, changes: Mapping[str, Any]) -> C:
    """`config` with `changes` {path: value}; a component is replaced before its fields are set."""
    if "preset" in changes and config.presets:
        config = type(config)(**_preset(type(config), changes["preset"]))
        changes = {path: v for path, v in changes.items() if path != "preset"}
    known = hints(type(config))
    values = {}
    for head in dict.fromkeys(path.partition(".")[0] for path in changes):
        if head not in known:
            raise ConfigError(head, f"{type(config).__name__} has no such field. {did_you_mean(head, known)}")
        below = {path[len(head) + 1 :]: v for path, v in changes.items() if path.startswith(head + ".")}
        try:
            given = read(known[head], changes.get(head, getattr(config, head)))
        except ConfigError as error:
            raise error.below(head) from None
        if isinstance(given, str) and below:  # fields without a default must be there from the start
            given = {"name": given, **{path: below.pop(path) for path in list(below) if "." not in path}}
        value = convert(known[head], given, head)
        if below and not isinstance(value, Config):
            raise ConfigError(next(iter(below)), f"{head} is a single value. Set {head} itself.").below(head)
        try:
            values[head] = override(value, below) if below else value
        except ConfigError as error:
            raise error.below(head) from None
    return dataclasses.replace(config, **values)


def flatten(config: Config, prefix: str = "", run_only: bool = True) -> dict[str, Any]:
    """{path: leaf value}; a component's own path holds its name. `run_only=False` leaves out run-only fields."""
    out: dict[str, Any] = {}
    keep = _any if run_only else _lasting
    if prefix and getattr(type(config), "name", None):
        out[prefix] = type(config).name  # type: ignore[attr-defined]
    for field in dataclasses.fields(config):
        if keep(config, field):
            value = getattr(config, field.name)
            path = f"{prefix}.{field.name}" if prefix else field.name
            out |= flatten(value, path, run_only) if isinstance(value, Config) else {path: _plain(value, keep)}
    return out


def largest_path(config: Config, at: str) -> str:
    """The path below `at` of the whole number that is furthest above its default (1 without one), else `at`."""
    factors = {}
    for field in dataclasses.fields(config):
        own, usual = (_wholes(value) for value in (getattr(config, field.name), field.default))
        if own and not field.metadata.get("run_only"):
            factors[f"{at}.{field.name}"] = max(own) / max(usual, default=1)
    path = max(factors, key=lambda name: factors[name], default=at)
    return path if factors.get(path, 0) > 1 else at


def _wholes(value: Any) -> list[int]:
    """The whole numbers above 0 in a field's value."""
    return [x for x in (value if isinstance(value, tuple) else (value,)) if type(x) is int and x > 0]


def digest(value: Config | Mapping[str, Any]) -> str:
    """12 hex digits over canonical JSON, without run-only fields and without added ones at their defaults."""
    text = _canonical(to_dict(value, digested=True) if isinstance(value, Config) else value)
    return short_hash(text.encode())


def _canonical(plain: Any) -> str:
    """The one text of what JSON can hold."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_assignments(assignments: list[str]) -> dict[str, Typed]:
    """`["train.steps=20", "weighting=min_snr"]` as {path: what was typed}."""
    out: dict[str, Typed] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise ConfigError("--set", f"'{text}' is not path=value. Write it like train.steps=200.")
        out[path.strip()] = Typed(value)
    return out


def _preset(cls: type[Config], name: Any) -> Mapping[str, Any]:
    """The fields of a preset."""
    if not isinstance(name, str) or name not in cls.presets:
        raise ConfigError("preset", f"{short(name)} is no preset. {did_you_mean(str(name), cls.presets)}")
    return cls.presets[name]


Keep = Callable[[Config, dataclasses.Field], bool]
"""Says whether a field of a configuration is written."""


def _any(config: Config, field: dataclasses.Field) -> bool:
    return True


def _lasting(config: Config, field: dataclasses.Field) -> bool:
    """Whether what comes out of a run depends on a field."""
    return not field.metadata.get("run_only")


def _digested(config: Config, field: dataclasses.Field) -> bool:
    """Whether a digest sees a field."""
    if not _lasting(config, field) or not field.metadata.get("added"):
        return _lasting(config, field)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    usual = convert(hints(type(config))[field.name], default, field.name)
    now = getattr(config, field.name)
    return _canonical(_plain(now, _digested)) != _canonical(_plain(usual, _digested))


def _mapping(config: Config, keep: Keep) -> dict[str, Any]:
    """The fields that `keep` chooses, there and below; a component's name before them."""
    chosen = [field.name for field in dataclasses.fields(config) if keep(config, field)]
    out = {name: _plain(getattr(config, name), keep) for name in chosen}
    name = getattr(type(config), "name", None)
    return {"name": name, **out} if name else out


def _plain(value: Any, keep: Keep) -> Any:
    if isinstance(value, Config):
        return _mapping(value, keep)
    return [_plain(v, keep) for v in value] if isinstance(value, tuple) else value
