"""Search for the settings of a scale with the best samples: Optuna draws them, and a pruner stops poor trials early.

An ordinary study then compares the best settings with the scale's own, on seeds that the search never saw. A search
against a cost has no single best but a Pareto front: settings that no other settings beat in both quality and cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.ablation.design.costs import Against
from harness.ablation.design.declared import require_types
from harness.ablation.design.looks import Looks
from harness.ablation.design.space import require_ranges
from harness.ablation.design.study import Study, load_declared
from harness.core.config import TRIALS, Index
from harness.core.errors import UserError

BASELINE, WINNER = "default", "tuned"
"""The arms of the comparison that follows a search."""
BEST, KNEE, CHEAPEST = "best", "knee", "cheapest"
"""Arms in place of `WINNER` if the search has a front: its two ends, and `costs.knee` between them."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search, as a file in studies/ assigns it to `SEARCH`; wrong values raise `UserError`."""

    question: str
    spaces: Mapping[str, Mapping[str, Any]]
    """{scale: {path: range to draw from}}; sensible ranges depend on a scale's training length and network."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """{path: value} of every trial, in addition to the drawn values."""
    metric: str | None = None
    """Metric to optimise; None is the first of the scale's `evaluate.metrics`."""
    nfe: Index = 32
    """NFE at which the metric is measured."""
    samples: int = 5000
    """Largest number of samples to judge a trial; the comparison uses as many as the scale has at this NFE."""
    against: Against | None = None
    """Cost to minimise as a second objective, one of `costs.COSTS`; None is a search with one objective."""
    pruner: Literal["median", "hyperband"] | None = "median"
    """Pruner that stops poor trials early; None trains every trial to its end, as a search `against` a cost must."""
    rungs: int = 4
    """The steps of a trial are divided into this many equal parts. The median pruner looks at a trial after each part;
    Hyperband after 1, 2, 4, ... parts, and `rungs` is then a power of two."""
    trials: int = 24
    seed: int = 1000
    """Training seed of every trial, and seed of Optuna; it must not be a reporting seed."""
    smallest_difference: float = 0.05
    """Relative difference below which the winner and the scale's own settings count as equally good."""
    looks: Sequence[int] = (5, 10, 20, 40)
    """Reporting seeds, counted from 0, at each look of the comparison."""
    name: str = ""
    """Name of the file, set on loading."""

    def __post_init__(self) -> None:
        require_types(self)
        require_ranges(self.spaces)
        for name in ("samples", "trials"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is less than 1. Take one or more.")
        self._check_pruner()
        looks = Looks.planned(self.looks, "proportional")
        TRIALS.refuse(self.trials, "trials")
        if self.seed < looks.last:
            raise UserError(
                f"seed: {self.seed} is one of the reporting seeds, 0 to {looks.last - 1}. Take another, like 1000."
            )

    def _check_pruner(self) -> None:
        """Raise `UserError` for a pruner that does not fit the objectives or the rungs."""
        if self.against and self.pruner:
            reason = f"'{self.pruner}' needs a single objective, but against='{self.against}' makes two"
            raise UserError(f"pruner: {reason}. Write pruner=None.")
        if self.pruner and self.rungs < 2:
            reason = f"{self.rungs} is less than 2, and the pruner cannot stop a trial at its end"
            raise UserError(f"rungs: {reason}. Take two or more, or write pruner=None.")
        if self.pruner == "hyperband" and self.rungs.bit_count() != 1:
            reason = f"{self.rungs} is not a power of two, but Hyperband prunes after 1, 2, 4, ... parts of the steps"
            raise UserError(f"rungs: {reason}. Take 2, 4, 8 or 16.")
        if not self.pruner and self.rungs != Search.rungs:
            raise UserError("rungs: they have no effect without a pruner. Leave them out.")

    def comparison(self, winners: Mapping[str, Mapping[str, Any]]) -> Study:
        """Return the study that compares the settings of `winners`, {arm: settings}, with the scale's own."""
        tuned = {arm: {**self.fixed, **settings} for arm, settings in winners.items()}
        arms: dict[str, Mapping[str, Any]] = {BASELINE: {}, **tuned}
        return Study(
            question=self.question, baseline=BASELINE, arms=arms, metric=self.metric, nfe=self.nfe,
            smallest_difference=self.smallest_difference, looks=self.looks, name=self.name,
        )  # fmt: skip


def load_search(name: str) -> Search:
    """Load the search of a file in studies/, given by its name, or of any file, given by a path that ends in .py."""
    return load_declared(name, "SEARCH", Search)
