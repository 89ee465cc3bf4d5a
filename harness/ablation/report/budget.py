"""What it costs to find a difference, by number of samples: few of them need more seeds, many need more sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.ablation.design.looks import LEVEL
from harness.ablation.report.power import Power
from harness.ablation.report.statistics import MIN_SEEDS
from harness.ablation.report.variance import Split


@dataclass(frozen=True)
class Cost:
    """Seconds of one run, mean over seeds."""

    training: float
    elsewhere: float
    """Of evaluation but for the primary metric at the primary NFE, whatever the number of samples there."""
    judging: Mapping[int, float]
    """By number of samples there, rising: drawing them and scoring them by the primary metric."""
    run: str
    """What arms have in common that are one training: it is paid once."""

    def at(self, samples: int) -> float:
        """Of evaluation in all; of more samples than were measured in proportion."""
        most = max(self.judging)
        return self.elsewhere + self.judging.get(samples, self.judging[most] * samples / most)


@dataclass(frozen=True)
class Way:
    """One number of samples at the primary NFE, and what finding the difference takes with it."""

    samples: int
    measured: bool
    """Whether it was; else the laws say it."""
    splits: dict[str, Split]
    seeds: dict[str, int | None]
    """{arm: pairs that find the difference with a power of 80 %}; None where they are beyond counting."""
    seconds: dict[str, float]
    """{arm: what so many of its runs and of the baseline's cost}; infinite beyond counting."""
    total: float
    """Seconds of all arms, each with its own seeds and the baseline with the most of them; infinite if one is."""


def way(
    samples: int, measured: bool, splits: dict[str, Split], pairs: Mapping[str, int], costs: Mapping[str, Cost],
    baseline: str, difference: float,
) -> Way:  # fmt: skip
    """What it takes to find a rise of `difference` in every arm, whose sds were measured over so many `pairs`."""
    seeds = {arm: needed(found.sd, pairs[arm], len(splits), difference) for arm, found in splits.items()}
    base = costs[baseline]
    own = {arm: costs[arm].at(samples) + (costs[arm].training if costs[arm].run != base.run else 0.0) for arm in splits}
    shared = base.training + base.at(samples)
    numbers = {arm: math.inf if number is None else float(number) for arm, number in seeds.items()}
    seconds = {arm: number * (own[arm] + shared) for arm, number in numbers.items()}
    total = sum(number * own[arm] for arm, number in numbers.items()) + max(numbers.values()) * shared
    return Way(samples, measured, splits, seeds, seconds, total)


def needed(sd: float, pairs: int, arms: int, difference: float) -> int | None:
    """How many pairs find a rise of `difference`, where log ratios have an sd that so many pairs measured."""
    if not sd:
        return MIN_SEEDS
    found = Power(pairs, sd, LEVEL / arms, arms).seeds_for(difference)
    return None if found is None else max(MIN_SEEDS, found)


def cheapest(seconds: Mapping[int, float]) -> int | None:
    """The number of samples that costs least; None where none is known to find the difference."""
    known = {samples: cost for samples, cost in seconds.items() if math.isfinite(cost)}
    return min(known, key=lambda samples: known[samples]) if known else None
