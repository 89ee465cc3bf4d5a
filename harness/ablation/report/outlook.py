"""Tables to read before a study trains: the time and disk that it takes, and the differences that it can show."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.ablation.design.plan import Plan
from harness.ablation.design.simulation import simulate
from harness.ablation.report import verdicts
from harness.ablation.report.grids import Grid
from harness.ablation.report.looks import decided
from harness.ablation.report.outcomes import collect
from harness.ablation.report.spent import Parts, remaining, total
from harness.ablation.report.statistics import MIN_SEEDS
from harness.core.memory import size
from harness.core.progress import duration
from harness.runs.estimate import Spent
from harness.runs.explain import percent
from harness.runs.identity import training_digest

SDS = (0.05, 0.1, 0.2)
"""Sds of log ratios over seeds to show where none is measured; most studies lie between them."""
STUDIES = 1000
"""Number of simulated studies; fewer are simulated for many arms and seeds."""
NUMBERS = 4_000_000
"""About how many random numbers a simulation draws at most."""
LARGEST = 1e6
"""Larger rises are shown as this one."""
UNKNOWN = "not known"


@dataclass(frozen=True)
class Outlook:
    """A plan up to its last look or number of seeds, with the time and disk that its parts take."""

    plan: Plan
    workers: int
    """Number of trials at a time."""
    measured: Parts
    """Time and disk of finished trials."""
    tried: Parts
    """Time and disk estimated from small trials."""

    @functools.cached_property
    def _left(self) -> dict[tuple[str, int], dict[str, Spent]]:
        return remaining(self.plan, self.measured.or_else(self.tried))

    def until(self, now: Plan) -> Spent:
        """Return the seconds and bytes of the open trials of `now`, the plan at an earlier look; NaN where unknown."""
        left = total(self._left[trial] for trial in now.trials() if trial in self._left)
        return left._replace(seconds=left.seconds / self.workers)

    def looks(self) -> Grid:
        """Return the table of each look's trials, time and disk, while all arms are open."""
        header = ["look", "seeds", "trials", "ended", "left", "level", "time", "disk"]
        last = len(self.plan.seeds)
        numbers = [n for n in self.plan.looks.seeds if n < last] + [last]
        return Grid("Looks, while every arm is open", header, [self._look(n) for n in numbers])

    def _look(self, seeds: int) -> list[str]:
        plan = self.plan.up_to(seeds)
        looks = plan.looks
        name, level = "none", ""
        if seeds in looks.seeds:
            name = f"{looks.within(seeds)} of {len(looks.seeds)}"
            level = percent(looks.level(looks.within(seeds), max(1, len(plan.tested))))
        now = decided(plan)
        trials = plan.trials()
        ended = [trial for trial in trials if trial not in self._left]
        left = [trial for trial in now.trials() if trial in self._left]
        spent = self.until(now)
        counts = len(trials), len(ended), len(left)
        return [name, str(seeds), *map(str, counts), level, _seconds(spent), _size([spent])]

    def arms(self, shares: Mapping[str, float]) -> Grid:
        """Return the table of each arm's and teacher's time and disk, with the effective `shares` of the batches."""
        header = ["arm", "share", "training", "evaluation", "disk", "from"]
        first: dict[str, str] = {}
        known = self.measured.or_else(self.tried)
        rows = []
        for arm, config in self.plan.arms.items():
            digest = training_digest(config)
            owner = first.setdefault(digest, arm)
            training = known.trainings.get(digest)
            evaluation = known.evaluations.get(arm)
            told = _seconds(training) if owner == arm else f"shared with {owner}"
            disk = _size([training if owner == arm else Spent(0, 0), evaluation])
            source = self._source(digest in self.measured.trainings, arm in self.measured.evaluations)
            source = UNKNOWN if training is None or evaluation is None else source
            rows.append([arm, percent(shares[arm]), told, _seconds(evaluation), disk, source])
        return Grid("A trial of each arm", header, [*rows, *self._teachers(first)])

    def _teachers(self, arms: Mapping[str, str]) -> list[list[str]]:
        """Return a row for each flow that is only a teacher, not the training of an arm."""
        flows = {
            training_digest(flow): f"{flow.title}, for {arm}"
            for arm, config in reversed(self.plan.arms.items())
            for flow in config.flows[:-1]
        }
        rows = []
        for digest in [digest for digest in flows if digest not in arms]:
            spent = self.measured.or_else(self.tried).trainings.get(digest)
            source = UNKNOWN if spent is None else self._source(digest in self.measured.trainings, True)
            rows.append([flows[digest], "", _seconds(spent), "", _size([spent]), source])
        return rows

    @staticmethod
    def _source(trained: bool, judged: bool) -> str:
        """Return the source of a trial's time, given whether its training and its evaluation were measured."""
        if trained:
            return "finished trials" if judged else "finished trainings, small evaluation"
        return "small trial"


