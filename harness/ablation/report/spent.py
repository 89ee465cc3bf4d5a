"""What the trials of each arm took, in seconds, and what more of them will take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from harness.ablation.design.plan import Plan
from harness.runs.lineage import training_seconds


@dataclass(frozen=True)
class Spent:
    """Of an arm's trials so far."""

    trials: int
    """Those that have ended."""
    training: float
    """Seconds, mean over the trials; NaN where none has trained."""
    evaluation: float
    """Seconds under the arm's protocol, mean over the trials."""

    def plain(self) -> dict[str, float | None]:
        """As JSON holds it: null for what is not known."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


def spent(plan: Plan) -> dict[str, Spent]:
    """{arm: its seconds} of the arms of which a trial has ended."""
    out = {}
    for arm in plan.arms:
        protocol = plan.protocol(arm)
        runs = [plan.run(arm, seed) for seed in plan.seeds_of(arm)]
        if ended := [run for run in runs if run.ended(protocol)]:
            training = [seconds for run in ended if not math.isnan(seconds := training_seconds(run))]
            evaluation = [sum(run.evaluation(protocol)["seconds"].values()) for run in ended]
            mean = statistics.fmean(training) if training else math.nan
            out[arm] = Spent(len(ended), mean, statistics.fmean(evaluation))
    return out


def sampling_seconds(plan: Plan) -> dict[tuple[str, int], float]:
    """Seconds of sampling for each sample by arm and NFE, mean over seeds, where they are known."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for arm, seed in plan.trials():
        known = plan.run(arm, seed).evaluation(plan.protocol(arm))
        for nfe, taken in known["sampling_seconds"].items():
            seconds.setdefault((arm, int(nfe)), []).append(taken / plan.arms[arm].evaluate.samples_at(int(nfe)))
    return {key: statistics.fmean(each) for key, each in seconds.items()}


def expected(plan: Plan, known: Mapping[str, Spent]) -> float:
    """Seconds that the unfinished trials of a plan will take one after another; NaN where an arm has ended none."""
    return sum(
        known[arm].training + known[arm].evaluation if arm in known else math.nan for arm, _ in plan.unfinished()
    )
