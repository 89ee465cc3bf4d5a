"""What it costs to find a difference, by number of samples: few of them need more seeds, many need more sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    rise: float
    """What the difference is by so many samples, relative to the baseline."""
    splits: dict[str, Split]
    seeds: dict[str, int | None]
    """{arm: pairs that find the difference with a power of 80 %}; None where they are beyond counting."""
    seconds: dict[str, float]
    """{arm: what so many of its runs and of the baseline's cost}; infinite beyond counting."""
    total: float
    """Seconds of the arms that are summed, each with its own seeds, and of the baseline with the most of them."""
    low: float
    high: float
    """The same by the ends of the sds' 95 % intervals; NaN where nothing was measured."""


@dataclass(frozen=True)
class Budget:
    """What finding a difference costs, seed by seed."""

    pairs: Mapping[str, int]
    """{arm: pairs of seeds that its sd was measured on}"""
    costs: Mapping[str, Cost]
    baseline: str
    summed: Sequence[str]
    """The arms whose seeds are paid for together."""

    def way(self, samples: int, measured: bool, rise: float, splits: Mapping[str, Split]) -> Way:
        """What it takes to find a `rise` in every arm."""
        seeds = {arm: self.needed(arm, own.sd, rise) for arm, own in splits.items()}
        seconds = {arm: self._together(samples, {arm: number}) for arm, number in seeds.items()}
        sds = [{arm: own.sd for arm, own in splits.items()}]
        sds += [{arm: getattr(own, end) for arm, own in splits.items()} for end in ("low", "high")]
        totals = [self.total(samples, rise, each) for each in sds]
        return Way(samples, measured, rise, dict(splits), seeds, seconds, *totals)

    def total(self, samples: int, rise: float, sds: Mapping[str, float]) -> float:
        """Seconds of the arms that are summed, with these sds; NaN where one is."""
        if any(math.isnan(sds[arm]) for arm in self.summed):
            return math.nan
        return self._together(samples, {arm: self.needed(arm, sds[arm], rise) for arm in self.summed})

    def needed(self, arm: str, sd: float, rise: float) -> int | None:
        """How many pairs find a rise in an arm whose log ratios have this sd; None where they are beyond counting."""
        if not sd:
            return MIN_SEEDS
        found = Power(self.pairs[arm], sd, LEVEL / len(self.pairs), len(self.pairs)).seeds_for(rise)
        return None if found is None else max(MIN_SEEDS, found)

    def _together(self, samples: int, seeds: Mapping[str, int | None]) -> float:
        """Seconds of so many runs of arms, and of the baseline with the most of them; what is one training counts
        once."""
        base = self.costs[self.baseline]
        numbers = {arm: math.inf if number is None else float(number) for arm, number in seeds.items()}
        shared = base.training + base.at(samples)
        own = {
            arm: cost.at(samples) + (0.0 if cost.run == base.run else cost.training) for arm, cost in self.costs.items()
        }
        return sum(number * own[arm] for arm, number in numbers.items()) + max(numbers.values()) * shared


def cheapest(seconds: Mapping[int, float]) -> int | None:
    """The number of samples that costs least; None where none is known to find the difference."""
    known = {samples: cost for samples, cost in seconds.items() if math.isfinite(cost)}
    return min(known, key=lambda samples: known[samples]) if known else None
