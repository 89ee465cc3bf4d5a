"""What runs say that were judged by other samples: where the variance comes from, and the cheapest way to power."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.ablation.execute.resample import Resampling
from harness.ablation.report.budget import Cost, Way, cheapest, way
from harness.ablation.report.variance import Law, Shared, Split, law, shared, split
from harness.core.errors import UserError
from harness.data.base import load
from harness.evaluation.doubts import short_of_samples
from harness.runs.lineage import training_seconds

FURTHER = (2, 4)
"""Times the largest number of samples: what the law says of these is reported too."""


Known = Mapping[int, list[dict[str, Any]]]
"""{number of samples: the evaluations of an arm}"""


@dataclass(frozen=True)
class Found:
    """What a resampling says."""

    design: Resampling
    splits: dict[str, list[Split]]
    """{arm: its split by each number of samples, rising}"""
    laws: dict[str, Law]
    common: dict[str, Shared]
    """{arm: what pairing with the baseline takes off} by the largest number."""
    ways: list[Way]
    values: dict[str, dict[int, list[list[float]]]]
    """{arm: {number of samples: [training seeds][sampling seeds]}}, over the baseline's seeds for itself."""
    costs: dict[str, Cost]
    commits: list[str]
    notes: list[str]

    @property
    def cheapest(self) -> int | None:
        """The number of samples with which all arms together cost least."""
        return cheapest({way.samples: way.total for way in self.ways})

    def cheapest_of(self, arm: str) -> int | None:
        """The same for one arm."""
        return cheapest({way.samples: way.seconds[arm] for way in self.ways})


def found(design: Resampling) -> Found:
    """Everything that a resampling says; `UserError` where no arm can be compared with the baseline."""
    plan = design.plan
    known = {arm: {number: design.evaluations(arm, number) for number in design.numbers} for arm in design.seeds}
    values = {arm: {number: design.values(own) for number, own in of.items()} for arm, of in known.items()}
    lost = {arm: reason for arm, own in values.items() if (reason := _unusable(own))}
    if plan.baseline in lost:
        raise UserError(f"{plan.name}: the baseline {plan.baseline} {lost[plan.baseline]}. Nothing can be compared.")
    if not (arms := [arm for arm in values if arm not in lost and arm != plan.baseline]):
        raise UserError(f"{plan.name}: no arm has values of all samples whose logs can be compared.")
    pairs = {arm: _paired(design, values, arm) for arm in arms}
    splits = {arm: [split(one - other, n) for n, (one, other) in pairs[arm].items()] for arm in arms}
    laws = {arm: law(own) for arm, own in splits.items()}
    common = {arm: shared(*pairs[arm][design.numbers[-1]]) for arm in arms}
    costs = {arm: _cost(design, arm, known[arm]) for arm in (*arms, plan.baseline)}
    seeds = {arm: len(pairs[arm][design.numbers[-1]][0]) for arm in arms}
    ways = list(_ways(design, splits, laws, seeds, costs))
    plain = {arm: {number: table.tolist() for number, table in values[arm].items()} for arm in (*arms, plan.baseline)}
    reasons = {**{one.arm: one.reason for one in design.lost}, **lost}
    fewest = design.run(plan.baseline, design.seeds[plan.baseline][0], 0, design.numbers[0]).config
    notes = [
        *(f"{arm} is left out: it {reason}." for arm, reason in reasons.items()),
        *filter(None, [short_of_samples(fewest.evaluate, load(fewest.dataset))]),
    ]
    return Found(design, splits, laws, common, ways, plain, costs, _commits(design, known), notes)


def _unusable(own: Mapping[int, np.ndarray]) -> str:
    """Why an arm's values cannot be compared, as it goes on after its name; empty where they can."""
    if any(np.isnan(table).any() for table in own.values()):
        return "has no value of some samples"
    return "has values that are not positive" if any((table <= 0).any() for table in own.values()) else ""


def _paired(
    design: Resampling, values: Mapping[str, Mapping[int, np.ndarray]], arm: str
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{number of samples: logs of the arm and of the baseline, over the training seeds that both have}."""
    base = design.plan.baseline
    both = [seed for seed in design.seeds[arm] if seed in design.seeds[base]]
    rows = {name: [design.seeds[name].index(seed) for seed in both] for name in (arm, base)}
    return {n: (np.log(values[arm][n][rows[arm]]), np.log(values[base][n][rows[base]])) for n in design.numbers}


def _ways(
    design: Resampling, splits: Mapping[str, list[Split]], laws: Mapping[str, Law], seeds: Mapping[str, int],
    costs: Mapping[str, Cost],
) -> Iterator[Way]:  # fmt: skip
    """Every number of samples that was measured, then those beyond."""
    plan = design.plan
    asked = seeds, costs, plan.baseline, plan.smallest_difference
    for i, number in enumerate(design.numbers):
        yield way(number, True, {arm: own[i] for arm, own in splits.items()}, *asked)
    for times in FURTHER:
        number = times * design.numbers[-1]
        yield way(number, False, {arm: laws[arm].beyond(own[-1], number) for arm, own in splits.items()}, *asked)


def _cost(design: Resampling, arm: str, known: Known) -> Cost:
    """What a run of an arm costs."""
    plan = design.plan
    runs = [plan.run(arm, seed) for seed in design.seeds[arm]]
    trained = [seconds for run in runs if not math.isnan(seconds := training_seconds(run))]
    judged = [run.evaluation(plan.protocol(arm)) for run in runs]
    primary = str(plan.nfe)
    elsewhere = [sum(own["seconds"].values()) - own["sampling_seconds"].get(primary, 0.0) for own in judged]
    judging = {number: statistics.fmean(one["seconds"][primary] for one in own) for number, own in known.items()}
    training = statistics.fmean(trained) if trained else 0.0
    return Cost(training, statistics.fmean(elsewhere), judging, runs[0].name.partition("-")[0])


def _commits(design: Resampling, known: Mapping[str, Known]) -> list[str]:
    runs = [design.plan.run(arm, seed) for arm, seeds in design.seeds.items() for seed in seeds]
    judged = [one for of in known.values() for own in of.values() for one in own]
    trained = {commit for run in runs for commit in run.environment.get("commits", [])}
    return sorted(trained.union(*(one["commits"] for one in judged)))
