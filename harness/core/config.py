"""Configurations: frozen dataclasses whose fields are checked on construction.

`parse` and `to_dict` convert, `override` changes fields by path, `flatten` lists every leaf, `digest` identifies.
A field is an int, float, str, bool, a Literal, a configuration, one of these or None, or a tuple of one of them.

A field with `metadata=RUN_ONLY` changes how a run is carried out, never its result. Digests omit it.
A field with `metadata=ADDED` came after its class was first used. Digests omit it while it has its default, so earlier
runs keep their names. The default must mean the behaviour before the field existed, and must never change.
A field of both kinds, `metadata=RUN_ONLY | ADDED`, is run-only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from harness.core.errors import ConfigError, did_you_mean
from harness.core.fields import Nested, Range, Typed, convert, hints, read, required
from harness.core.files import short_hash
from harness.core.reading import short

RUN_ONLY = {"run_only": True}
"""Metadata of a field that only changes how a run is carried out."""
ADDED = {"added": True}
"""Metadata of a field that its class did not have at first."""
Presets = Mapping[str, Mapping[str, Any]]

Positive = Annotated[float, Range(1e-150, 1e150, why="the square of a larger number overflows")]
NonNegative = Annotated[float, Range(0, 1e150, why="the square of a larger number overflows")]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 10**9, why="no machine completes more than a billion")]
"""A number of things, at least one. A field with a far lower sensible maximum declares another range."""
Index = Annotated[int, Range(0, 10**9, why="no machine completes more than a billion")]
"""A number of things that may be 0."""
Seed = Annotated[int, Range(0, 2**128 - 1, why="names contain the digits of the seed")]
Width = Annotated[int, Range(4, 65_536, why="no published network is wider")]
Depth = Annotated[int, Range(1, 1000, why="no published network is deeper")]
Calls = Annotated[int, Range(0, 10_000, why="no published sampler takes more")]
"""Network calls for one sample (NFE); 0 lets an adaptive solver choose."""
Repeats = Annotated[int, Range(1, 100_000, why="more repeats change no digit that is shown")]
SEEDS = Range(1, 10_000, why="a verdict needs tens of seeds")
"""Number of seeds of a study."""
AGAIN = Range(2, 1000, why="far fewer are enough for the variance")
"""Number of sampling seeds of a run."""
TRIALS = Range(1, 100_000, why="a search needs far fewer")
ROUNDS = Range(1, 20, why="flows are straight after far fewer")
"""Number of reflow rounds."""
WORKERS = Range(1, 1024, why="each is a process")


@dataclass(frozen=True, kw_only=True)
class Config(Nested):
    """Base of every configuration. A value of the wrong type or range raises `ConfigError` with the field's path."""

    presets: ClassVar[Presets] = {}
    """{preset name: field values}. The key `preset` in a mapping, or the path `preset`, selects one. All other fields
    take their defaults; fields that are given together with `preset` override it."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, convert(hint, getattr(self, name), name))

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Build from a mapping of fields; return an instance unchanged. `ConfigError` for a wrong or missing field."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError("", f"expected {cls.__name__}, got {short(value)}. Give its fields.")
        if "preset" in value and cls.presets:
            value = {**_preset(cls, value["preset"]), **{name: v for name, v in value.items() if name != "preset"}}
        known = hints(cls)
        for name in value:
            if name not in known:
                raise _unknown(cls, name)
        missing = [f.name for f in dataclasses.fields(cls) if f.name not in value and required(f)]
        if missing:
            owner = getattr(cls, "name", "")
            raise ConfigError(missing[0], f"{owner} needs it. Give a value." if owner else "is needed. Give a value.")
        return cls(**value)


def _unknown(cls: type[Config], field: str) -> ConfigError:
    """Return the error for a field that a class lacks; a component calls itself by its name."""
    owner = getattr(cls, "name", "")
    reason = f"{owner} has no such field" if owner else "is not a known field"
    return ConfigError(field, f"{reason}. {did_you_mean(field, hints(cls))}")


C = TypeVar("C", bound=Config)


def to_dict(config: Config, digested: bool = False) -> dict[str, Any]:
    """Return a JSON-ready nested mapping; `parse` inverts it. `digested` keeps only the fields that enter a digest."""
    return _mapping(config, _digested if digested else _any)


def override(config: C, changes: Mapping[str, Any]) -> C:
    """Return `config` with `changes` {path: value}. A component is replaced before its fields are set."""
    if "preset" in changes and config.presets:
        config = type(config)(**_preset(type(config), changes["preset"]))
        changes = {path: v for path, v in changes.items() if path != "preset"}
    known = hints(type(config))
    values = {}
    for head in dict.fromkeys(path.partition(".")[0] for path in changes):
        if head not in known:
            raise _unknown(type(config), head)
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
    """Return the path below `at` of the integer with the largest ratio to its default (1 without a default).

    `at` if no ratio exceeds 1. Run-only fields do not count.
    """
    factors = {}
    for field in dataclasses.fields(config):
        own, usual = (_wholes(value) for value in (getattr(config, field.name), field.default))
        if own and not field.metadata.get("run_only"):
            factors[f"{at}.{field.name}"] = max(own) / max(usual, default=1)
    path = max(factors, key=lambda name: factors[name], default=at)
    return path if factors.get(path, 0) > 1 else at


def _wholes(value: Any) -> list[int]:
    """The positive integers in a field's value."""
    return [x for x in (value if isinstance(value, tuple) else (value,)) if type(x) is int and x > 0]


