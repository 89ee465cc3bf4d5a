"""Seconds and bytes of each arm's finished trials, and estimates for the remaining trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.ablation.design.plan import Plan
from harness.runs import lacking
from harness.runs.config import RunConfig
from harness.runs.estimate import Spent
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.lineage import training_seconds


@dataclass(frozen=True)
class Seconds:
    """Means over an arm's trials so far."""

    trials: int
    """Number of trials that have ended."""
    training: float
    """Seconds, mean over the trials; NaN where none has trained."""
    evaluation: float
    """Seconds under the arm's protocol, mean over the trials."""

    def plain(self) -> dict[str, float | None]:
        """Return the JSON form, with null for unknown numbers."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


class Costs(NamedTuple):
    """What the trials of a plan took, and the code that made them."""

    spent: dict[str, Seconds]
    """{arm: its seconds} of the arms with at least one ended trial."""
    sampling: dict[tuple[str, int], float]
    """{(arm, NFE): seconds of sampling per sample}, mean over seeds, where they are known."""
    commits: list[str]
    hardware: dict[int, set[str]]
    """{seed: types of hardware on which its arms were trained}"""


def costs(plan: Plan) -> Costs:
    """Return the costs of the trials so far; each file is read once."""
    spent = {}
    sampling: dict[tuple[str, int], list[float]] = {}
    commits = set[str]()
    hardware: dict[int, set[str]] = {}
    for arm, config in plan.arms.items():
        protocol = plan.protocol(arm)
        training, evaluation = list[float](), list[float]()
        for run in (plan.run(arm, seed) for seed in plan.seeds_of(arm)):
            known = run.evaluation(protocol)
            environment = run.environment
            commits |= {*known["commits"], *environment.get("commits", [])}
            if kind := type_of(environment):
                hardware.setdefault(run.config.seed, set()).add(kind)
            for nfe, taken in known["sampling_seconds"].items():
                sampling.setdefault((arm, int(nfe)), []).append(taken / config.evaluate.samples_at(int(nfe)))
            if run.gave_up is not None or lacking.settled(config.evaluate, known):
                training.append(training_seconds(run))
                evaluation.append(sum(known["seconds"].values()))
        if evaluation:
            trained = [seconds for seconds in training if not math.isnan(seconds)]
            mean = statistics.fmean(trained) if trained else math.nan
            spent[arm] = Seconds(len(evaluation), mean, statistics.fmean(evaluation))
    return Costs(spent, {key: statistics.fmean(each) for key, each in sampling.items()}, sorted(commits), hardware)


def type_of(environment: Mapping[str, Any]) -> str:
    """Return the GPU or the processor that trained a run; empty if it is not known."""
    machine = environment.get("machine", {})
    on_gpu = environment.get("resolved", {}).get("device") == "cuda"
    return str(machine.get("accelerator" if on_gpu else "processor", ""))


@dataclass(frozen=True)
class Parts:
    """Seconds and bytes of the parts of a plan's trials. Arms may share a training, or learn from another arm's."""

    trainings: Mapping[str, Spent]
    """{training digest: one training, with making its pairs}"""
    evaluations: Mapping[str, Spent]
    """{arm: the evaluation of a trial}"""

    def trained(self, config: RunConfig) -> bool:
        """Whether a training and all its ancestors have known costs."""
        return all(training_digest(flow) in self.trainings for flow in config.flows)

    def or_else(self, others: Parts) -> Parts:
        """Return these parts, completed by `others` where they are unknown."""
        return Parts({**others.trainings, **self.trainings}, {**others.evaluations, **self.evaluations})


def measured(plan: Plan) -> Parts:
    """Return seconds and bytes of the finished trainings and evaluations of a plan, means over seeds."""
    trainings: dict[str, list[Spent]] = {}
    evaluations: dict[str, list[Spent]] = {}
    seen = set[str]()
    for arm, seed in plan.trials():
        config = plan.config(arm, seed)
        for run in map(Run.of, config.flows):
            if run.name not in seen and run.steps_done >= run.config.train.steps:
                trainings.setdefault(training_digest(run.config), []).append(_training(run))
            seen.add(run.name)
        protocol = plan.protocol(arm)
        if (run := plan.run(arm, seed)).evaluated(protocol):
            seconds = sum(run.evaluation(protocol)["seconds"].values())
            evaluations.setdefault(arm, []).append(Spent(seconds, _bytes(run.folder, f"*/{protocol.digest}*")))
    return Parts(_means(trainings), _means(evaluations))


def _training(run: Run) -> Spent:
    """Return seconds and bytes of a finished training, with its pairs."""
    judging = _bytes(run.folder, "evaluations/*") + _bytes(run.folder, "samples/*-nfe-*")
    size = _bytes(run.folder, "**/*") - judging
    about = run.pairs.about if run.parent else {}
    pairs = about["number"] / about["pairs_per_second"] if about else 0.0
    return Spent(training_seconds(run) + pairs, size + (_bytes(run.pairs.folder, "*") if run.parent else 0.0))


def _bytes(folder: Path, pattern: str) -> int:
    """Return the total size of the files in a folder that match a pattern."""
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def _means(found: Mapping[str, Sequence[Spent]]) -> dict[str, Spent]:
    return {key: Spent(*map(statistics.fmean, zip(*each, strict=True))) for key, each in found.items()}


def remaining(plan: Plan, parts: Parts) -> dict[tuple[str, int], dict[str, Spent]]:
    """Return {(arm, seed): {name of a remaining part: its seconds and bytes}} of the trials that have not ended.

    Trials that share a part have the same name for it. Unknown numbers are NaN.
    """
    unknown = Spent(math.nan, math.nan)
    left: dict[tuple[str, int], dict[str, Spent]] = {}
    for arm, seed in plan.unfinished():
        own = left[arm, seed] = {}
        share = 1 - plan.run(arm, seed).judged(plan.protocol(arm))
        own[f"{arm} seed {seed}"] = _share(share, parts.evaluations.get(arm, unknown))
        for run in map(Run.of, plan.config(arm, seed).flows):
            if share := 1 - run.steps_done / run.config.train.steps:
                own[run.name] = _share(share, parts.trainings.get(training_digest(run.config), unknown))
    return left


def _share(share: float, whole: Spent) -> Spent:
    return Spent(share * whole.seconds, share * whole.bytes)


def total(left: Iterable[Mapping[str, Spent]]) -> Spent:
    """Return the sum of remaining parts; a part that several trials share counts once."""
    once = {name: spent for each in left for name, spent in each.items()}.values()
    return Spent(sum(spent.seconds for spent in once), sum(spent.bytes for spent in once))
