"""The cost of finding a difference, by number of samples: fewer samples need more seeds, more samples take longer."""

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
    """Of evaluation, except for the primary metric at the primary NFE; it does not depend on the number of samples."""
    judging: Mapping[int, float]
    """{number of samples, rising: drawing them at the primary NFE and scoring them by the primary metric}"""
    run: str
    """Name of the training. Arms with the same name share one training, which is paid once."""

    def at(self, samples: int) -> float:
        """Return the seconds of the whole evaluation; more samples than were measured are counted in proportion."""
        most = max(self.judging)
        return self.elsewhere + self.judging.get(samples, self.judging[most] * samples / most)


@dataclass(frozen=True)
class Way:
    """One number of samples at the primary NFE, and the seeds and time that find the difference with it."""

    samples: int
    measured: bool
    """Whether this number of samples was measured; otherwise the laws extrapolate to it."""
    rise: float
    """The difference to find with this number of samples, relative to the baseline."""
    splits: dict[str, Split]
    seeds: dict[str, int | None]
    """{arm: pairs of seeds that find the difference with a power of 80 %}; None above `MOST_SEEDS`."""
    seconds: dict[str, float]
    """{arm: seconds of this number of its runs and of the baseline's}; infinite above `MOST_SEEDS`."""
    total: float
    """Seconds of the summed arms, each with its own number of seeds, and of the baseline with the largest of these."""
    low: float
    high: float
    """`total` at the ends of the sds' 95 % intervals; NaN where nothing was measured."""


@dataclass(frozen=True)
class Budget:
    """The costs of runs and the pairs of seeds, from which `way` computes the price of a difference."""

    pairs: Mapping[str, int]
    """{arm: pairs of seeds from which its sd was measured}"""
    costs: Mapping[str, Cost]
    baseline: str
    summed: Sequence[str]
    """The arms whose costs are added up; they share the baseline's runs."""

    def way(self, samples: int, measured: bool, rise: float, splits: Mapping[str, Split]) -> Way:
        """Return the seeds and seconds that find a `rise` in every arm with this number of samples."""
        seeds = {arm: self.needed(arm, own.sd, rise) for arm, own in splits.items()}
        seconds = {arm: self._together(samples, {arm: number}) for arm, number in seeds.items()}
        sds = [{arm: own.sd for arm, own in splits.items()}]
        sds += [{arm: getattr(own, end) for arm, own in splits.items()} for end in ("low", "high")]
        totals = [self.total(samples, rise, each) for each in sds]
        return Way(samples, measured, rise, dict(splits), seeds, seconds, *totals)

    def total(self, samples: int, rise: float, sds: Mapping[str, float]) -> float:
        """Return the seconds of the summed arms at these sds; NaN where an sd is NaN."""
        if any(math.isnan(sds[arm]) for arm in self.summed):
            return math.nan
        return self._together(samples, {arm: self.needed(arm, sds[arm], rise) for arm in self.summed})

    def needed(self, arm: str, sd: float, rise: float) -> int | None:
        """Return the pairs of seeds that find a rise, if an arm's log ratios have this sd; None above `MOST_SEEDS`."""
        if not sd:
            return MIN_SEEDS
        found = Power(self.pairs[arm], sd, LEVEL / len(self.pairs), len(self.pairs)).seeds_for(rise)
        return None if found is None else max(MIN_SEEDS, found)

    def _together(self, samples: int, seeds: Mapping[str, int | None]) -> float:
        """Return the seconds of these numbers of runs, and of the baseline with the largest of them.

        A training that arms share counts once.
        """
        base = self.costs[self.baseline]
        numbers = {arm: math.inf if number is None else float(number) for arm, number in seeds.items()}
        shared = base.training + base.at(samples)
        own = {
            arm: cost.at(samples) + (0.0 if cost.run == base.run else cost.training) for arm, cost in self.costs.items()
        }
        return sum(number * own[arm] for arm, number in numbers.items()) + max(numbers.values()) * shared


def cheapest(seconds: Mapping[int, float]) -> int | None:
    """Return the number of samples with the lowest cost; None where no cost is finite."""
    known = {samples: cost for samples, cost in seconds.items() if math.isfinite(cost)}
    return min(known, key=lambda samples: known[samples]) if known else None
