"""The trials of a plan, by number: which have not ended, and which runs to follow. The run directories decide."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Container
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
from harness.runs.progress import Followed


class Trials(ABC):
    """What a launcher carries out: a plan's trials, numbered from 0."""

    plan: SharedPlan

    @property
    @abstractmethod
    def total(self) -> int:
        """Number of trials of the plan."""

    @abstractmethod
    def unended(self, among: Collection[int]) -> set[int]:
        """Return the numbers of the trials that have not ended."""

    @abstractmethod
    def label(self, number: int) -> str:
        """Return the name of a trial in output."""

    def ready(self, among: Collection[int]) -> set[int]:
        """Return the numbers of the trials that need not wait for a flow that another trial trains."""
        return {*among}

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

    def __init__(self, plan: Plan):
        self.plan = plan
        self.keys = plan.trials()

    @property
    def total(self) -> int:
        return len(self.keys)

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
            for arm, seed in self.keys
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
    """The trials of a study on the nodes of an engine. No run's name is known until the first of them has begun."""

    def unended(self, among: Collection[int]) -> set[int]:
        return super().unended(among) if self._named() else {*among}

    def _named(self) -> bool:
        """Whether the nodes are known; then the plan has their device."""
        if found := placed(self.plan):
            self.plan = found
        return found is not None

    def ready(self, among: Collection[int]) -> set[int]:
        """Return the numbers of the trials whose flows are finished, or are trained by no trial before them.

        A trial that begins earlier would train the flow a second time, or occupy a node while it waits.
        """
        return {i for i in among if all(self._trainers[key] == i or _trained(flow) for key, flow in self._flows(i))}

    def followed(self, known: Container[str]) -> list[Followed]:
        return super().followed(known) if self._named() else []

    def _flows(self, number: int) -> list[tuple[tuple[str, int], RunConfig]]:
        """Return ((training, seed), configuration) of the flows that a trial needs, its own last."""
        arm, seed = self.keys[number]
        flows = self.plan.config(arm, seed).flows
        return [((training, seed), flow) for training, flow in zip(self._trainings[arm], flows, strict=True)]

    @functools.cached_property
    def _trainings(self) -> dict[str, list[str]]:
        return {arm: [training_digest(flow) for flow in config.flows] for arm, config in self.plan.arms.items()}

    @functools.cached_property
    def _trainers(self) -> dict[tuple[str, int], int]:
        """{(training, seed): the first trial that needs this flow}"""
        trainers: dict[tuple[str, int], int] = {}
        for number in range(self.total):
            for key, _ in self._flows(number):
                trainers.setdefault(key, number)
        return trainers


def _trained(config: RunConfig) -> bool:
    """Whether a flow has its last checkpoint, or never gets one."""
    run = Run.of(config)
    last = checkpoints(run.folder / "checkpoints")[:1]
    return bool(last and step_of(last[0]) == config.train.steps) or run.gave_up is not None
