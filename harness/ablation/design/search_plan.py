"""Plan of a search at a scale, plan of the comparison that follows it, and the searches that tune arms."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from optuna.distributions import distribution_to_json, json_to_distribution

from harness.ablation.design.costs import COSTS, Against
from harness.ablation.design.declared import require_metric
from harness.ablation.design.plan import Plan
from harness.ablation.design.search import Search
from harness.ablation.design.shared import SharedPlan, plugins_in
from harness.ablation.design.space import combinations, ends, inverse, paths_of, settings
from harness.ablation.design.tuned import Tuned, drawn_of
from harness.core.config import ConfigError, digest, flatten, override, to_dict
from harness.core.errors import UserError, did_you_mean
from harness.core.files import read_json
from harness.core.registry import find, sources
from harness.data.base import load
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.identity import on_device
from harness.runs.validate import check, refuse_unreached
from harness.training.config import TrainConfig

SAMPLED = ("solver", "time_grid", "guidance", "average", "checkpoint")
"""Settings of `evaluate` that a space may contain: they change the samples; all others change how these are judged."""


@dataclass(frozen=True)
class SearchPlan(SharedPlan):
    """A search at a scale, resolved and checked."""

    FILE = "search.json"

    search: str
    scale: str
    question: str
    base: RunConfig
    """Configuration that trials change: the scale with the user's changes and the fixed values, judged like trials."""
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
        """Return the plan of a search on `base`; `UserError` if they do not fit together."""
        if scale not in search.spaces:
            raise UserError(f"--scale: '{search.name}' has no space for {scale}. {did_you_mean(scale, search.spaces)}")
        metric = search.metric or base.evaluate.metrics[0].name
        space = dict(search.spaces[scale])
        _refuse_unjudged(space, search.pruner)
        plan = cls(
            search.name, scale, search.question, _judged(override(base, search.fixed), search, metric),
            space, metric, search.nfe, trials or search.trials, tuple(str(p.absolute()) for p in plugins),
            search.against, search.pruner, search.rungs,
        )  # fmt: skip
        plan.corners()
        return plan

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan that `write` wrote; its plugins must be loaded already."""
        plain = read_json(path)
        space = {name: json_to_distribution(text) for name, text in plain["space"].items()}
        return cls(
            **{**plain, "base": RunConfig.parse(plain["base"]), "space": space, "plugins": tuple(plugins_in(path))}
        )

    @property
    def name(self) -> str:
        """`<search>-<scale>-search`; the comparison that follows is called `<search>-<scale>`."""
        return f"{self.search}-{self.scale}-search"

    @property
    def digest(self) -> str:
        """Digest of the search without the number of trials: more trials continue the same search."""
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
    def trains(self) -> TrainConfig:
        return self.base.train

    def on(self, device: str) -> Self:
        return dataclasses.replace(self, base=on_device(self.base, device))

    @property
    def protocol(self) -> Protocol:
        """Evaluation protocol of a trial, except for drawn settings of `evaluate`."""
        return self.base.protocol()

    @property
    def between_rungs(self) -> int:
        """Steps between rungs, and before the first one; Hyperband uses only rungs 1, 2, 4, ..."""
        return self.base.train.sample_every

    def is_rung(self, step: int) -> bool:
        """Whether the pruner looks at a trial after this number of steps."""
        parts, rest = divmod(step, self.between_rungs)
        return not rest and parts < self.rungs and (self.pruner == "median" or parts.bit_count() == 1)

    def config(self, drawn: Mapping[str, Any]) -> RunConfig:
        """Return the configuration of a trial."""
        return override(self.base, settings(drawn))

    def own(self) -> dict[str, Any]:
        """Return the draw that gives the scale's own settings, as far as they are in the space."""
        return inverse(self.space, flatten(self.base))

    def first(self) -> list[dict[str, Any]]:
        """Return the first draws: the scale's own settings, then all of a space with at most `trials` combinations."""
        own = self.own()
        everything = combinations(self.space, self.trials)
        return sorted(everything, key=lambda draw: draw != own) if everything else [own]

    def corners(self) -> dict[str, RunConfig]:
        """Return {settings: configuration} at both ends of every range; `ConfigError` if one is invalid."""
        return {_told(end): config for end, config in self._ends()}

    def _ends(self) -> list[tuple[dict[str, Any], RunConfig]]:
        out = []
        for name, distribution in self.space.items():
            for end in ends(name, distribution):
                try:
                    out.append((end, override(self.base, end)))
                except ConfigError as error:
                    raise error.below("space") from None
        return out

    def check(self) -> None:
        """Raise `UserError` if the metric, the cost or an end of a range cannot work."""
        if issubclass(find("metric", self.metric), FlowMetric):
            raise UserError(f"metric: {self.metric} measures the flow, but a search judges samples. Choose another.")
        if self.against and COSTS[self.against].of_curve and len(self.base.evaluate.nfe) < 2:
            reason = f"{self.against} are read from a curve over NFE, but evaluate.nfe has only {self.nfe}"
            raise UserError(f"against: {reason}. Set more, like evaluate.nfe=[2,4,8,16,32].")
        for end, config in self._ends():
            try:
                refuse_unreached(end, config)
                check(config)
            except UserError as error:
                raise UserError(f"space, {_told(end)}: {error}") from None

    def _plain(self, digested: bool) -> dict[str, Any]:
        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        return {**vars(self), "base": to_dict(self.base, digested), "space": space}


