"""Plan of a study at a scale: the full configuration of every arm, the looks, and the trials up to one look."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.ablation.design.configured import configured, nfe_of, points, refuse_replaced, varied
from harness.ablation.design.crossing import Contrast, Crossing
from harness.ablation.design.declared import require_metric
from harness.ablation.design.looks import Looks
from harness.ablation.design.matching import By, Matching, matched
from harness.ablation.design.shared import SharedPlan, plugins_in
from harness.ablation.design.study import Study
from harness.ablation.design.tuned import Tuned, Tuning, tuned_arms
from harness.core.config import SEEDS, digest, override, to_dict
from harness.core.errors import UserError
from harness.core.files import read_json, runs_folder
from harness.core.registry import sources
from harness.data.base import load
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import on_device, training_digest
from harness.runs.validate import refuse_idle
from harness.training.config import TrainConfig


@dataclass(frozen=True)
class Plan(SharedPlan):
    """Everything that a study will run, resolved and checked."""

    FILE = "plan.json"

    study: str
    scale: str
    question: str
    baseline: str
    arms: dict[str, RunConfig]
    """{arm: configuration}; the seed in it is a placeholder."""
    looks: Looks
    seeds: tuple[int, ...]
    """Seeds that are planned so far."""
    metric: str
    nfe: int
    smallest_difference: float
    plugins: tuple[str, ...]
    expected_nfe: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """{arm: smallest and largest number of calls that its source claims}"""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Changes by the user in every arm, {path: value as text}; they give the study another name."""
    closed: Mapping[str, int] = field(default_factory=dict)
    """{arm: number of seeds at which it was decided}; it gets no more seeds."""
    matching: Matching | None = None
    """How training budgets are matched; None if each arm has the steps of its settings."""
    tuning: Tuning | None = None
    """Searches that tuned the arms; None for arms without tuning."""
    crossing: Crossing | None = None
    """How the arms combine the levels of axes; None for a study without axes and sweep."""

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
        """Return the plan of a study on `base` with the user's `changes`; `UserError` if they do not fit together.

        `seeds` is the number of seeds per arm, by default as many as at the first look.
        """
        crossing, settings = study.crossed()
        skipped = crossing.skippable if crossing and study.skip_invalid else ()
        refuse_replaced(study.name, settings, changes)
        looks = Looks.planned(study.looks, study.spending)
        count = looks.seeds[0] if seeds is None else seeds
        if count < 1:
            raise UserError(f"--seeds: {count} is less than 1. Verdicts need three or more.")
        SEEDS.refuse(count, "--seeds")
        scaled = study.base_at(scale, base)
        base = override(scaled, changes)
        told = {**study.at_scale.get(scale, {}), **changes}
        arms, left_out = configured(base, told, settings, study.metrics, skipped)
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
        """Read a plan that `write` wrote; its plugins must be loaded already."""
        plain = read_json(path)
        arms = {name: RunConfig.parse(config) for name, config in plain["arms"].items()}
        looks = Looks(tuple(plain["looks"]["seeds"]), plain["looks"]["spending"])
        lists = {"seeds": tuple(plain["seeds"]), "plugins": tuple(plugins_in(path))}
        parts = {
            "matching": plain["matching"] and Matching(**plain["matching"]),
            "tuning": plain["tuning"] and Tuning(**plain["tuning"]),
            "crossing": plain["crossing"] and Crossing.read(plain["crossing"]),
        }
        return cls(**{**plain, **lists, **parts, "arms": arms, "looks": looks})

    @property
    def name(self) -> str:
        """`<study>-<scale>`, followed by 6 hex digits over the user's changes, if there are any."""
        return "-".join([self.study, self.scale, *([digest(dict(self.changes))[:6]] if self.changes else [])])

    @property
    def digest(self) -> str:
        """Digest of the design: the arms with their data and plugins, the looks, the metric and the decision rule.

        It does not cover the seeds so far, so a study can be continued. A changed design finds its finished runs on
        disk.
        """
        plain = self._plain(digested=True)
        for name in ("plugins", "seeds", "closed", "changes", "matching", "tuning"):
            plain.pop(name, None)  # the arms contain the results of the last two
        plain |= {"budget": self.tuning.budget} if self.tuning else {}
        data = {name: load(config.dataset).fingerprint for name, config in self.arms.items()}
        return digest({**plain, "data": data, "sources": {name: sources(config) for name, config in self.arms.items()}})

    @property
    def facts(self) -> dict[str, Any]:
        return {"question": self.question, "baseline": self.baseline, "looks": list(self.looks.seeds)}

    @property
    def trains(self) -> TrainConfig:
        return self.arms[self.baseline].train

    def on(self, device: str) -> Self:
        arms = {name: on_device(config, device) for name, config in self.arms.items()}
        return dataclasses.replace(self, arms=arms)

    def threaded(self, threads: int) -> Plan:
        """Return the plan with this number of threads in every arm; the last digits of results depend on it."""
        arms = {name: override(config, {"train.threads": threads}) for name, config in self.arms.items()}
        return dataclasses.replace(self, arms=arms)

    def matched(self, by: By) -> Self:
        """Return the plan with every arm's steps matched to the baseline's training budget."""
        arms, matching = matched(self.arms, self.baseline, by, self.name)
        return dataclasses.replace(self, arms=arms, matching=matching)

    def tuned(self, tuned: Tuned) -> Self:
        """Return the plan with every arm at the best settings of its search."""
        if tuned.seed in self.seeds:
            raise UserError(f"--seeds: {len(self.seeds)} includes seed {tuned.seed}, which tuning uses. Take fewer.")
        arms, tuning = tuned_arms(self.arms, tuned, self.scale, self.name)
        return dataclasses.replace(self, arms=arms, tuning=tuning)

    @property
    def contrasts(self) -> dict[str, Contrast]:
        """{name: contrast that gets a verdict}; a contrast of an arm with the baseline has the arm's name."""
        if self.crossing:
            return self.crossing.contrasts()
        others = [arm for arm in self.arms if arm != self.baseline]
        return {arm: Contrast((arm,), (self.baseline,), self.baseline, arm) for arm in others}

    @property
    def bases(self) -> dict[str, str]:
        """{arm: arm that its values are compared with}, without the baselines themselves."""
        if self.crossing and self.crossing.swept:
            return {arm: contrast.base for arm, contrast in self.contrasts.items()}
        return {arm: self.baseline for arm in self.arms if arm != self.baseline}

    @property
    def tested(self) -> list[str]:
        """Contrasts measured by the primary metric at the primary NFE; the error level is divided among them."""
        return [name for name, contrast in self.contrasts.items() if all(map(self.asks, contrast.arms))]

    @property
    def sharers(self) -> dict[str, tuple[int, int]]:
        """{contrast: (for it by itself, for its family together)}: the number of parts of the error level.

        Contrasts that the primary metric does not measure at the primary NFE do not count.
        """
        families = {name: of.family for name, of in self.contrasts.items()}
        asked = Counter(families[name] for name in self.tested)
        return {name: (max(1, len(asked) * asked[own]), max(1, len(asked))) for name, own in families.items()}

    @property
    def kind(self) -> str:
        """A word for a contrast: "effect" or "arm"."""
        return "effect" if self.crossing and not self.crossing.swept else "arm"

    @property
    def against(self) -> str:
        """Baseline of the contrasts, in words."""
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
        """Whether the primary metric measures this arm at the primary NFE."""
        return self.nfe in points(self.arms[arm]).get(self.metric, ())

    def up_to(self, seeds: int) -> Self:
        """Return the plan with seeds 0 to `seeds` - 1 and every arm open."""
        return self.so_far(range(seeds), {})

    def so_far(self, seeds: Iterable[int], closed: Mapping[str, int]) -> Self:
        """Return the plan with these seeds and these closed arms. It shares the runs, whose names stay the same."""
        own = dataclasses.replace(self, seeds=tuple(seeds), closed=closed)
        shared = ("_trainings", "_protocols", "_runs")
        vars(own).update({name: getattr(self, name) for name in shared})
        return own

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Return the seeds of an arm so far."""
        return self.seeds[: self.closed.get(arm)]

    def trials(self) -> list[tuple[str, int]]:
        """Return (arm, seed) of all trials so far, in the order in which they run.

        The arms of one seed are adjacent, so that an unfinished study is paired too. If all arms share one training, or
        one arm learns from another's pairs, the seeds of one arm are adjacent: no worker then waits for another's
        training.
        """
        if self.one_training or any(config.parent for config in self.arms.values()):
            return [(arm, seed) for arm in self.arms for seed in self.seeds_of(arm)]
        own = {arm: {*self.seeds_of(arm)} for arm in self.arms}
        return [(arm, seed) for seed in self.seeds for arm in self.arms if seed in own[arm]]

    def numbered(self) -> dict[int, tuple[str, int]]:
        """Return {number: (arm, seed)} of all trials so far, as an engine knows them: more seeds change no number."""
        arms = list(self.arms)
        own = {arm: {*self.seeds_of(arm)} for arm in arms}
        return {s * len(arms) + i: (arm, s) for s in self.seeds for i, arm in enumerate(arms) if s in own[arm]}

    @property
    def one_training(self) -> bool:
        """Whether the arms differ only in how they are judged."""
        return len({*self._trainings.values()}) == 1

    @functools.cached_property
    def _trainings(self) -> dict[str, str]:
        """{arm: digest of its trainings, which have the same name but for the seed}"""
        return {arm: training_digest(config) for arm, config in self.arms.items()}

    @functools.cached_property
    def _protocols(self) -> dict[str, Protocol]:
        """{arm: its protocol} of the arms that were asked for."""
        return {}

    @functools.cached_property
    def _runs(self) -> dict[tuple[Path, str, int], Run]:
        """{(folder of the runs, arm, seed): run} of the trials so far: a report of many seeds asks again and again."""
        return {}

    def config(self, arm: str, seed: int) -> RunConfig:
        """Return the configuration of a trial."""
        return self.arms[arm].seeded(seed)

    def run(self, arm: str, seed: int) -> Run:
        """Return the run directory of a trial."""
        place = (runs_folder(), arm, seed)
        if place not in self._runs:
            self._runs[place] = Run.of(self.config(arm, seed), self._trainings[arm])
        return self._runs[place]

    def protocol(self, arm: str) -> Protocol:
        """Return the evaluation protocol of an arm."""
        if arm not in self._protocols:
            self._protocols[arm] = self.arms[arm].protocol()
        return self._protocols[arm]

    def unfinished(self) -> list[tuple[str, int]]:
        """Return (arm, seed) of the trials that have not ended."""
        return [(arm, seed) for arm, seed in self.trials() if not self.run(arm, seed).ended(self.protocol(arm))]

    def _plain(self, digested: bool) -> dict[str, Any]:
        arms = {name: to_dict(config, digested) for name, config in self.arms.items()}
        parts = ("looks", "matching", "tuning", "crossing")
        found = {name: vars(own) if (own := getattr(self, name)) else None for name in parts}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**own, "arms": arms, **found}
