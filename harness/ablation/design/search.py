"""A search: which settings of a scale give the best samples, drawn by Optuna and given up where they fall behind.

The best is then an arm of an ordinary study beside the scale's own settings, on seeds that the search never saw. A
search against a cost has no best, but a front: the settings of which none are better and cheaper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from optuna.distributions import distribution_to_json, json_to_distribution

from harness.ablation.design.costs import COSTS, Against
from harness.ablation.design.declared import require_metric, require_types
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.shared import SharedPlan
from harness.ablation.design.space import ends, inverse, path_of, require_ranges, settings
from harness.ablation.design.study import Study, load_declared
from harness.ablation.design.tuned import Tuned, drawn_of
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
BEST, KNEE, CHEAPEST = "best", "knee", "cheapest"
"""Its arms beside the baseline where the search has a front: both ends, and `costs.knee` between them."""
SAMPLED = ("solver", "time_grid", "guidance", "average", "checkpoint")
"""What a space may have of `evaluate`: it changes the samples, and all else how they are judged."""


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
    against: Against | None = None
    """What it costs, less being better: one of `costs.COSTS`. A search then has two objectives."""
    pruner: Literal["median", "hyperband"] | None = "median"
    """What gives trials up that fall behind; None trains each to its end, as a search `against` a cost must."""
    rungs: int = 4
    """The pruner looks at a trial after each such part of its steps; Hyperband, which takes a power of two, after one
    part, two, four, ..."""
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
        require_ranges(self.spaces)
        for name in ("samples", "trials"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is less than 1. Take one or more.")
        self._check_pruner()
        looks = Looks.planned(self.looks, "proportional")
        TRIALS.refuse(self.trials, "trials")
        if self.seed < looks.last:
            raise UserError(
                f"seed: {self.seed} is one of the reporting seeds, 0 to {looks.last - 1}. Take another, like 1000."
            )

    def _check_pruner(self) -> None:
        """`UserError` where the pruner has nothing to go by, or nothing to give up."""
        if self.against and self.pruner:
            reason = f"'{self.pruner}' goes by one objective, and against='{self.against}' makes two"
            raise UserError(f"pruner: {reason}. Write pruner=None.")
        if self.pruner and self.rungs < 2:
            reason = f"{self.rungs} is less than 2, and nothing is left to be given up at the end"
            raise UserError(f"rungs: {reason}. Take two or more, or write pruner=None.")
        if self.pruner == "hyperband" and self.rungs.bit_count() != 1:
            reason = f"{self.rungs} is no power of two, and Hyperband halves after 1, 2, 4, ... such parts of the steps"
            raise UserError(f"rungs: {reason}. Take 2, 4, 8 or 16.")
        if not self.pruner and self.rungs != Search.rungs:
            raise UserError("rungs: without a pruner nobody looks at a trial before its end. Leave them out.")

    def comparison(self, winners: Mapping[str, Mapping[str, Any]]) -> Study:
        """The study that compares settings, by the name of their arm, with the scale's own."""
        tuned = {arm: {**self.fixed, **settings} for arm, settings in winners.items()}
        arms: dict[str, Mapping[str, Any]] = {BASELINE: {}, **tuned}
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
    against: Against | None
    pruner: Literal["median", "hyperband"] | None
    rungs: int

    @classmethod
    def of(cls, search: Search, scale: str, base: RunConfig, trials: int | None, plugins: Sequence[Path]) -> Self:
        """The plan of a search on `base`; `UserError` when they do not go together."""
        if scale not in search.spaces:
            raise UserError(f"--scale: '{search.name}' has no space for {scale}. {did_you_mean(scale, search.spaces)}")
        metric = search.metric or base.evaluate.metrics[0].name
        space = dict(search.spaces[scale])
        _refuse_unjudged(space)
        plan = cls(
            search.name, scale, search.question, _judged(override(base, search.fixed), search, metric),
            space, metric, search.nfe, trials or search.trials, tuple(str(p.absolute()) for p in plugins),
            search.against, search.pruner, search.rungs,
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
            "against": self.against,
            "pruner": self.pruner,
            "space": {name: str(drawn) for name, drawn in self.space.items()},
        }

    @property
    def protocol(self) -> Protocol:
        """How a trial is judged, but for what is drawn of `evaluate`."""
        return self.base.protocol()

    @property
    def between_rungs(self) -> int:
        """Steps from one rung to the next; the first comes after as many."""
        return self.base.train.sample_every

    def is_rung(self, step: int) -> bool:
        """Whether the pruner looks at a trial after so many steps, of which Hyperband's double from rung to rung."""
        parts, rest = divmod(step, self.between_rungs)
        return not rest and parts < self.rungs and (self.pruner == "median" or parts.bit_count() == 1)

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
            raise UserError(f"metric: {self.metric} is measured of the flow, a search judges samples. Choose another.")
        if self.against and COSTS[self.against].of_curve and len(self.base.evaluate.nfe) < 2:
            reason = f"{self.against} are read off a curve over NFE, and evaluate.nfe has {self.nfe} alone"
            raise UserError(f"against: {reason}. Set more, like evaluate.nfe=[2,4,8,16,32].")
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
    winners: Mapping[str, Mapping[str, Any]],
) -> Plan:  # fmt: skip
    """The plan of the comparison, on seeds that the search never sees."""
    plan = Plan.of(search.comparison(winners), scale, base, changes, seeds, plugins)
    if search.seed in plan.seeds:
        raise UserError(f"--seeds: {seeds} takes in seed {search.seed}, on which is searched. Take fewer.")
    return plan


