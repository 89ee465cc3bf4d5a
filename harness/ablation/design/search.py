"""A search: which settings of a scale give the best samples, drawn by Optuna and given up where they fall behind.

The best is then an arm of an ordinary study beside the scale's own settings, on seeds that the search never saw. A
search against a cost has no best, but a front: the settings of which none are better and cheaper.
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
"""Its arms beside the baseline where the search has a front: both ends, and `costs.knee` between them."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search file assigns to `SEARCH`."""

    question: str
    spaces: Mapping[str, Mapping[str, Any]]
    """{scale: {path: what is drawn for it}}: a scale's length and network decide which ranges are sensible."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Paths and values that every trial has beside what is drawn."""
    metric: str | None = None
    """What is searched for; None is the first of the scale's `evaluate.metrics`."""
    nfe: Index = 32
    """The NFE at which it is measured."""
    samples: int = 5000
    """At most so many judge a trial, of those that the scale has at the NFE; the comparison takes all of these."""
    against: Against | None = None
    """What it costs, less being better: one of `costs.COSTS`. A search then has two objectives."""
    pruner: Literal["median", "hyperband"] | None = "median"
    """What gives trials up that fall behind; None trains each to its end, as a search `against` a cost must."""
    rungs: int = 4
    """The pruner looks at a trial after each such part of its steps; Hyperband, which takes a power of two, after one
    part, two, four, ..."""
    trials: int = 24
    seed: int = 1000
    """The training seed of every trial, and Optuna's; none that is reported."""
    smallest_difference: float = 0.05
    """Relative difference below which the winner is as good as the scale's own settings."""
    looks: Sequence[int] = (5, 10, 20, 40)
    """Reporting seeds, counted from 0, at each look of the comparison."""
    name: str = ""
    """The file's name; filled in on loading."""

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
        """`UserError` where the pruner has nothing to go by, or nothing to give up."""
        if self.against and self.pruner:
            reason = f"'{self.pruner}' goes by one objective, and against='{self.against}' makes two"
            raise UserError(f"pruner: {reason}. Write pruner=None.")
        if self.pruner and self.rungs < 2:
            reason = f"{self.rungs} is less than 2, and nothing is left to be given up at the end"
            raise UserError(f"rungs: {reason}. Take two or more, or write pruner=None.")
        if self.pruner == "hyperband" and self.rungs.bit_count() != 1:
            reason = f"{self.rungs} is no power of two, and Hyperband halves after 1, 2, 4, ... such parts of the steps"
            raise UserError(f"rungs: {reason}. Take 2, 4, 8 or 16.")
        if not self.pruner and self.rungs != Search.rungs:
            raise UserError("rungs: without a pruner nobody looks at a trial before its end. Leave them out.")

    def comparison(self, winners: Mapping[str, Mapping[str, Any]]) -> Study:
        """The study that compares settings, by the name of their arm, with the scale's own."""
        tuned = {arm: {**self.fixed, **settings} for arm, settings in winners.items()}
        arms: dict[str, Mapping[str, Any]] = {BASELINE: {}, **tuned}
        return Study(
            question=self.question, baseline=BASELINE, arms=arms, metric=self.metric, nfe=self.nfe,
            smallest_difference=self.smallest_difference, looks=self.looks, name=self.name,
        )  # fmt: skip


def load_search(name: str) -> Search:
    """The search of a file in studies/, by its name, or of any file that ends in .py, by its path."""
    return load_declared(name, "SEARCH", Search)
