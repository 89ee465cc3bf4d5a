"""A study: the question, the arms that answer it and what would settle it, all said before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.ablation.design.crossing import ARM, Crossing, Level, Settings, axes_of, with_baseline
from harness.ablation.design.declared import require_types
from harness.ablation.design.folder import declared_in, declaring, file_of, studies_folder
from harness.ablation.design.looks import Looks, Spending
from harness.ablation.design.matching import By, refuse_lengths
from harness.ablation.design.tuned import Tuned
from harness.core.config import ConfigError, Index
from harness.core.errors import UserError, did_you_mean
from harness.core.registry import load_file
from harness.runs.config import RunConfig

Declared = TypeVar("Declared")
_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study file assigns to `STUDY`: arms, each a mapping of configuration paths to values, or axes."""

    question: str
    baseline: str = ""
    """The arm that the others are compared with. With axes it may be left out: their first levels."""
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    """In place of arms, {path: its values} or {name: {level: settings}}: every combination is an arm, and verdicts are
    on the main effects (`crossing`)."""
    fraction: float = 1.0
    """The share of the combinations that runs, like 1/2: a regular fraction (`fractions`)."""
    sweep: Mapping[str, Any] = field(default_factory=dict)
    """Like axes, beside arms: each is trained at every setting, and compared with the baseline there."""
    skip_invalid: bool = False
    """Whether combinations that a configuration refuses are left out, and said; else the study is refused."""
    metric: str | None = None
    """The primary metric: verdicts are on it alone. None is the first of the scale's `evaluate.metrics`."""
    nfe: Index = 32
    """The NFE at which the primary metric is compared."""
    smallest_difference: float = 0.05
    """Relative difference below which two arms are as good as each other; a tie is claimed within it."""
    looks: Sequence[int] = (5, 10, 20, 40)
    """Training seeds, the same ones for every arm, at each look at the results; an arm that is decided gets no more."""
    spending: Spending = "proportional"
    """How the chance of an error is divided over the looks: by the seeds that each adds, or equally (`looks`)."""
    matched: By | None = None
    """What every arm trains for as much of as the baseline (`matching`): samples, FLOPs or seconds; None is steps."""
    tuned: Tuned | None = None
    """The search by which each arm is tuned before the first look; None compares the arms as they are."""
    metrics: Sequence[str] = ()
    """Measured beside the scale's own, of every arm that they mean something for."""
    expected_nfe: Mapping[str, tuple[Index, Index]] = field(default_factory=dict)
    """{arm: the least and the most calls that it is said to need for `readouts.NEAR` its quality at the largest NFE}"""
    name: str = field(default="", kw_only=True)
    """What its tables and runs are found by; that of a file in studies/ is the file's, and is filled in on loading."""

    def __post_init__(self) -> None:
        if self.tuned is not None and not isinstance(self.tuned, Tuned):
            raise ConfigError("tuned", f"expected Tuned(...), got {self.tuned!r}. Write Tuned(spaces={{...}}).")
        require_types(self)
        if self.axes and (self.arms or self.sweep):
            raise UserError("axes: they take the place of arms and of a sweep. Make the arms or the sweep an axis.")
        if len(self.axes) == 1:
            raise UserError("axes: there is one alone, and nothing to combine it with. Name two, or make it arms.")
        if not self.axes and (self.baseline not in self.arms or len(self.arms) < 2):
            raise UserError(
                f"baseline '{self.baseline}': it and one more must be among the arms. "
                f"{did_you_mean(self.baseline, self.arms)}"
            )
        if self.fraction != 1 and not self.axes:
            raise UserError("fraction: only a study of axes has one. Name axes, or leave it out.")
        if self.skip_invalid and not (self.axes or self.sweep):
            raise UserError("skip_invalid: there are no combinations without axes or a sweep. Leave it out.")
        if self.skip_invalid and self.fraction != 1:
            raise UserError("skip_invalid: a fraction must be whole to be balanced. Leave out one of the two.")
        _, arms = self.crossed()
        if unknown := self.expected_nfe.keys() - arms.keys():
            raise UserError(f"expected_nfe: '{min(unknown)}' is no arm. {did_you_mean(min(unknown), arms)}")
        if wrong := [arm for arm, calls in self.expected_nfe.items() if len(calls) != 2]:
            raise UserError(f"expected_nfe: that of '{wrong[0]}' is no pair. Name the least and the most calls.")
        if not 0 < self.smallest_difference < 1:
            raise UserError(f"smallest_difference: {self.smallest_difference} is outside (0, 1). 0.05 means 5 %.")
        looks = Looks.planned(self.looks, self.spending)
        if self.matched:
            refuse_lengths(arms)
        if self.tuned:
            self.tuned.refuse_drawn(arms)
            self.tuned.refuse_reported(looks)
        if self.matched and self.tuned:
            raise UserError(
                "matched: settings that are tuned for one length are not for another. Leave out matched or tuned."
            )

    def crossed(self) -> tuple[Crossing | None, Mapping[str, Settings]]:
        """How the arms combine the levels of axes, None where they do not, and the settings of each."""
        if self.axes:
            axes = axes_of(self.axes, "axes")
            return Crossing.of(with_baseline(axes, self.baseline) if self.baseline else axes, False, self.fraction)
        if not self.sweep:
            return None, self.arms
        names = sorted(self.arms, key=lambda arm: arm != self.baseline)
        return Crossing.of(
            {ARM: [Level(name, name, self.arms[name]) for name in names]} | axes_of(self.sweep, "sweep"), swept=True
        )


def load_study(study: str | Study) -> Study:
    """The study of a file in studies/, by its name, or of any file that ends in .py, by its path.

    One that was defined elsewhere is itself; `UserError` where it has no name, which files and folders are called by.
    """
    if not isinstance(study, Study):
        return load_declared(study, "STUDY", Study)
    if not _NAME.fullmatch(study.name):
        advice = "Write it like Study(name='mine', ...), with a-z, 0-9 and _ alone."
        raise UserError(f"name: '{study.name}' cannot name the files of a study. {advice}")
    return study


def load_declared(name: str, variable: str, kind: type[Declared]) -> Declared:
    """What the file of that name or path assigns to `variable`, with the file's name filled in."""
    word = variable.lower()
    path = file_of(name)
    if not name.endswith(".py") and not declared_in(name, variable):
        raise UserError(f"'{name}' is no {word}. {did_you_mean(name, declaring(variable))}")
    declared = getattr(load_file(path, f"harness_study_{path.stem}"), variable, None)
    if not isinstance(declared, kind) or not _NAME.fullmatch(path.stem):
        raise UserError(
            f"{path}: no {word}. Assign a {kind.__name__} to {variable}, in a file named with a-z, 0-9 and _ alone."
        )
    object.__setattr__(declared, "name", path.stem)
    return declared


def load_scales() -> Mapping[str, RunConfig]:
    """The configurations that studies/scales.py names."""
    return _scales_file().SCALES


def load_scale(name: str) -> RunConfig:
    """The configuration that studies/scales.py names so."""
    if name not in (scales := load_scales()):
        raise UserError(f"'{name}' is no scale. {did_you_mean(name, scales)}")
    return scales[name]


def about_scale(name: str) -> str:
    """What `ABOUT` in studies/scales.py says of a scale; empty where it says nothing."""
    return getattr(_scales_file(), "ABOUT", {}).get(name, "")


def _scales_file() -> Any:
    return load_file(studies_folder() / "scales.py", "harness_scales")
