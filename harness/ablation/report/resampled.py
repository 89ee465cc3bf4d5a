"""Results of judging finished runs on other samples: the sources of variance, and the cheapest way to power."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.ablation.execute.resample import Resampling
from harness.ablation.report.budget import Budget, Cost, Way, cheapest
from harness.ablation.report.statistics import compare
from harness.ablation.report.variance import Law, Split, law, rise, shared, split
from harness.core.errors import UserError
from harness.core.registry import find
from harness.data.base import load
from harness.evaluation.doubts import short_of_samples
from harness.runs.lineage import training_seconds

FURTHER = (2, 4)
"""Multiples of the largest number of samples to which the laws extrapolate."""


Known = Mapping[int, list[dict[str, Any]]]
"""{number of samples: the evaluations of an arm}"""


@dataclass(frozen=True)
class Found:
    """The results of a resampling."""

    design: Resampling
    splits: dict[str, list[Split]]
    """{arm: its split by each number of samples, rising}"""
    laws: dict[str, Law]
    common: dict[str, float]
    """{arm: share of the sampling variance that shared noise removes}, with the largest number of samples."""
    settled: list[str]
    """Arms whose difference is already known to exceed the smallest of interest: the totals leave them out."""
    ways: list[Way]
    values: dict[str, dict[int, list[list[float]]]]
    """{arm or baseline: {number of samples: values [training seeds][sampling seeds]}}."""
    costs: dict[str, Cost]
    commits: list[str]
    notes: list[str]

    @property
    def cheapest(self) -> int | None:
        """The number of samples with the lowest total cost of the arms; None where no cost is finite."""
        return cheapest({way.samples: way.total for way in self.ways})

    @property
    def wanted(self) -> str:
        """The difference to find, in words."""
        return f"+{100 * self.design.plan.smallest_difference:g}% by {self.design.usual:,} samples"

    @property
    def together(self) -> str:
        """The name of the arms whose costs are summed."""
        return "all arms" if len(self.settled) in (0, len(self.splits)) else "open arms"

    def cheapest_of(self, arm: str) -> int | None:
        """Return the number of samples with the lowest cost of one arm; None where no cost is finite."""
        return cheapest({way.samples: way.seconds[arm] for way in self.ways})


def found(design: Resampling) -> Found:
    """Return the results of a resampling; `UserError` where no arm can be compared with the baseline."""
    plan = design.plan
    known = {arm: {number: design.evaluations(arm, number) for number in design.numbers} for arm in design.seeds}
    values = {arm: {number: design.values(own) for number, own in of.items()} for arm, of in known.items()}
    lost = {arm: reason for arm, own in values.items() if (reason := _unusable(own))}
    if plan.baseline in lost:
        raise UserError(f"{plan.name}: the baseline {plan.baseline} {lost[plan.baseline]}. Nothing can be compared.")
    if not (arms := [arm for arm in values if arm not in lost and arm != plan.baseline]):
        raise UserError(f"{plan.name}: no arm has positive values for all samples. Nothing can be compared.")
    pairs = {arm: _paired(design, values, arm) for arm in arms}
    splits = {arm: [split(one - other, n) for n, (one, other) in pairs[arm].items()] for arm in arms}
    laws = {arm: law(own) for arm, own in splits.items()}
    common = {arm: shared(*pairs[arm][design.numbers[-1]]) for arm in arms}
    settled = [arm for arm in arms if _is_settled(design, pairs[arm])]
    costs = {arm: _cost(design, arm, known[arm]) for arm in (*arms, plan.baseline)}
    seeds = {arm: len(own[design.numbers[-1]][0]) for arm, own in pairs.items()}
    budget = Budget(seeds, costs, plan.baseline, [arm for arm in arms if arm not in settled] or arms)
    ways = list(_ways(design, budget, splits, laws, values[plan.baseline]))
    plain = {arm: {number: table.tolist() for number, table in values[arm].items()} for arm in (*arms, plan.baseline)}
    notes = _notes(design, lost)
    return Found(design, splits, laws, common, settled, ways, plain, costs, _commits(design, known), notes)


def _notes(design: Resampling, lost: Mapping[str, str]) -> list[str]:
    """Return sentences on the arms that are left out, and on too few samples."""
    base = design.plan.baseline
    reasons = {**{one.arm: one.reason for one in design.lost}, **lost}
    fewest = design.run(base, design.seeds[base][0], 0, design.numbers[0]).config
    return [
        *(f"{arm} is left out: it {reason}." for arm, reason in reasons.items()),
        *filter(None, [short_of_samples(fewest.evaluate, load(fewest.dataset))]),
    ]


def _unusable(own: Mapping[int, np.ndarray]) -> str:
    """Return why an arm's values cannot be compared, to follow its name in a sentence; empty where they can."""
    if any(np.isnan(table).any() for table in own.values()):
        return "has no value for some samples"
    return "has values that are not positive" if any((table <= 0).any() for table in own.values()) else ""


def _paired(
    design: Resampling, values: Mapping[str, Mapping[int, np.ndarray]], arm: str
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return {number of samples: logs of the arm and of the baseline, for the training seeds that both have}."""
    base = design.plan.baseline
    both = [seed for seed in design.seeds[arm] if seed in design.seeds[base]]
    rows = {name: [design.seeds[name].index(seed) for seed in both] for name in (arm, base)}
    return {n: (np.log(values[arm][n][rows[arm]]), np.log(values[base][n][rows[base]])) for n in design.numbers}


def _is_settled(design: Resampling, pairs: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether the 95 % interval of an arm's difference lies beyond the smallest of interest.

    This uses the number of samples nearest to the study's.
    """
    number = min(design.numbers, key=lambda n: abs(math.log(n / design.usual)))
    arm, baseline = (np.exp(logs.mean(1)).tolist() for logs in pairs[number])
    found = compare(arm, baseline)
    return found.low > design.plan.smallest_difference or found.high < -design.plan.smallest_difference


def _ways(
    design: Resampling, budget: Budget, splits: Mapping[str, list[Split]], laws: Mapping[str, Law],
    baseline: Mapping[int, np.ndarray],
) -> Iterator[Way]:  # fmt: skip
    """Yield the way of each measured number of samples, then of `FURTHER` ones with the baseline's last value."""
    difference = design.plan.smallest_difference
    power: int = find("metric", design.plan.metric).floor_power or 1  # type: ignore[attr-defined]
    levels = [float((table**power).mean()) ** (1 / power) for table in baseline.values()]
    here = float(np.exp(np.interp(math.log(design.usual), np.log(design.numbers), np.log(levels))))
    for i, number in enumerate(design.numbers):
        wanted = rise(difference, here, levels[i], power)
        yield budget.way(number, True, wanted, {arm: own[i] for arm, own in splits.items()})
    for number in (times * design.numbers[-1] for times in FURTHER):
        yield budget.way(number, False, wanted, {arm: laws[arm].beyond(own[-1], number) for arm, own in splits.items()})


def _cost(design: Resampling, arm: str, known: Known) -> Cost:
    """Return the mean seconds of a run of an arm."""
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
