"""The trials of a plan, by number: which have not ended, and which runs to follow. The run directories decide."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any

from harness.ablation.design.arm_settings import differing
from harness.ablation.design.plan import Plan
from harness.ablation.design.shared import SharedPlan
from harness.ablation.execute.node import placed
from harness.core.checkpoint import checkpoints, step_of
from harness.core.config import flatten
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.mlflow_pages import Columns
from harness.runs.pairs import PairSet
from harness.runs.progress import Followed


class Trials(ABC):
    """What a launcher carries out: a plan's trials, by number."""

    plan: SharedPlan

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of trials of the plan."""

    @property
    def numbers(self) -> Collection[int]:
        """The numbers of the trials."""
        return range(self.total)

    @abstractmethod
    def unended(self, among: Collection[int]) -> set[int]:
        """Return the numbers of the trials that have not ended."""

    @abstractmethod
    def label(self, number: int) -> str:
        """Return the name of a trial in output."""

    def begin(self) -> None:  # noqa: B027  # most trials need nothing
        """Prepare the store of the trials; the command that carries them out calls it once, alone."""

    def ready(self, among: Collection[int], unended: Collection[int]) -> set[int]:
        """Return the numbers of the trials `among` that need nothing which another of the unended trials makes."""
        return {*among}

    def progress(self, number: int) -> int:
        """Return what a trial has saved, as a number that grows, so that a lost trial that gets on is told apart."""
        return 0

    @abstractmethod
    def followed(self, known: Container[str]) -> list[Followed]:
        """Return the runs whose progress to follow, except those with `known` titles."""

    @property
    @abstractmethod
    def columns(self) -> Columns:
        """What tells the followed runs apart."""


class PlanTrials(Trials):
    """The trials of a study: every arm with every seed."""

    plan: Plan

    def __init__(self, plan: Plan, keys: Mapping[int, tuple[str, int]] | None = None):
        """`keys` are {number: (arm, seed)}, by default in the order in which the trials run on one machine."""
        self.plan = plan
        self.keys = dict(enumerate(plan.trials())) if keys is None else keys

    @property
    def total(self) -> int:
        return len(self.keys)

    @property
    def numbers(self) -> Collection[int]:
        return self.keys.keys()

    def unended(self, among: Collection[int]) -> set[int]:
        protocols = {arm: self.plan.protocol(arm) for arm in self.plan.arms}
        return {i for i in among if not self.plan.run(*self.keys[i]).ended(protocols[self.keys[i][0]])}

    def label(self, number: int) -> str:
        return title_of(*self.keys[number])

    def followed(self, known: Container[str]) -> list[Followed]:
        return [
            Followed(
                title, self.plan.run(arm, seed), self.plan.protocol(arm), {"arm": arm, "seed": str(seed)},
                params=self._settings[arm], primary=(self.plan.metric, self.plan.nfe),
            )
            for arm, seed in self.keys.values()
            if (title := title_of(arm, seed)) not in known
        ]  # fmt: skip

    @property
    def columns(self) -> Columns:
        return Columns(
            ["arm", "seed"], sorted({path for own in self._settings.values() for path in own}), list(self.plan.arms)
        )

    @functools.cached_property
    def _settings(self) -> dict[str, dict[str, Any]]:
        """{arm: its value of every setting in which arms differ}"""
        paths = {path for own in differing(self.plan).values() for path in own}
        flat = {arm: flatten(config) for arm, config in self.plan.arms.items()}
        return {arm: {path: own[path] for path in sorted(paths & own.keys())} for arm, own in flat.items()}


def title_of(arm: str, seed: int) -> str:
    """Return the name of a trial in output."""
    return f"{arm} seed {seed}"


class RemoteTrials(PlanTrials):
    """The trials of a study on the nodes of an engine, by the numbers of `Plan.numbered`.

    No run's name is known until the first of them has begun.
    """

    def __init__(self, plan: Plan):
        super().__init__(plan, plan.numbered())
        self._placed = False

    def unended(self, among: Collection[int]) -> set[int]:
        return super().unended(among) if self._named() else {*among}

    def _named(self) -> bool:
        """Whether the nodes are known; then the plan has their device."""
        if not self._placed and (found := placed(self.plan)):
            self.plan = found
            self._placed = True
        return self._placed

    def followed(self, known: Container[str]) -> list[Followed]:
        return super().followed(known) if self._named() else []

    def progress(self, number: int) -> int:
        """Return the steps of all checkpoints of the trial's flows."""
        saved = (_last_step(Run.of(flow, training)) for training, flow in self._flows(number))
        return sum(saved) if self._named() else 0

    def ready(self, among: Collection[int], unended: Collection[int]) -> set[int]:
        """Return the trials that need nothing which another makes: a flow, its pairs, or the run that they share.

        Of the unended trials that need a thing, the first makes it. Another that began earlier would make it a second
        time, or occupy a node while it waits.
        """
        makers: dict[tuple[str, int], int] = {}
        for number in sorted(unended):
            for key in self._needs(number):
                makers.setdefault(key, number)
        return {i for i in among if all(makers[key] == i or done() for key, done in self._needs(i).items())}

    def _needs(self, number: int) -> dict[tuple[str, int], Callable[[], bool]]:
        """Return {(name, seed): whether it is made} of the flows, the pairs and the run of a trial.

        Trials that share a run write to one directory, so the next begins only when the one before has ended.
        """
        seed = self.keys[number][1]
        flows = self._flows(number)
        own = flows[-1][0]
        needs: dict[tuple[str, int], Callable[[], bool]] = {(f"run {own}", seed): lambda: False}
        for training, flow in flows:
            run = Run.of(flow, training)
            needs[training, seed] = functools.partial(_trained, run)
            if flow.parent:
                needs[run.pairs.name, seed] = functools.partial(_made, run.pairs)
        return needs

    def _flows(self, number: int) -> list[tuple[str, RunConfig]]:
        """Return (training, configuration) of the flows that a trial needs, its own last."""
        arm, seed = self.keys[number]
        return [*zip(self._trainings[arm], self.plan.config(arm, seed).flows, strict=True)]

    @property
    def _trainings(self) -> dict[str, list[str]]:
        """{arm: digests of the trainings of its flows}"""
        if self._known != self._placed:
            self._digests = {arm: [training_digest(flow) for flow in own.flows] for arm, own in self.plan.arms.items()}
            self._known = self._placed
        return self._digests

    _known: bool | None = None
    _digests: dict[str, list[str]]


def _trained(run: Run) -> bool:
    """Whether a flow has its last checkpoint, or never gets one."""
    return _last_step(run) == run.config.train.steps or run.gave_up is not None


def _made(pairs: PairSet) -> bool:
    """Whether pairs are complete, or never get so."""
    return bool(pairs.about) or pairs.failed is not None


def _last_step(run: Run) -> int:
    """Return the step of the newest checkpoint, by its name; 0 without one."""
    return max(map(step_of, checkpoints(run.folder / "checkpoints")), default=0)