def _seconds(spent: Spent | None) -> str:
    return UNKNOWN if spent is None or math.isnan(spent.seconds) else duration(spent.seconds)


def _size(parts: Sequence[Spent | None]) -> str:
    """Return the size of all parts together."""
    known = [part.bytes for part in parts if part is not None]
    return UNKNOWN if len(known) < len(parts) or math.isnan(sum(known)) else size(sum(known))


@dataclass(frozen=True)
class Effects:
    """The differences that the looks of a plan can show, at the sd of each arm's log ratios over seeds."""

    plan: Plan
    sds: dict[str, float]
    """{arm: sd of its log ratios} of the arms with enough measured pairs of trials."""

    @classmethod
    def of(cls, plan: Plan) -> Effects:
        """Read the sds from the runs on disk."""
        standings = verdicts.settle(plan, collect(plan, only_primary=True)).standings
        found = {arm: standing.comparison for arm, standing in standings.items()}
        return cls(plan, {arm: found[arm].sd for arm in plan.tested if found[arm].n >= MIN_SEEDS and found[arm].sd > 0})

    @property
    def unknown(self) -> list[str]:
        """The arms whose sd is not known yet."""
        return [arm for arm in self.plan.tested if arm not in self.sds]

    def grid(self) -> Grid:
        """Return the table of the smallest rise that each look can show, and of the expected trials."""
        plan = self.plan
        header = ["sd", *(f"{n} seeds" for n in plan.looks.seeds)]
        header += ["at 0 %", f"at {100 * plan.smallest_difference:g} %"]
        arms = len(plan.tested)
        rows = [[f"{sd:.3g}, {arm}", *self._shown(sd), "", ""] for arm, sd in self.sds.items()]
        if self.unknown:
            rows += [[f"{sd:g}", *self._shown(sd), *self._trials([sd] * arms)] for sd in SDS]
        else:
            rows.append(["all arms", *[""] * len(plan.looks.seeds), *self._trials(list(self.sds.values()))])
        return Grid("Smallest rise that a look can show, and expected trials", header, rows)

    def _shown(self, sd: float) -> list[str]:
        looks = range(1, len(self.plan.looks.seeds) + 1)
        return [percent(min(self.plan.looks.provable(look, len(self.plan.tested), sd), LARGEST)) for look in looks]

    def _trials(self, sds: list[float]) -> list[str]:
        """Return the expected trials if no arm differs, and if all differ by the smallest difference.

        They are unknown for a study with axes, where an arm may stay open for another contrast.
        """
        plan = self.plan
        if plan.crossing:
            return ["-", "-"]
        studies = max(50, min(STUDIES, NUMBERS // ((1 + len(sds)) * plan.looks.last)))
        apart = (len(plan.contrasts) - len(plan.tested)) * plan.looks.seeds[0]
        expected = [
            simulate(plan.looks, sds, math.log1p(true), plan.smallest_difference, studies).trials.mean()
            for true in (0.0, plan.smallest_difference)
        ]
        return [f"{trials + apart:.0f}" for trials in expected]

    def words(self) -> list[str]:
        """Return the sentences that explain the table."""
        lines = [
            "A look finds a true rise of this size half of the time, if the log ratios of an arm's seeds have this sd.",
            "Expected trials are simulated: at 0 % no arm differs from the baseline, at "
            f"{100 * self.plan.smallest_difference:g} % every arm does.",
        ]
        if self.unknown:
            of = f" of {', '.join(self.unknown)}" if self.sds else ""
            lines.append(
                f"The sd of log ratios{of} is not known yet, because too few pairs of trials have ended: "
                f"{', '.join(f'{sd:g}' for sd in SDS)} are examples."
            )
        return lines
