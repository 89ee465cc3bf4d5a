"""Study: the question, the arms that answer it and the decision rule, all declared before the first run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from harness.ablation.design.crossing import ARM, Crossing, Level, Settings, axes_of, with_baseline
from harness.ablation.design.declared import require_types
from harness.ablation.design.folder import declared_in, declaring, file_of, no_scale, scales_file
from harness.ablation.design.looks import Looks, Spending
from harness.ablation.design.matching import By, refuse_lengths
from harness.ablation.design.tuned import Tuned
from harness.core.config import ConfigError, Index, override
from harness.core.errors import UserError, did_you_mean
from harness.core.registry import load_file
from harness.runs.config import RunConfig

Declared = TypeVar("Declared")
_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study with arms ({configuration path: value} each) or axes, as a study file assigns it to `STUDY`.

    `UserError` for fields that have a wrong value or do not fit together.
    """

    question: str
    baseline: str = ""
    """Arm that the others are compared with. With axes, the default is the combination of the first levels."""
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{scale: settings that all arms start from at this scale}, like the number of samples; an arm may replace them."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """Instead of arms: {path: values} or {name: {level: settings}}. Every combination is an arm, and verdicts are on
    main effects (`crossing`)."""
    fraction: float = 1.0
    """Share of the combinations of axes to run, like 1/2: a regular fraction (`fractions`)."""
    sweep: Mapping[str, Any] = field(default_factory=dict)
    """Axes in addition to arms: each arm is trained at every setting, and compared with the baseline there."""
    skip_invalid: bool = False
    """Whether to leave out invalid combinations, with a note; if false, they are an error."""
    metric: str | None = None
    """Primary metric, the only one with verdicts; None is the first of the scale's `evaluate.metrics`."""
    nfe: Index = 32
    """NFE at which the primary metric is compared."""
    smallest_difference: float = 0.05
    """Relative difference below which two arms count as equally good; a difference proven to be within it is a tie."""
    looks: Sequence[int] = (5, 10, 20, 40)
    """Numbers of training seeds at which the results are examined; arms share seeds, and a decided arm gets no more."""
    spending: Spending = "proportional"
    """How the error level is divided over looks: in proportion to the seeds that each adds, or equally (`looks`)."""
    matched: By | None = None
    """Training budget that all arms share with the baseline: samples, FLOPs or seconds; None: steps (`matching`)."""
    tuned: Tuned | None = None
    """Search that tunes each arm before the first look; None compares the arms as they are."""
    metrics: Sequence[str] = ()
    """Names of metrics to measure in addition to the scale's, in every arm for which they are defined."""
    expected_nfe: Mapping[str, tuple[Index, Index]] = field(default_factory=dict)
    """{arm: smallest and largest number of calls that its source claims for a quality within `readouts.NEAR` of that at
    the largest NFE}"""
    name: str = field(default="", kw_only=True)
    """Name of its tables and runs; for a file in studies/, loading sets it to the name of the file."""

    def __post_init__(self) -> None:
        if self.tuned is not None and not isinstance(self.tuned, Tuned):
            raise ConfigError("tuned", f"expected Tuned(...), got {self.tuned!r}. Write Tuned(spaces={{...}}).")
        require_types(self)
        if self.axes and (self.arms or self.sweep):
            raise UserError("axes: they replace arms and a sweep. Make the arms or the sweep an axis.")
        if len(self.axes) == 1:
            raise UserError("axes: there is only one, with nothing to combine. Name two or more, or use arms instead.")
        if not self.axes and (self.baseline not in self.arms or len(self.arms) < 2):
            raise UserError(
                f"baseline '{self.baseline}': the arms must include it and another one. "
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
            raise UserError(f"expected_nfe: '{min(unknown)}' is not an arm. {did_you_mean(min(unknown), arms)}")
        if wrong := [arm for arm, calls in self.expected_nfe.items() if len(calls) != 2]:
            raise UserError(f"expected_nfe: '{wrong[0]}' needs a pair: the smallest and the largest number of calls.")
        if not 0 < self.smallest_difference < 1:
            raise UserError(f"smallest_difference: {self.smallest_difference} is outside (0, 1). 0.05 means 5 %.")
        looks = Looks.planned(self.looks, self.spending)
        if self.matched:
            refuse_lengths(arms)
        if self.tuned:
            self.tuned.refuse_drawn(arms)
            self.tuned.refuse_reported(looks)
        if self.matched and self.tuned:
            raise UserError("matched: settings tuned for one length do not suit another. Leave out matched or tuned.")

    def as_written(self) -> Study:
        """Return the study without tuning and timing, whose results its plan would need."""
        return replace(self, tuned=None, matched=None if self.matched == "seconds" else self.matched)

    def base_at(self, scale: str, base: RunConfig) -> RunConfig:
        """Return `base` with the settings of `at_scale`; `UserError` if they are wrong or name an unknown scale."""
        for name in self.at_scale:
            if name not in (scales := load_scales()):
                raise UserError(f"{self.name}, at_scale: {no_scale(name, scales)}")
        try:
            return override(base, self.at_scale.get(scale, {}))
        except ConfigError as error:
            raise error.below(f"at_scale['{scale}']") from None

    def crossed(self) -> tuple[Crossing | None, Mapping[str, Settings]]:
        """Return how the arms combine levels (None without axes and sweep), and {arm: settings}."""
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
    """Load the study of a file in studies/, given by its name, or of any file, given by a path that ends in .py.

    A `Study` is returned unchanged; `UserError` if its name is not valid for files and folders.
    """
    if not isinstance(study, Study):
        return load_declared(study, "STUDY", Study)
    if not _NAME.fullmatch(study.name):
        advice = "Write it like Study(name='mine', ...), only with a-z, 0-9 and _."
        raise UserError(f"name: '{study.name}' cannot name the files of a study. {advice}")
    return study


def load_declared(name: str, variable: str, kind: type[Declared]) -> Declared:
    """Load the value that a file assigns to `variable`, and set its `name`; `UserError` if there is none."""
    word = variable.lower()
    path = file_of(name)
    if not name.endswith(".py") and not declared_in(name, variable):
        if declared_in(name, "TABLE"):
            told = f"`harness compare {name}` compares it with our values, and writes its page"
            raise UserError(f"'{name}' is a published table and declares no {word}. {told}.")
        here = [path for path in (f"{name}.py", f"studies/{name}.py") if declared_in(path, variable)]
        advice = f"Give the path of your file: {here[0]}." if here else did_you_mean(name, declaring(variable))
        raise UserError(f"'{name}' is not a known {word}. {advice}")
    declared = getattr(load_file(path, f"harness_study_{path.stem}"), variable, None)
    if not isinstance(declared, kind) or not _NAME.fullmatch(path.stem):
        raise UserError(
            f"{path}: no {word}. Assign a {kind.__name__} to {variable}, in a file named only with a-z, 0-9 and _."
        )
    object.__setattr__(declared, "name", path.stem)
    return declared


def load_scales() -> Mapping[str, RunConfig]:
    """The configurations that studies/scales.py names."""
    return _scales_file().SCALES


def load_scale(name: str) -> RunConfig:
    """Return the configuration with this name in studies/scales.py; `UserError` if there is none."""
    if name not in (scales := load_scales()):
        raise no_scale(name, scales)
    return scales[name]


def about_scale(name: str) -> str:
    """What `ABOUT` in studies/scales.py says of a scale; empty where it says nothing."""
    return getattr(_scales_file(), "ABOUT", {}).get(name, "")


def _scales_file() -> Any:
    return load_file(scales_file(), "harness_scales")
