"""Claims of papers: orderings, ties and trends over rows of a published table, stated so that seeds can judge them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.errors import UserError

CALLS = "calls"
"""The metric that stands for the number of network calls per sample; fewer are better."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Values of a small study, for rows of a published table."""

    study: str
    """Name of the study that measures them."""
    arms: Mapping[str, str]
    """{row: arm of the study}; the other rows are compared with the first. A row need not be a published one."""
    nfe: int
    """0 for an adaptive solver."""
    metric: str = ""
    """A metric of the study, or `CALLS`; empty: the first one of the scale."""
    published: str = ""
    """Column of the published values that stand beside these; empty if the paper gives none."""
    evaluation: str = ""
    """For the scale of the paper: key of the evaluation in the table."""
    paper_nfe: int | None = None
    """For the scale of the paper: NFE of the published values; None: `nfe`."""


@dataclass(frozen=True)
class Relation(ABC):
    """A relation between rows, in one column of the table."""

    column: str
    rows: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.rows, str) or len(self.rows) < 2 or len({*self.rows}) < len(self.rows):
            raise UserError(f"{type(self).__name__}: {self.rows!r} must be a list of two or more different rows.")

    @property
    @abstractmethod
    def contrasts(self) -> list[tuple[str, ...]]:
        """The rows of each comparison that must agree with the relation."""


@dataclass(frozen=True)
class Ordering(Relation):
    """Each row is better than the next."""

    @property
    def contrasts(self) -> list[tuple[str, ...]]:
        """Each row with the next."""
        return list(itertools.pairwise(self.rows))


@dataclass(frozen=True)
class Tie(Relation):
    """Each row differs from the last by less than the smallest difference of interest."""

    @property
    def contrasts(self) -> list[tuple[str, ...]]:
        """Each row with the last."""
        return [(row, self.rows[-1]) for row in self.rows[:-1]]


@dataclass(frozen=True)
class Trend(Relation):
    """The metric improves from row to row on average: the slope of its logarithm over the rows' places."""

    @property
    def contrasts(self) -> list[tuple[str, ...]]:
        """All rows at once."""
        return [tuple(self.rows)]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, and the prediction for a small scale."""

    says: str
    """The claim in one sentence."""
    parts: Sequence[Relation]
    """The claim holds if all parts hold, and does not hold if one part does not."""
    expected: Literal["holds", "does not hold"] | None
    """The prediction for the table's first scale; None at its other scales."""
    because: str
    """Reason of the prediction: theory, or the paper's size of effect."""
    smallest_difference: float = 0.1
    """Relative difference below which two rows count as equally good."""
    after: bool = False
    """Whether the claim was stated after the runs that judge it."""

    @property
    def stated(self) -> Literal["before", "after", "no"]:
        """When the prediction was stated: before the runs, after them, or not at all."""
        return "no" if self.expected is None else "after" if self.after else "before"

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(f"'{self.says}': no parts. Name an Ordering, a Tie or a Trend.")
        if not 0 < self.smallest_difference < 1:
            raise UserError(f"smallest_difference: {self.smallest_difference} is outside (0, 1). 0.05 means 5 %.")
