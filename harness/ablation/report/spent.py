"""Seconds and bytes of the parts of a plan's finished trials, and estimates for the remaining trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ablation.design.plan import Plan
from harness.runs.config import RunConfig
from harness.runs.estimate import Spent
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.lineage import training_seconds


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
