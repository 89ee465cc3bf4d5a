"""Arms that combine the levels of several axes, and the contrasts between them that a study tests.

A study of `axes` estimates main effects: each level is compared with the first level of its axis, averaged over the
other axes. A study whose arms share a `sweep` tests whether a finding holds: each arm is compared with the baseline at
every setting. Both are products of axes; in a sweep, the arms are the first axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from harness.ablation.design import fractions
from harness.core.errors import ConfigError, UserError, did_you_mean

Settings = Mapping[str, Any]
"""{configuration path: value}"""
ARM = "arm"
"""Name of the axis of arms in a sweep."""


class Level(NamedTuple):
    """One level of an axis."""

    name: str
    """Name of the level within its axis."""
    in_arm: str
    """Text for the level in an arm's name."""
    settings: Settings


Axes = dict[str, list[Level]]
"""{axis: its levels, the baseline's first}"""


class Contrast(NamedTuple):
    """A tested comparison: the geometric mean of `arms` against the geometric mean of `against`, paired by seed."""

    arms: tuple[str, ...]
    against: tuple[str, ...]
    base: str
    """Name of `against`."""
    family: str
    """Contrasts of one family ask the same question at several settings."""


@dataclass(frozen=True)
class Crossing:
    """Levels of all axes, and the level of each axis that every arm has."""

    levels: dict[str, tuple[str, ...]]
    """{axis: its levels, the baseline's first}"""
    arms: dict[str, tuple[str, ...]]
    """{arm: its level of each axis}"""
    swept: bool = False
    """Whether the first axis is compared at every setting of the others."""
    equations: tuple[fractions.Word, ...] = ()
    """Equations of a regular fraction; empty if all combinations run, except those in `left_out`."""
    left_out: dict[str, str] = field(default_factory=dict)
    """{combination: reason why its configuration is invalid}"""

    @classmethod
    def of(cls, axes: Axes, swept: bool = False, fraction: float = 1.0) -> tuple[Self, dict[str, Settings]]:
        """Combine axes; return the crossing and {arm: settings}. `UserError` if the axes do not fit together."""
        numbers = {axis: len(levels) for axis, levels in axes.items()}
        equations = fractions.equations(list(numbers.values()), fraction)
        arms = {}
        settings: dict[str, Settings] = {}
        for places in itertools.product(*map(range, numbers.values())):
            if fractions.solves(places, equations, next(iter(numbers.values()))):
                chosen = [levels[place] for levels, place in zip(axes.values(), places, strict=True)]
                name = ", ".join(level.in_arm for level in chosen)
                if name in arms:
                    raise UserError(f"arm '{name}': two combinations have this name. Give a level another name.")
                arms[name] = tuple(level.name for level in chosen)
                settings[name] = _together(name, [level.settings for level in chosen])
        levels = {axis: tuple(level.name for level in own) for axis, own in axes.items()}
        return cls(levels, arms, swept, tuple(equations)), settings

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """Build a crossing from its JSON object."""
        levels, arms = ({name: tuple(own) for name, own in plain[what].items()} for what in ("levels", "arms"))
        return cls(levels, arms, plain["swept"], tuple(map(tuple, plain["equations"])), plain["left_out"])

    @property
    def baseline(self) -> str:
        """The arm with the first level of each axis."""
        return next(iter(self.arms))

    @property
    def skippable(self) -> set[str]:
        """Arms that are not the baseline of another arm."""
        return {*self.arms} - {self.baseline, *(contrast.base for contrast in self.contrasts().values())}

    def without(self, left_out: Mapping[str, str]) -> Crossing:
        """Return the crossing without some arms, {arm: reason}; `UserError` if a level then has no partner."""
        arms = {arm: own for arm, own in self.arms.items() if arm not in left_out}
        found = Crossing(self.levels, arms, self.swept, self.equations, dict(left_out))
        for axis, level, corners in found._compared():
            if not corners[0]:
                why = next(f"{arm}: {reason}" for arm, reason in left_out.items() if level in self.arms[arm])
                raise UserError(f"axes: {axis} {level} has no partner with {self.levels[axis][0]} left ({why})")
        return found

    def contrasts(self) -> dict[str, Contrast]:
        """Return {name: contrast}; the name is the arm's in a sweep, and `axis: level` for a main effect."""
        out: dict[str, Contrast] = {}
        for axis, level, (arms, against) in self._compared():
            if self.swept:
                pairs = zip(arms, against, strict=True)
                out |= {arm: Contrast((arm,), (other,), other, level) for arm, other in pairs}
            else:
                name = f"{axis}: {level}"
                out[name] = Contrast(arms, against, f"{axis}: {self.levels[axis][0]}", name)
        return out

    def corners(self, axes: Sequence[str], *levels: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return the arms at each corner; a corner in `levels` names one level for each of `axes`.

        In a product, only arms whose other levels occur at every corner count; their order is the same at every corner.
        In a fraction all arms count, because the other levels are balanced.
        """
        places = [[*self.levels].index(axis) for axis in axes]
        found: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {corner: {} for corner in levels}
        for arm, own in self.arms.items():
            corner = tuple(own[place] for place in places)
            if corner in found:
                others = tuple(level for place, level in enumerate(own) if place not in places)
                found[corner][others] = arm
        if self.equations:
            return [tuple(found[corner].values()) for corner in levels]
        shared = [others for others in found[levels[0]] if all(others in arms for arms in found.values())]
        return [tuple(found[corner][others] for others in shared) for corner in levels]

    @property
    def aliases(self) -> list[list[tuple[str, ...]]]:
        """Groups of effects that a fraction cannot tell apart; an effect is the tuple of its axes."""
        if not self.equations:
            return []
        names = [*self.levels]
        groups = fractions.aliases(self.equations, len(self.levels[names[0]]))
        return [[tuple(names[place] for place in effect) for effect in group] for group in groups]

    def told(self) -> list[str]:
        """Return notes on left-out combinations and on aliases in a fraction, for the user to read before any run."""
        lines = [f"Left out, as skip_invalid allows: {arm} ({why})" for arm, why in self.left_out.items()]
        if self.equations:
            s = len(next(iter(self.levels.values())))
            numeral = {3: "III", 4: "IV", 5: "V"}.get(resolution := fractions.resolution(self.equations, s), resolution)
            apart = "; ".join(" with ".join(" × ".join(axes) for axes in group) for group in self.aliases)
            part = "" if s == 2 else ", in part"
            told = f"It cannot tell apart{part}: {apart}" if apart else "It tells effects of one and two axes apart"
            run = f"{len(self.arms)} of {s ** len(self.levels)} combinations run"
            lines.append(f"{run}, a regular fraction of resolution {numeral}. {told}.")
        return lines

    def _compared(self) -> Iterable[tuple[str, str, list[tuple[str, ...]]]]:
        """Yield (axis, level, [arms with the level, arms with the axis's first level]) for every compared level."""
        for axis in [*self.levels][:1] if self.swept else self.levels:
            base, *others = self.levels[axis]
            for level in others:
                yield axis, level, self.corners([axis], (level,), (base,))


def axes_of(declared: Mapping[str, Any], at: str) -> Axes:
    """Read the axes in field `at` of a study file: {path: its values}, or {name: {level: settings}}.

    `ConfigError` if an axis is not a list or mapping, or has fewer than two different levels.
    """
    short = {path: path.rpartition(".")[2] for path in declared}
    names = short if len({*short.values()}) == len(short) else {path: path for path in declared}
    axes = {}
    for path, own in declared.items():
        place = f"{at}['{path}']"
        if isinstance(own, Mapping):
            levels = [Level(name, name, _settings(f"{place}['{name}']", below)) for name, below in own.items()]
        elif isinstance(own, Sequence) and not isinstance(own, str):
            levels = [_level(path, names[path], value) for value in own]
        else:
            raise ConfigError(place, f"expected a list of values, got {own!r}. Write it like ['a', 'b'].")
        known = [level.name for level in levels]
        if len({*known}) < len(known) or len(known) < 2:
            raise ConfigError(place, f"{', '.join(known) or 'nothing'} are not two different levels. Name each once.")
        axes[names[path]] = levels
    return axes


def with_baseline(axes: Axes, baseline: str) -> Axes:
    """Return the axes with the levels of the arm `baseline` first; `UserError` if no combination has this name."""
    found, _ = Crossing.of(axes)
    if baseline not in found.arms:
        raise UserError(f"baseline '{baseline}': no combination has this name. {did_you_mean(baseline, found.arms)}")
    own = dict(zip(axes, found.arms[baseline], strict=True))
    return {axis: sorted(levels, key=lambda level: level.name != own[axis]) for axis, levels in axes.items()}


def level_name(value: Any) -> str:
    """Return the name of a level with this value; a component's is its name and its given fields."""
    if isinstance(value, Mapping):
        return " ".join(str(v) if k == "name" else f"{k} {v}" for k, v in value.items())
    return str(value)


def _level(path: str, axis: str, value: Any) -> Level:
    """Return the level of a path with this value; for a number, the arm's name also shows the axis."""
    name = level_name(value)
    return Level(name, name if isinstance(value, (str, Mapping)) else f"{axis} {name}", {path: value})


def _settings(place: str, value: Any) -> Settings:
    if not isinstance(value, Mapping):
        raise ConfigError(place, f"expected the level's settings, got {value!r}. Write them like {{'path': value}}.")
    return value


def _together(arm: str, parts: Sequence[Settings]) -> Settings:
    """Merge the settings of an arm's levels; `UserError` if two levels set the same path."""
    counts = [path for part in parts for path in part]
    if twice := next((path for path in counts if counts.count(path) > 1), None):
        raise UserError(f"arm '{arm}': two of its axes set {twice}. Set it in only one of them.")
    return {path: value for part in parts for path, value in part.items()}
