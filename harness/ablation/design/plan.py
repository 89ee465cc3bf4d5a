"""A study at a scale: every arm as a full configuration, the looks, and the trials up to one of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.ablation.design.declared import require_metric
from harness.ablation.design.looks import Looks
from harness.ablation.design.matching import By, Matching, matched
from harness.ablation.design.shared import SharedPlan
from harness.ablation.design.study import Study
from harness.ablation.design.tuned import Tuned, Tuning, tuned_arms
from harness.core.config import SEEDS, ConfigError, digest, override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json
from harness.core.registry import build, sources
from harness.data.base import load
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.validate import refuse_guided_twice, refuse_idle, refuse_unreached


@dataclass(frozen=True)
class Plan(SharedPlan):
    """What a study will run, resolved and checked."""

    FILE = "plan.json"

    study: str
    scale: str
    question: str
    baseline: str
    arms: dict[str, RunConfig]
    """{arm: configuration}; the seed in it is a placeholder."""
    looks: Looks
    seeds: tuple[int, ...]
    """Those that are asked for so far."""
    metric: str
    nfe: int
    smallest_difference: float
    plugins: tuple[str, ...]
    expected_nfe: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """{arm: the least and the most calls that it is said to need}"""
    changes: Mapping[str, str] = field(default_factory=dict)
    """What the user changed in every arm, as text: a study with changes has a name of its own."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """{arm: the seeds at which it was decided}: it gets no more."""
    matching: Matching | None = None
    """What all arms train for as much of; None where each has the steps that its settings say."""
    tuning: Tuning | None = None
    """The searches that the arms were tuned by; None where they are compared as they are."""

    @classmethod
    def of(
        cls,
        study: Study,
        scale: str,
        base: RunConfig,
        changes: Mapping[str, Any],
        seeds: int | None,
        plugins: Sequence[Path],
    ) -> Self:
        """The plan of a study on `base` with the user's `changes`; `UserError` when they do not go together.

        Without a number of `seeds` it goes up to the first look.
        """
        _refuse_replaced(study, changes)
        looks = Looks.planned(study.looks, study.spending)
        count = looks.seeds[0] if seeds is None else seeds
        if count < 1:
            raise UserError(f"--seeds: {count} is less than 1. Verdicts need three or more.")
        SEEDS.refuse(count, "--seeds")
        scaled = base
        base = override(base, changes)
        arms = {}
        for name, arm in study.arms.items():
            try:
                arms[name] = measured(override(base, arm), study.metrics)
                refuse_guided_twice({**changes, **arm}, arms[name])
                refuse_unreached({**changes, **arm}, arms[name])
            except ConfigError as error:
                raise error.below(f"arm '{name}'") from None
        refuse_idle(changes, arms.values())
        metric = study.metric or arms[study.baseline].evaluate.metrics[0].name
        require_metric(metric)
        nfe = nfe_of(metric, arms[study.baseline], study.nfe)
        plan = cls(
            study.name, scale, study.question, study.baseline, arms, looks, tuple(range(count)),
            metric, nfe, study.smallest_difference, tuple(str(p.absolute()) for p in plugins), study.expected_nfe,
            _varied(scaled, changes),
        )  # fmt: skip
        plan = plan.tuned(study.tuned) if study.tuned else plan
        return plan.matched(study.matched) if study.matched else plan

    @classmethod
    def read(cls, path: Path) -> Self:
        """A plan written by `write`; the plugins it names must have been loaded."""
        plain = read_json(path)
        arms = {name: RunConfig.parse(config) for name, config in plain["arms"].items()}
        looks = Looks(tuple(plain["looks"]["seeds"]), plain["looks"]["spending"])
        lists = {name: tuple(plain[name]) for name in ("seeds", "plugins")}
        matching = plain["matching"] and Matching(**plain["matching"])
        tuning = plain["tuning"] and Tuning(**plain["tuning"])
        return cls(**{**plain, **lists, "arms": arms, "looks": looks, "matching": matching, "tuning": tuning})

    @property
    def name(self) -> str:
        """`<study>-<scale>`, and 6 hex digits over the user's changes where there are some."""
        return "-".join([self.study, self.scale, *([digest(dict(self.changes))[:6]] if self.changes else [])])

    @property
    def digest(self) -> str:
        """Of the design: the arms with their data and plugins, the looks, what is compared and what would settle it.

        The seeds so far are no part of it: a design is continued. A changed one finds its finished runs on disk.
        """
        plain = self._plain(digested=True)
        for name in ("plugins", "seeds", "closed", "changes", "matching", "tuning"):
            plain.pop(name, None)  # what follows from the last two is in the arms
        plain |= {"budget": self.tuning.budget} if self.tuning else {}
        data = {name: load(config.dataset).fingerprint for name, config in self.arms.items()}
        return digest({**plain, "data": data, "sources": {name: sources(config) for name, config in self.arms.items()}})

    @property
    def facts(self) -> dict[str, Any]:
        return {"question": self.question, "baseline": self.baseline, "looks": list(self.looks.seeds)}

    def threaded(self, threads: int) -> Plan:
        """The same with every arm on so many threads, which its results' last digits depend on."""
        arms = {name: override(config, {"train.threads": threads}) for name, config in self.arms.items()}
        return dataclasses.replace(self, arms=arms)

    def matched(self, by: By) -> Self:
        """The same with every arm's steps such that it trains for as much as the baseline."""
        arms, matching = matched(self.arms, self.baseline, by, self.name)
        return dataclasses.replace(self, arms=arms, matching=matching)

    def tuned(self, tuned: Tuned) -> Self:
        """The same with every arm at the best settings of its search."""
        if tuned.seed in self.seeds:
            raise UserError(f"--seeds: {len(self.seeds)} takes in seed {tuned.seed}, on which is searched. Take fewer.")
        arms, tuning = tuned_arms(self.arms, tuned, self.scale, self.name)
        return dataclasses.replace(self, arms=arms, tuning=tuning)

    @property
    def others(self) -> list[str]:
        """The arms beside the baseline."""
        return [arm for arm in self.arms if arm != self.baseline]

    @property
    def tested(self) -> list[str]:
        """The arms that are measured where the verdicts are: the chance of an error is divided among them."""
        return [arm for arm in self.others if self.asks(arm)]

    def asks(self, arm: str) -> bool:
        """Whether an arm is measured by the primary metric at the primary NFE."""
        return self.nfe in points(self.arms[arm]).get(self.metric, ())

    def up_to(self, seeds: int) -> Plan:
        """The same with so many seeds, counted from 0, and every arm open."""
        return dataclasses.replace(self, seeds=tuple(range(seeds)), closed={})

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm so far."""
        return self.seeds[: self.closed.get(arm)]

    def trials(self) -> list[tuple[str, int]]:
        """(arm, seed) of all trials so far.

        A seed's arms stand together, so that an unfinished study is paired too. Where they share one training, or one
        arm's flow learns another's pairs, an arm's seeds do: nobody waits then for what another worker trains.
        """
        if self.one_training or any(config.parent for config in self.arms.values()):
            return [(arm, seed) for arm in self.arms for seed in self.seeds_of(arm)]
        return [(arm, seed) for seed in self.seeds for arm in self.arms if seed in self.seeds_of(arm)]

    @property
    def one_training(self) -> bool:
        """Whether the arms differ in how they are judged alone."""
        return len({training_digest(config) for config in self.arms.values()}) == 1

    def config(self, arm: str, seed: int) -> RunConfig:
        """The configuration of a trial."""
        return dataclasses.replace(self.arms[arm], seed=seed)

    def run(self, arm: str, seed: int) -> Run:
        """The run directory of a trial."""
        return Run.of(self.config(arm, seed))

    def protocol(self, arm: str) -> Protocol:
        """How an arm is judged."""
        return self.arms[arm].protocol()

    def unfinished(self) -> list[tuple[str, int]]:
        """(arm, seed) of the trials of which more will come."""
        return [(arm, seed) for arm, seed in self.trials() if not self.run(arm, seed).ended(self.protocol(arm))]

    def _plain(self, digested: bool) -> dict[str, Any]:
        arms = {name: to_dict(config, digested) for name, config in self.arms.items()}
        found = {name: vars(own) if (own := getattr(self, name)) else None for name in ("matching", "tuning")}
        return {**vars(self), "arms": arms, "looks": vars(self.looks), **found}


def same_training(runs: Sequence[Run]) -> RunConfig:
    """That of runs which differ in their seeds alone; `UserError` for others, and for those that lie elsewhere."""
    for run in runs:
        if training_digest(run.config) != training_digest(runs[0].config):
            raise UserError(
                f"{run.name} is another training than {runs[0].name}. Take runs that differ in their seeds alone."
            )
        run.require_home()
    return runs[0].config


def measured(config: RunConfig, metrics: Sequence[str]) -> RunConfig:
    """The configuration with more metrics: those that it has not yet and that mean something for it.

    Metrics of a flow mean nothing once it is distilled.
    """
    known = {metric.name for metric in config.evaluate.metrics}
    for metric in [build("metric", name) for name in metrics if name not in known]:
        with contextlib.suppress(ConfigError):
            config = override(config, {"evaluate.metrics": [*config.evaluate.metrics, metric]})
    return config


def points(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """{metric: the NFEs at which a configuration measures it}"""
    wanted = config.evaluate
    at = {metric.name: (metric.nfe,) for metric in wanted.flow_metrics}
    return {metric.name: at.get(metric.name, wanted.nfe) for metric in wanted.metrics}


def nfe_of(metric: str, config: RunConfig, otherwise: int) -> int:
    """Where the values of a metric stand that does not depend on `evaluate.nfe`; `otherwise` for the rest."""
    return next((m.nfe for m in config.evaluate.flow_metrics if m.name == metric), otherwise)


def _varied(base: RunConfig, changes: Mapping[str, Any]) -> dict[str, str]:
    """The changes that values depend on, as text. The number of threads is chosen for a machine, not for a question."""
    out = {}
    for path, value in changes.items():
        with contextlib.suppress(ConfigError):  # of one that needs another
            if to_dict(override(base, {path: value}), digested=True) == to_dict(base, digested=True):
                continue
        if path != "train.threads":
            out[path] = str(value)
    return out


def _refuse_replaced(study: Study, changes: Mapping[str, Any]) -> None:
    for path in changes:
        if path == "seed":
            raise ConfigError("seed", "a study sets its seeds itself. Use --seeds N.")
        if all(any(path == own or path.startswith(own + ".") for own in arm) for arm in study.arms.values()):
            raise ConfigError(
                path, f"every arm of '{study.name}' replaces it, so it would change nothing. Leave it out."
            )
