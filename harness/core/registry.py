"""Components by family and name: `build("weighting", {"name": "min_snr", "gamma": 5})`, `names("weighting")`.

A component is a frozen dataclass in any file. Its declaration registers it; each name can be used once. `--plugin FILE`
reads a user's file. An entry point of the group `harness.components`, like `mine = "my_package.mine"`, names a
module of an installed package to read.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from harness.core.config import Config, to_dict
from harness.core.declared import check_declared, declared_beside, is_own
from harness.core.errors import USERS_FILES, ConfigError, UserError, did_you_mean, in_a_line, place_in, raised_by
from harness.core.files import short_hash
from harness.core.reading import short

HOMES = {
    "interpolant": "harness.components.interpolants",
    "prediction": "harness.components.predictions",
    "weighting": "harness.components.weightings",
    "loss": "harness.components.losses",
    "perceptual": "harness.components.perceptual",
    "time_sampler": "harness.components.time_samplers",
    "noise": "harness.components.noises",
    "coupling": "harness.components.couplings",
    "solver": "harness.components.solvers",
    "time_grid": "harness.components.time_grids",
    "time_embedding": "harness.components.backbones.embeddings",
    "backbone": "harness.components.backbones",
    "optimizer": "harness.training.optimizers",
    "schedule": "harness.training.schedules",
    "average": "harness.components.averages",
    "dataset": "harness.data",
    "extractor": "harness.evaluation",
    "metric": "harness.evaluation",
}
"""The module of each family's members; it is imported when the family is first used."""
PACKAGED = "harness.components"
"""The group of entry points whose values are modules of components."""

_BASES: dict[str, type[Component]] = {}
_MEMBERS: dict[str, dict[str, type[Component]]] = {family: {} for family in HOMES}
_LOADING: set[str] = set()
"""Names of the users' modules that are being imported."""
DECLARING: set[str] = set()
"""Names of modules that declare something else than components, such as a launcher."""


@dataclass(frozen=True, kw_only=True)
class Component(Config, ABC):
    """Base of all components.

    A family is `class Weighting(Component, family="weighting")`, a member `class MinSNR(Weighting, name="min_snr")`.
    """

    family: ClassVar[str]
    name: ClassVar[str] = ""
    """The member's name; empty in a family's base class."""
    formula: ClassVar[str] = ""
    """The formula that it computes, with its fields in braces, like `min(SNR, {gamma:g})`."""
    source: ClassVar[str] = ""
    """Paper and equation."""
    waits: ClassVar[bool] = False
    """Whether a GPU waits for it in a training step, because it computes or reads data elsewhere."""

    def __init_subclass__(cls, family: str | None = None, name: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if family is not None:
            if not is_own(cls):
                raise UserError(
                    f"{cls.__name__}: no file can add or replace a family. Derive it from a family's class."
                )
            cls.family = family
            _BASES[family] = cls
        if name is not None:
            _require_name(cls, name)
            taken = _MEMBERS[cls.family].setdefault(name, cls)
            again = cls.__module__ in _LOADING and taken is not cls and "__dataclass_fields__" not in vars(cls)
            if again or (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                by = "this file" if taken.__module__ == cls.__module__ else taken.__module__
                raise UserError(f"{cls.family} '{name}' is already taken by {by}. Choose another name.")
            _MEMBERS[cls.family][name] = cls  # dataclass(slots=True) declares the class a second time
            cls.name = name

    def written_out(self) -> str:
        """Return the formula with the values of the fields, or the docstring's first line if there is no formula."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = {name: value.written_out() if isinstance(value, Component) else value for name, value in values.items()}
        return self.formula.format(**shown) if self.formula else about(type(self))

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Build from a name, or a mapping with `name` and fields; return an instance unchanged."""
        if isinstance(value, cls):
            return value
        spec = {"name": value} if isinstance(value, str) else value
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise ConfigError("", f"expected a {cls.family}, got {short(value)}. Give its name.")
        member = find(cls.family, spec["name"])
        fields = {k: v for k, v in spec.items() if k != "name"}
        return super(Component, member).parse(fields)  # type: ignore[return-value]


def _require_name(cls: type[Component], name: Any) -> None:
    """Raise `UserError` if a name cannot be written on a command line, or its class belongs to no family."""
    if not hasattr(cls, "family"):
        raise UserError(f"{cls.__name__} belongs to no family. Derive it from a family's class, like Weighting.")
    if not isinstance(name, str) or not name.isprintable() or not name or set(name) & set(" =,[]{}\"'"):
        raise UserError(f"{cls.__name__}: {name!r} is not a valid name. Give a word, like name='mine'.")


def names(family: str) -> list[str]:
    """Return the names of a family's members, sorted; `UserError` for an unknown family."""
    if family not in HOMES:
        raise UserError(f"'{family}' is not a family. {did_you_mean(family, HOMES)}")
    importlib.import_module(HOMES[family])
    _load_packaged()
    return sorted(_MEMBERS[family])


def find(family: str, name: str) -> type[Component]:
    """Return the class with this name; `ConfigError` if there is none, `UserError` if it is not a dataclass."""
    known = names(family)
    if name not in known:
        advice = declared_beside(name) or did_you_mean(name, known)
        if advice.startswith("Known"):
            advice += " A component in a file of yours needs --plugin FILE."
        raise ConfigError("", f"{short(name)} is not a known {family}. {advice}")
    member = _MEMBERS[family][name]
    if "__dataclass_fields__" not in vars(member):
        raise UserError(
            f"{family} '{name}' is not a dataclass. Put @dataclass(frozen=True, kw_only=True) above its class."
        )
    return member


def build(family: str, spec: str | Mapping[str, Any] | Component) -> Any:
    """Return the component that a name, a mapping or an instance describes; `UserError` if the description is wrong."""
    names(family)
    try:
        return _BASES[family].parse(spec)
    except ConfigError as error:
        raise error.below(family) from None


def describe(family: str) -> list[dict[str, Any]]:
    """Return name, first docstring line, parameters with defaults, and source of every member."""
    members = [find(family, name) for name in names(family)]
    return [
        {
            "family": family,
            "name": member.name,
            "about": about(member),
            "parameters": {f.name: _default(f) for f in dataclasses.fields(member)},
            "source": member.source,
        }
        for member in members
    ]


def about(member: type[Component]) -> str:
    """The first line of a component's docstring."""
    return (member.__doc__ or "").strip().split("\n")[0]


@functools.cache
def _load_packaged() -> None:
    """Import the modules that installed packages declare in `PACKAGED`, once; `UserError` names a failing package."""
    for point in importlib.metadata.entry_points(group=PACKAGED):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            point.load()
            USERS_FILES.add(str(sys.modules[point.module].__file__))
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, UserError) else f"{in_a_line(error)}."
            advice = "Correct the package, or uninstall it."
            raise UserError(f"{package}: its entry point {point.name} = {point.value}: {reason} {advice}") from error


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Import users' files, in this order."""
    for path in paths:
        load_plugin(Path(path))


def load_plugin(path: Path) -> str:
    """Import a user's file, whose components register themselves, and return its module's name.

    `UserError` if it declares no component, or declares one wrongly.
    """
    name = f"harness_plugin_{path.stem}_{short_hash(os.fsencode(path.resolve()))}"
    module = load_file(path, name)
    found = [m for members in _MEMBERS.values() for m in members.values() if m.__module__ == name]
    brought = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Component) and not is_own(v)]
    if not (found or name in DECLARING or any("name" in vars(one) for one in brought)):
        raise UserError(f"{path}: declares no component. Give one a name: class Mine(Weighting, name='mine').")
    for member in found:
        check_declared(member)
    return name