def searches(plan: Plan, tuned: Tuned) -> dict[str, SearchPlan]:
    """{arm: the search that it is tuned by} of a plan with the arms as they are before.

    `UserError` where an arm cannot be searched for, as when the space has a path that it lacks.
    """
    out = {}
    if path := drawn_of(plan.changes, map(path_of, tuned.budget(plan.scale)["spaces"][plan.scale])):
        raise ConfigError(
            path, f"every arm of '{plan.study}' is tuned in it, so it would change nothing. Leave it out."
        )
    for arm, config in plan.arms.items():
        try:
            search = Search(
                question=f"{plan.question} Which settings suit {arm}?", metric=plan.metric, nfe=plan.nfe,
                looks=plan.looks.seeds, name=_named(plan, arm), **vars(tuned),
            )  # fmt: skip
            out[arm] = SearchPlan.of(search, plan.scale, config, None, [Path(path) for path in plan.plugins])
            out[arm].check()
        except UserError as error:
            raise UserError(f"arm '{arm}', tuned: {error}") from None
    return out


def _named(plan: Plan, arm: str) -> str:
    """What the search of an arm is called: a part of paths, whatever the arm's name is."""
    word = re.sub(r"[^a-z0-9]+", "_", arm.lower()).strip("_")[:40]
    changes = plan.name.removeprefix(f"{plan.study}-{plan.scale}")
    return "-".join([plan.study + changes, word, *([] if word == arm else [digest({"arm": arm})[:6]])])


def _judged(base: RunConfig, search: Search, metric: str) -> RunConfig:
    """`base` with the search's seed, looked at on every rung, judged by its metric alone, where the search reads it."""
    require_metric(metric)
    named: list[Any] = [m for m in base.evaluate.metrics if m.name == metric]
    curve = base.evaluate.nfe if search.against and COSTS[search.against].of_curve else ()
    changes = {
        "seed": search.seed,
        "evaluate.nfe": sorted({search.nfe, *filter(None, curve)}),
        "evaluate.metrics": named or [metric],
        "evaluate.more_samples": [],
        "evaluate.num_samples": min(search.samples, base.evaluate.num_samples),
    }
    if search.pruner:
        changes["train.sample_every"] = max(1, base.train.steps // search.rungs)
    return override(base, changes)


def _refuse_unjudged(space: Mapping[str, Any]) -> None:
    """`ConfigError` for a path by which trials would be judged in different ways, or train on different seeds."""
    for name in space:
        group, _, below = path_of(name).partition(".")
        if group == "seed" or (group == "evaluate" and below.partition(".")[0] not in SAMPLED):
            reason = "values of trials that differ in it cannot be compared"
            raise ConfigError(f"space.{path_of(name)}", f"{reason}. Leave it out.")
