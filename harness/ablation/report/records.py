"""What the files of a plan's trials tell besides values: seconds, losses, commits and hardware."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.ablation.design.plan import Plan
from harness.runs.lineage import training_seconds
from harness.training.diagnostics import BINS

LAST = 0.1
"""Share of the training steps, at its end, over which losses are averaged."""


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
    """{arm: {bin of log SNR: mean loss in the last `LAST` of training}} of the arms that record it"""


def records(plan: Plan) -> Records:
    """Return the facts about the trials so far; each file is read once."""
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
            found = run.numbers(protocol)
            environment = run.environment
            lines = run.metrics()
            _add_late(late, lines, run.config.train.steps)
            commits |= {*found.commits, *environment.get("commits", [])}
            if kind := type_of(environment):
                hardware.setdefault(run.config.seed, set()).add(kind)
            for nfe, taken in found.sampling.items():
                sampling.setdefault((arm, nfe), []).append(taken / config.evaluate.samples_at(nfe))
            if found.settled or run.gave_up is not None:
                training.append(training_seconds(run, lines))
                evaluation.append(found.seconds)
        if evaluation:
            trained = [seconds for seconds in training if not math.isnan(seconds)]
            mean = statistics.fmean(trained) if trained else math.nan
            spent[arm] = Seconds(len(evaluation), mean, statistics.fmean(evaluation))
        if late:
            losses[arm] = {name: statistics.fmean(late[name]) for name in BINS if name in late}
    means = {key: statistics.fmean(each) for key, each in sampling.items()}
    return Records(spent, means, sorted(commits), hardware, losses)


def _add_late(late: dict[str, list[float]], lines: Sequence[Mapping[str, Any]], steps: int) -> None:
    """Add a finished training's losses by bin of log SNR in its last `LAST` to those of other seeds."""
    if not lines or lines[-1]["step"] < steps:
        return
    for line in lines:
        if line["step"] > (1 - LAST) * steps:
            for name in BINS:
                if math.isfinite(value := line.get(f"loss_by_log_snr/{name}", math.nan)):
                    late.setdefault(name, []).append(value)


def type_of(environment: Mapping[str, Any]) -> str:
    """Return the GPU or the processor that trained a run; empty if it is not known."""
    machine = environment.get("machine", {})
    on_gpu = environment.get("resolved", {}).get("device") == "cuda"
    return str(machine.get("accelerator" if on_gpu else "processor", ""))
