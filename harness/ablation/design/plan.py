"""A study at a scale: every arm as a full configuration, the looks, and the trials up to one of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.ablation.design.configured import configured, nfe_of, points, refuse_replaced, varied
from harness.ablation.design.crossing import Contrast, Crossing
from harness.ablation.design.declared import require_metric
from harness.ablation.design.looks import Looks
from harness.ablation.design.matching import By, Matching, matched
from harness.ablation.design.shared import SharedPlan
from harness.ablation.design.study import Study
from harness.ablation.design.tuned import Tuned, Tuning, tuned_arms
from harness.core.config import SEEDS, digest, override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json
from harness.core.registry import sources
from harness.data.base import load
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.validate import refuse_idle


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
    crossing: Crossing | None = None
    """How the arms combine the levels of axes; None where each stands for itself."""

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
        crossing, settings = study.crossed()
        skipped = crossing.skippable if crossing and study.skip_invalid else ()
        refuse_replaced(study.name, settings, changes)
        looks = Looks.planned(study.looks, study.spending)
        count = looks.seeds[0] if seeds is None else seeds
        if count < 1:
            raise UserError(f"--seeds: {count} is less than 1. Verdicts need three or more.")
        SEEDS.refuse(count, "--seeds")
        scaled = base
        base = override(base, changes)
        arms, left_out = configured(base, changes, settings, study.metrics, skipped)
        crossing = crossing.without(left_out) if crossing else None
        baseline = crossing.baseline if crossing else study.baseline
        refuse_idle(changes, arms.values())
        metric = study.metric or arms[baseline].evaluate.metrics[0].name
        require_metric(metric)
        nfe = nfe_of(metric, arms[baseline], study.nfe)
        plan = cls(
            study.name, scale, study.question, baseline, arms, looks, tuple(range(count)),
            metric, nfe, study.smallest_difference, tuple(str(p.absolute()) for p in plugins), study.expected_nfe,
            varied(scaled, changes), crossing=crossing,
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
        parts = {
            "matching": plain["matching"] and Matching(**plain["matching"]),
            "tuning": plain["tuning"] and Tuning(**plain["tuning"]),
            "crossing": plain["crossing"] and Crossing.read(plain["crossing"]),
        }
        return cls(**{**plain, **lists, **parts, "arms": arms, "looks": looks})

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
    def contrasts(self) -> dict[str, Contrast]:
        """{name: a comparison that a verdict is on}; an arm's against the baseline has its name."""
        if self.crossing:
            return self.crossing.contrasts()
        others = [arm for arm in self.arms if arm != self.baseline]
        return {arm: Contrast((arm,), (self.baseline,), self.baseline, arm) for arm in others}

    @property
    def bases(self) -> dict[str, str]:
        """{arm: what its values are set beside}, without the arms that others are set beside."""
        if self.crossing and self.crossing.swept:
            return {arm: contrast.base for arm, contrast in self.contrasts.items()}
        return {arm: self.baseline for arm in self.arms if arm != self.baseline}

    @property
    def tested(self) -> list[str]:
        """The contrasts that are measured where the verdicts are: the chance of an error is divided among them."""
        return [name for name, contrast in self.contrasts.items() if all(map(self.asks, contrast.arms))]

    @property
    def sharers(self) -> dict[str, tuple[int, int]]:
        """{contrast: among how many the chance of an error is divided}: where it is judged alone, and with its family.

        What is not measured where the verdicts are takes no part.
        """
        families = {name: of.family for name, of in self.contrasts.items()}
        asked = Counter(families[name] for name in self.tested)
        return {name: (max(1, len(asked) * asked[own]), max(1, len(asked))) for name, own in families.items()}

    @property
    def kind(self) -> str:
        """What a contrast is, in a word."""
        return "effect" if self.crossing and not self.crossing.swept else "arm"

    @property
    def against(self) -> str:
        """What contrasts are against, in words."""
        if self.crossing is None:
            return self.baseline
        if self.crossing.swept:
            return f"{next(iter(self.crossing.levels.values()))[0]} at the same setting"
        return f"the first level of each axis ({self.baseline}), averaged over the other axes"

    @property
    def is_decided(self) -> bool:
        """Whether every arm is closed."""
        return self.closed.keys() == self.arms.keys()

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
        parts = ("looks", "matching", "tuning", "crossing")
        found = {name: vars(own) if (own := getattr(self, name)) else None for name in parts}
        return {**vars(self), "arms": arms, **found}


def same_training(runs: Sequence[Run]) -> RunConfig:
    """That of runs which differ in their seeds alone; `UserError` for others, and for those that lie elsewhere."""
    for run in runs:
        if training_digest(run.config) != training_digest(runs[0].config):
            raise UserError(
                f"{run.name} is another training than {runs[0].name}. Take runs that differ in their seeds alone."
            )
        run.require_home()
    return runs[0].config