def members_of(module_name: str) -> list[Component]:
    """Return the components that a module declares, with their defaults."""
    found = [
        (family, name)
        for family, members in _MEMBERS.items()
        for name, m in members.items()
        if m.__module__ == module_name
    ]
    return [build(family, name) for family, name in found]


def load_file(path: Path, module_name: str) -> Any:
    """Import the Python file at `path` as a module. This runs the user's code."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of a Python file.")
    if module_name in sys.modules and Path(str(sys.modules[module_name].__file__)).resolve() == path.resolve():
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file. Give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    _LOADING.add(module_name)
    USERS_FILES.add(str(spec.origin))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        _forget(module_name)
        if isinstance(error, KeyboardInterrupt) and not raised_by(error, "KeyboardInterrupt"):
            raise
        place = place_in(error, [str(spec.origin)]) or str(path)
        raise UserError(_refusal(place.replace(str(spec.origin), str(path)), path, error)) from error
    finally:
        _LOADING.discard(module_name)
    return module


def _forget(module_name: str) -> None:
    """Unregister the components of a file whose import failed."""
    sys.modules.pop(module_name)
    for members in _MEMBERS.values():
        for name in [name for name, member in members.items() if member.__module__ == module_name]:
            del members[name]


def _refusal(place: str, path: Path, error: BaseException) -> str:
    """Return the message that says where and why a user's file cannot be read."""
    if isinstance(error, UserError):
        return f"{place}: {error}"
    if isinstance(error, SystemExit):
        return f"{place}: the file calls sys.exit, which would end the command before its work. Remove the call."
    if isinstance(error, SyntaxError) and place.endswith(f", line {error.lineno}"):
        return f"{place}: SyntaxError: {error.msg}. Correct the file."
    if isinstance(error, ModuleNotFoundError) and error.name and (path.parent / f"{error.name}.py").exists():
        advice = "A plugin cannot import the files next to it: put all into one file, or install them as a package."
        return f"{place}: {in_a_line(error)}. {advice}"
    return f"{place}: {in_a_line(error)}. Correct the file."


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return to_dict(field.default) if isinstance(field.default, Config) else field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def sources(config: Config) -> dict[str, str]:
    """Return {family.name: 12 hex digits of its file's hash} of the users' components in `config`.

    This includes components that a text field with `metadata={"family": ...}` names.
    """
    own = {f"{one.family}.{one.name}": inspect.getfile(type(one)) for one in users_components(config)}
    return {name: short_hash(Path(path).read_bytes()) for name, path in own.items()}


def users_components(config: Config) -> Iterator[Component]:
    """The components of `config`, at any depth, that are not the harness's own."""
    if isinstance(config, Component) and not is_own(type(config)):
        yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if (family := field.metadata.get("family")) and value in names(family):
            value = build(family, value)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Config):
                yield from users_components(item)
