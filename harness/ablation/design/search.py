"""A search: which settings of a scale give the best samples, drawn by Optuna and given up where they fall behind.

The best is then an arm of an ordinary study beside the scale's own settings, on seeds that the search never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from harness.ablation.design.declared import require_metric, require_types
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.shared import SharedPlan
from harness.ablation.design.space import ends, inverse, path_of, settings
from harness.ablation.design.study import Study, load_declared
from harness.core.config import TRIALS, ConfigError, Index, digest, flatten, override, to_dict
from harness.core.errors import UserError, did_you_mean
from harness.core.files import read_json
from harness.core.registry import find, sources
from harness.data.base import load
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.validate import check, refuse_unreached

BASELINE, WINNER = "default", "tuned"
"""The arms of the comparison that follows a search."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search file assigns to `SEARCH`."""

    question: str
    spaces: Mapping[str, Mapping[str, Any]]
    """{scale: {path: what is drawn for it}}: a scale's length and network decide which ranges are sensible."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Paths and values that every trial has beside what is drawn."""
    metric: str | None = None
    """What is searched for; None is the first of the scale's `evaluate.metrics`."""
    nfe: Index = 32
    """The NFE at which it is measured."""
    samples: int = 5000
    """At most so many judge a trial; the comparison takes the scale's own number."""
    rungs: int = 4
    """A trial is looked at after each such part of its steps."""
    trials: int = 24
    seed: int = 1000
    """The training seed of every trial, and Optuna's; none that is reported."""
    smallest_difference: float = 0.05
    """Relative difference below which the winner is as good as the scale's own settings."""
    looks: Sequence[int] = (5, 10, 20, 40)
    """Reporting seeds, counted from 0, at each look of the comparison."""
    name: str = ""
    """The file's name; filled in on loading."""

    def __post_init__(self) -> None:
        require_types(self)
        for scale, space in self.spaces.items():
            for path, drawn in space.items():
                if not isinstance(drawn, BaseDistribution):
                    reason = f"{drawn!r} is no range. Write even(...), log(...) or one_of(...)."
                    raise ConfigError(f"spaces['{scale}']['{path}']", reason)
        for name in ("samples", "rungs", "trials"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is less than 1. Take one or more.")
        looks = Looks.planned(self.looks, "proportional")
        TRIALS.refuse(self.trials, "trials")
        if self.seed < looks.last:
            raise UserError(
                f"seed: {self.seed} is one of the reporting seeds, 0 to {looks.last - 1}. Take another, like 1000."
            )

    def comparison(self, tuned: Mapping[str, Any]) -> Study:
        """The study that compares these settings with the scale's own."""
        arms: dict[str, Mapping[str, Any]] = {BASELINE: {}, WINNER: {**self.fixed, **tuned}}
        return Study(
            question=self.question, baseline=BASELINE, arms=arms, metric=self.metric, nfe=self.nfe,
            smallest_difference=self.smallest_difference, looks=self.looks, name=self.name,
        )  # fmt: skip


def load_search(name: str) -> Search:
    """The search of a file in studies/, by its name, or of any file that ends in .py, by its path."""
    return load_declared(name, "SEARCH", Search)


@dataclass(frozen=True)
class SearchPlan(SharedPlan):
    """A search at a scale, resolved and checked."""

    FILE = "search.json"

    search: str
    scale: str
    question: str
    base: RunConfig
    """What a trial changes: the scale with the user's changes and what is fixed, judged as trials are."""
    space: dict[str, Any]
    metric: str
    nfe: int
    trials: int
    plugins: tuple[str, ...]

    @classmethod
    def of(cls, search: Search, scale: str, base: RunConfig, trials: int | None, plugins: Sequence[Path]) -> Self:
        """The plan of a search on `base`; `UserError` when they do not go together."""
        if scale not in search.spaces:
            raise UserError(f"--scale: '{search.name}' has no space for {scale}. {did_you_mean(scale, search.spaces)}")
        metric = search.metric or base.evaluate.metrics[0].name
        plan = cls(
            search.name, scale, search.question, _judged(override(base, search.fixed), search, metric),
            dict(search.spaces[scale]), metric, search.nfe, trials or search.trials,
            tuple(str(p.absolute()) for p in plugins),
        )  # fmt: skip
        plan.corners()
        return plan

    @classmethod
    def read(cls, path: Path) -> Self:
        """A plan written by `write`; the plugins it names must have been loaded."""
        plain = read_json(path)
        space = {name: json_to_distribution(text) for name, text in plain["space"].items()}
        return cls(
            **{**plain, "base": RunConfig.parse(plain["base"]), "space": space, "plugins": tuple(plain["plugins"])}
        )

    @property
    def name(self) -> str:
        """`<search>-<scale>-search`: beside it, `<search>-<scale>` is the comparison that follows."""
        return f"{self.search}-{self.scale}-search"

    @property
    def digest(self) -> str:
        """Without the number of trials: more of them continue the same search."""
        plain = self._plain(digested=True)
        del plain["plugins"], plain["trials"], plain["question"]
        return digest({**plain, "data": load(self.base.dataset).fingerprint, "sources": sources(self.base)})

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "seed": self.base.seed,
            "space": {name: str(drawn) for name, drawn in self.space.items()},
        }

    @property
    def protocol(self) -> Protocol:
        """How a trial is judged."""
        return self.base.protocol()

    def config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial."""
        return override(self.base, settings(drawn))

    def own(self) -> dict[str, Any]:
        """The draw that gives the scale's own settings, as far as they lie in the space."""
        return inverse(self.space, flatten(self.base))

    def corners(self) -> dict[str, RunConfig]:
        """{setting: configuration} at both ends of every range; `ConfigError` where there can be none."""
        out = {}
        for name, distribution in self.space.items():
            for value in ends(name, distribution):
                try:
                    out[f"{path_of(name)}={value}"] = override(self.base, {path_of(name): value})
                except ConfigError as error:
                    raise error.below("space") from None
        return out

    def check(self) -> None:
        """Raise what training would trip over at an end of a range."""
        if issubclass(find("metric", self.metric), FlowMetric):
            raise UserError(
                f"metric: {self.metric} is measured after training, and a search looks earlier. Choose another."
            )
        for setting, config in self.corners().items():
            try:
                refuse_unreached([setting.partition("=")[0]], config)
                check(config)
            except UserError as error:
                raise UserError(f"space, {setting}: {error}") from None

    def _plain(self, digested: bool) -> dict[str, Any]:
        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        return {**vars(self), "base": to_dict(self.base, digested), "space": space}


def compared(
    search: Search, scale: str, base: RunConfig, changes: Mapping[str, Any], seeds: int | None, plugins: Sequence[Path],
    tuned: Mapping[str, Any],
) -> Plan:  # fmt: skip
    """The plan of the comparison, on seeds that the search never sees."""
    plan = Plan.of(search.comparison(tuned), scale, base, changes, seeds, plugins)
    if search.seed in plan.seeds:
        raise UserError(f"--seeds: {seeds} takes in seed {search.seed}, on which is searched. Take fewer.")
    return plan


def _judged(base: RunConfig, search: Search, metric: str) -> RunConfig:
    """`base` with the search's seed, looked at on every rung, judged by its metric at its NFE alone."""
    require_metric(metric)
    named: list[Any] = [m for m in base.evaluate.metrics if m.name == metric]
    changes = {
        "seed": search.seed,
        "train.sample_every": max(1, base.train.steps // search.rungs),
        "evaluate.nfe": [search.nfe],
        "evaluate.metrics": named or [metric],
        "evaluate.more_samples": [],
        "evaluate.num_samples": min(search.samples, base.evaluate.num_samples),
    }
    return override(base, changes)
