"""Judge finished runs of a study again, with other sampling seeds and other numbers of samples; nothing is trained.

Each run is judged only by the primary metric at the primary NFE, with several sampling seeds; seed 0 is the run's own
noise. The largest number of samples is drawn, and smaller numbers use its first samples. All arms of a training seed
share the noise, as in the study itself. The run directories keep the values, each under its own protocol.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from harness.ablation.design.plan import Plan
from harness.core.config import override
from harness.core.errors import ConfigError, UserError
from harness.core.registry import find
from harness.core.signals import Stop
from harness.data.base import load
from harness.evaluation.flow_metrics import FlowMetric
from harness.evaluation.protocol import num_reference
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate_numbers, judge_of
from harness.runs.sample import restore

PARTS = (1, 2, 4, 8)
"""Numbers of samples to judge by, in quarters of the study's number."""


class Lost(NamedTuple):
    """An arm that cannot take part, and the reason."""

    arm: str
    reason: str


@dataclass(frozen=True)
class Resampling:
    """Runs of a plan that are judged again, with the sampling seeds and numbers of samples."""

    plan: Plan
    seeds: dict[str, tuple[int, ...]]
    """{arm: finished training seeds}, for the baseline and every arm that takes part."""
    sampling_seeds: int
    numbers: tuple[int, ...]
    """Numbers of samples, in increasing order."""
    batch_size: int
    lost: tuple[Lost, ...]

    @classmethod
    def of(cls, plan: Plan, sampling_seeds: int) -> Self:
        """Return the resampling of a plan's finished runs; `UserError` if nothing can be judged again and compared."""
        if issubclass(find("metric", plan.metric), FlowMetric):
            reason = f"{plan.metric} measures the flow itself, so no sampling seed changes it"
            raise UserError(f"{plan.name}: {reason}. Take a study whose verdicts rest on samples.")
        if plan.crossing:
            reason = "it has axes or a sweep, so its arms are not all compared with one baseline"
            raise UserError(f"{plan.name}: {reason}. Take a study with arms only.")
        reasons = {arm: _why_not(plan, arm) for arm in plan.arms}
        if reason := reasons[plan.baseline]:
            raise UserError(f"{plan.name}: the baseline {plan.baseline} {reason}. Without it there is no difference.")
        arms = [arm for arm, reason in reasons.items() if not reason]
        if len(arms) < 2:
            raise UserError(f"{plan.name}: no arm is left ({'; '.join(f'{a} {r}' for a, r in reasons.items() if r)}).")
        seeds = {arm: tuple(seed for seed in plan.seeds if plan.run(arm, seed).finished) for arm in arms}
        config = plan.arms[plan.baseline].evaluate
        quarter = max(config.samples_at(plan.nfe) // 4, 2)
        batch = min(quarter, config.batch_size)
        lost = tuple(Lost(arm, reason) for arm, reason in reasons.items() if reason)
        every = tuple(quarter // batch * batch * part for part in PARTS)
        asked = cls(plan, seeds, sampling_seeds, every, batch, lost)
        return dataclasses.replace(asked, numbers=tuple(filter(asked._suffice, every)))

    @property
    def usual(self) -> int:
        """The study's number of samples at the primary NFE."""
        return self.plan.arms[self.plan.baseline].evaluate.samples_at(self.plan.nfe)

    def require_two(self, command: str) -> None:
        """Raise `UserError` if an arm has fewer than two finished seeds; `command` trains more."""
        base = set(self.seeds[self.plan.baseline])
        for arm, seeds in self.seeds.items():
            if len(base & set(seeds)) < 2:
                which = arm if len(seeds) < 2 else self.plan.baseline
                done = f"{len(self.seeds[which])} of {len(self.plan.seeds)} seeds of {which} are finished"
                raise UserError(f"{self.plan.name}: {done}, and a variance needs two. Run `{command}` first.")

    def run(self, arm: str, seed: int, sampling_seed: int, number: int | None = None) -> Run:
        """Return a finished run with the settings to judge it again, by default with the largest number of samples."""
        config = self.plan.config(arm, seed)
        changes = self._changes(config, sampling_seed, number or self.numbers[-1])
        return Run(override(config, changes), Run.of(config).folder)

    def draws(self) -> list[tuple[str, int, int]]:
        """Return (arm, training seed, sampling seed) of all draws."""
        again = range(self.sampling_seeds)
        return [(arm, seed, k) for arm, seeds in self.seeds.items() for seed in seeds for k in again]

    def judge(self, stop: Stop) -> Iterator[tuple[str, int, int]]:
        """Judge the draws without values, and yield each draw when it has them; raises `Stopped`."""
        for arm, seeds in self.seeds.items():
            judge = judge_of(self.run(arm, seeds[0], 0).config, stop=stop)
            for seed in seeds:
                trained = restore(self.run(arm, seed, 0))
                for k in range(self.sampling_seeds):
                    evaluate_numbers(self.run(arm, seed, k), trained, judge, self.numbers, stop)
                    yield arm, seed, k

    def evaluations(self, arm: str, number: int) -> list[dict[str, Any]]:
        """Return the evaluations of an arm at this number of samples, for all training seeds x sampling seeds."""
        runs = [self.run(arm, seed, k, number) for seed in self.seeds[arm] for k in range(self.sampling_seeds)]
        return [run.evaluation(run.config.protocol()) for run in runs]

    def values(self, evaluations: Sequence[dict[str, Any]]) -> np.ndarray:
        """Return the primary metric of evaluations, [training seeds, sampling seeds]; NaN if there is no value."""
        metric = self.plan.metric
        nfe = str(self.plan.nfe)
        found = [known["values"].get(metric, {}).get(nfe, math.nan) for known in evaluations]
        return np.array(found).reshape(-1, self.sampling_seeds)

    def _suffice(self, number: int) -> bool:
        """Whether the metric is defined for this number of samples; `ConfigError` if not even for the largest."""
        try:
            self.run(self.plan.baseline, 0, 0, number).config.protocol()
        except ConfigError:
            if number == self.numbers[-1]:
                raise
            return False
        return True

    def _changes(self, config: RunConfig, sampling_seed: int, number: int) -> dict[str, Any]:
        """Return the changes to an arm's configuration; the reference stays as in the study."""
        own = config.evaluate
        real = {} if own.reference else {"evaluate.num_reference": num_reference(own, load(config.dataset))}
        return {
            "evaluate.nfe": [self.plan.nfe],
            "evaluate.metrics": [metric for metric in own.metrics if metric.name == self.plan.metric],
            "evaluate.more_samples": [],
            "evaluate.num_samples": number,
            "evaluate.batch_size": self.batch_size,
            "evaluate.sampling_seed": sampling_seed,
            **real,
        }


def _why_not(plan: Plan, arm: str) -> str:
    """Return why an arm cannot take part, in words that follow its name; "" if it can."""
    config = plan.arms[arm].evaluate
    if plan.nfe not in config.nfe or plan.metric not in {metric.name for metric in config.metrics}:
        return f"is not judged by {plan.metric} at NFE {plan.nfe}"
    if gone := [seed for seed in plan.seeds if plan.run(arm, seed).gave_up]:
        return f"has no value of seed {gone[0]}, so the other seeds are a biased sample"
    return ""