def compared(
    search: Search, scale: str, base: RunConfig, changes: Mapping[str, Any], seeds: int | None, plugins: Sequence[Path],
    winners: Mapping[str, Mapping[str, Any]],
) -> Plan:  # fmt: skip
    """Return the plan of the comparison that follows a search; `UserError` if its seeds include the search's seed."""
    plan = Plan.of(search.comparison(winners), scale, base, changes, seeds, plugins)
    if search.seed in plan.seeds:
        raise UserError(f"--seeds: {seeds} includes seed {search.seed}, which the search uses. Take fewer.")
    return plan


def searches(plan: Plan, tuned: Tuned) -> dict[str, SearchPlan]:
    """Return {arm: the search that tunes it} for a plan whose arms are not tuned yet.

    `UserError` if an arm cannot be tuned, for example if it lacks a path of the space.
    """
    out = {}
    drawn = [path for name in tuned.budget(plan.scale)["spaces"][plan.scale] for path in paths_of(name)]
    if path := drawn_of(plan.changes, drawn):
        raise ConfigError(
            path, f"tuning sets it in every arm of '{plan.study}', so the change has no effect. Leave it out."
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
    """Return the name of an arm's search, which is safe as a part of a path."""
    word = re.sub(r"[^a-z0-9]+", "_", arm.lower()).strip("_")[:40]
    changes = plan.name.removeprefix(f"{plan.study}-{plan.scale}")
    return "-".join([plan.study + changes, word, *([] if word == arm else [digest({"arm": arm})[:6]])])


def _judged(base: RunConfig, search: Search, metric: str) -> RunConfig:
    """Return `base` with the search's seed and rungs; only the search's metric judges it, at the NFEs of the search."""
    require_metric(metric)
    named: list[Any] = [m for m in base.evaluate.metrics if m.name == metric]
    curve = base.evaluate.nfe if search.against and COSTS[search.against].of_curve else ()
    changes = {
        "seed": search.seed,
        "evaluate.nfe": sorted({search.nfe, *filter(None, curve)}),
        "evaluate.metrics": named or [metric],
        "evaluate.more_samples": [],
        "evaluate.num_samples": min(search.samples, base.evaluate.samples_at(search.nfe)),
    }
    if search.pruner:
        changes["train.sample_every"] = max(1, base.train.steps // search.rungs)
    return override(base, changes)


def _told(end: Mapping[str, Any]) -> str:
    """Return settings as text, in the form of `--set`."""
    return ", ".join(f"{path}={value}" for path, value in end.items())


def _refuse_unjudged(space: Mapping[str, Any], pruner: str | None) -> None:
    """Raise `ConfigError` for a path that would change the evaluation, the seed or a pruned length of trials."""
    for path in (path for name in space for path in paths_of(name)):
        group, _, below = path.partition(".")
        if group == "seed" or (group == "evaluate" and below.partition(".")[0] not in SAMPLED):
            reason = "values of trials that differ in it are not comparable"
            raise ConfigError(f"space.{path}", f"{reason}. Leave it out.")
        if path == "train.steps" and pruner:
            reason = "the pruner compares trials at equal numbers of steps, so trials of different length do not fit"
            raise ConfigError("space.train.steps", f"{reason}. Leave it out, or give a search pruner=None.")
