"""What the files of a plan's trials tell besides values: seconds, losses, commits and hardware."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

from harness.ablation.design.plan import Plan
from harness.training.diagnostics import BINS


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


class Records(NamedTuple):
    """Facts about the trials of a plan: their cost, their losses, and where they come from."""

    spent: dict[str, Seconds]
    """{arm: its seconds} of the arms with at least one ended trial."""
    sampling: dict[tuple[str, int], float]
    """{(arm, NFE): seconds of sampling per sample}, mean over seeds, where they are known."""
    commits: list[str]
    hardware: dict[int, set[str]]
    """{seed: types of hardware on which its arms were trained}"""
    losses: dict[str, dict[str, float]]
    """{arm: {bin of log SNR: loss at the end of training}} of the arms that record it, mean over finished seeds"""


def records(plan: Plan) -> Records:
    """Return the facts about the trials so far."""
    spent = {}
    losses = {}
    sampling: dict[tuple[str, int], list[float]] = {}
    commits = set[str]()
    hardware: dict[int, set[str]] = {}
    for arm, config in plan.arms.items():
        protocol = plan.protocol(arm)
        training, evaluation = list[float](), list[float]()
        late: dict[str, list[float]] = {}
        for run in (plan.run(arm, seed) for seed in plan.seeds_of(arm)):
            judged = run.numbers(protocol)
            trained = run.trained
            for name, loss in trained.losses.items():
                late.setdefault(name, []).append(loss)
            commits |= {*judged.commits, *trained.commits}
            if trained.hardware:
                hardware.setdefault(run.config.seed, set()).add(trained.hardware)
            for nfe, taken in judged.sampling.items():
                sampling.setdefault((arm, int(nfe)), []).append(taken / config.evaluate.samples_at(int(nfe)))
            if judged.settled or run.gave_up is not None:
                training.append(trained.seconds)
                evaluation.append(judged.seconds)
        if evaluation:
            known = [seconds for seconds in training if not math.isnan(seconds)]
            mean = statistics.fmean(known) if known else math.nan
            spent[arm] = Seconds(len(evaluation), mean, statistics.fmean(evaluation))
        if late:
            losses[arm] = {name: statistics.fmean(late[name]) for name in BINS if name in late}
    means = {key: statistics.fmean(each) for key, each in sampling.items()}
    return Records(spent, means, sorted(commits), hardware, losses)