def digest(value: Config | Mapping[str, Any]) -> str:
    """Hash canonical JSON to 12 hex digits. Run-only fields, and added fields at their defaults, do not count."""
    text = _canonical(to_dict(value, digested=True) if isinstance(value, Config) else value)
    return short_hash(text.encode())


def _canonical(plain: Any) -> str:
    """Return canonical JSON: sorted keys, no spaces, finite numbers."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_assignments(assignments: list[str]) -> dict[str, Typed]:
    """Parse `["train.steps=20", "weighting=min_snr"]` to {path: typed value}. `ConfigError` without `path=value`."""
    out: dict[str, Typed] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise ConfigError("--set", f"'{text}' is not path=value. Write it like train.steps=200.")
        out[path.strip()] = Typed(value)
    return out


def _preset(cls: type[Config], name: Any) -> Mapping[str, Any]:
    """Return the field values of a preset; `ConfigError` for an unknown one."""
    if not isinstance(name, str) or name not in cls.presets:
        raise ConfigError("preset", f"{short(name)} is not a preset. {did_you_mean(str(name), cls.presets)}")
    return cls.presets[name]


Keep = Callable[[Config, dataclasses.Field], bool]
"""Returns whether a field of a configuration is included."""


def _any(config: Config, field: dataclasses.Field) -> bool:
    return True


def _lasting(config: Config, field: dataclasses.Field) -> bool:
    """Whether the result of a run can depend on a field."""
    return not field.metadata.get("run_only")


def _digested(config: Config, field: dataclasses.Field) -> bool:
    """Whether a field enters a digest."""
    if not _lasting(config, field) or not field.metadata.get("added"):
        return _lasting(config, field)
    usual = _usual(type(config), field.name)  # type: ignore[arg-type]  # mypy takes the hash of instances
    return _canonical(_plain(getattr(config, field.name), _digested)) != usual


@functools.cache
def _usual(cls: type[Config], name: str) -> str:
    """Return the default of an added field as canonical JSON."""
    (field,) = [field for field in dataclasses.fields(cls) if field.name == name]
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return _canonical(_plain(convert(hints(cls)[field.name], default, field.name), _digested))


def _mapping(config: Config, keep: Keep) -> dict[str, Any]:
    """{field: plain value} of the fields that `keep` accepts, at every level; a component's name comes first."""
    chosen = [field.name for field in dataclasses.fields(config) if keep(config, field)]
    out = {name: _plain(getattr(config, name), keep) for name in chosen}
    name = getattr(type(config), "name", None)
    return {"name": name, **out} if name else out


def _plain(value: Any, keep: Keep) -> Any:
    if isinstance(value, Config):
        return _mapping(value, keep)
    return [_plain(v, keep) for v in value] if isinstance(value, tuple) else value
