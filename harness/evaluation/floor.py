"""What a perfect model would score: real samples that the reference does not hold, in sets as large as the samples.

A distance between finite sets is above 0 for two sets of one distribution too. Beside such a floor the ratio of two
values says little; the excess over it is what infinitely many samples would score.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import FiniteFloat
from torch import Tensor
from typing_extensions import TypedDict

from harness.core.config import override
from harness.core.files import results_folder, write_json
from harness.core.rng import stream
from harness.evaluation.judge import Judge, SampleBatch
from harness.evaluation.metric import SampleMetric, reference_rows
from harness.evaluation.protocol import num_reference
from harness.evaluation.yardsticks import kept

SETS = 5
"""At most so many are scored."""
FEW = 3
"""Fewer do not tell their own sd."""


class Scored(TypedDict):
    """What sets scored, as the file holds it."""

    fresh: list[FiniteFloat]
    resampled: list[FiniteFloat]
    """Where the fresh ones are too `FEW`."""


@dataclass(frozen=True)
class Floor:
    """Of a metric, for one number of samples against one reference."""

    kind: Literal["fresh", "resampled"]
    """Real samples outside the reference; or, where there are too few, training samples drawn with replacement."""
    samples: int
    power: int
    """The metric's `floor_power`."""
    values: tuple[float, ...]
    """Of the sets, disjoint if they are fresh."""
    sd: float
    """Of one set's value, to this power."""

    @property
    def value(self) -> float:
        """Mean over the sets, in this power."""
        return self.moved(0)

    @property
    def error(self) -> float:
        """Standard error of the mean of values to this power."""
        return self.sd / len(self.values) ** 0.5

    def moved(self, errors: float) -> float:
        """The floor where that mean lies so many standard errors higher; 0 where nothing is left of it."""
        mean = statistics.fmean(value**self.power for value in self.values)
        return max(0.0, mean + errors * self.error) ** (1 / self.power)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "value": self.value, "lower": self.moved(-1), "higher": self.moved(1)}


def judge_floor(judge: Judge, metric: str, samples: int) -> Floor | None:
    """The floor of one of a judge's metrics by so many samples, computed once and kept; None where it has none."""
    own = next((m for m in judge.metrics if m.name == metric), None)
    if own is None or not own.floor_power:
        return None
    path = results_folder() / "local" / "references" / f"{judge.protocol.digest}-{samples}-floor.json"
    known = kept(path, dict[str, Scored])
    scored = known.get(metric, {"fresh": [], "resampled": []})
    if len(scored["fresh"]) < FEW and len(scored["resampled"]) < SETS:
        scored = _scored(judge, own, samples)
        write_json(path, known | {metric: scored})
    fresh = scored["fresh"]
    power = own.floor_power
    sd = statistics.stdev(value**power for value in (fresh if len(fresh) >= FEW else scored["resampled"]))
    return Floor("fresh" if fresh else "resampled", samples, power, tuple(fresh or scored["resampled"]), sd)


def _scored(judge: Judge, metric: SampleMetric, samples: int) -> Scored:
    """By one metric alone."""
    config = override(judge.config, {"metrics": [metric]})
    alone = Judge(config, judge.data, judge.device, judge.show_progress, judge.stop)
    fresh = [_score(alone, rows, samples) for rows in itertools.islice(_fresh(alone, metric, samples), SETS)]
    again = _resampled(alone, samples) if len(fresh) < FEW else ()
    return {"fresh": fresh, "resampled": [_score(alone, rows, samples) for rows in again]}


def _fresh(judge: Judge, metric: SampleMetric, samples: int) -> Iterator[Iterator[SampleBatch]]:
    """Disjoint sets of real samples outside the reference: training samples first, then held-out ones.

    Published statistics may be of all training samples.
    """
    data = judge.data
    if metric.against == "held_out":
        for rows in _sets(torch.arange(len(data.train)), samples):
            yield judge.training(rows)
        return
    if not judge.config.reference:
        outside = torch.ones(len(data.train), dtype=torch.bool)
        outside[reference_rows(data, num_reference(judge.config, data))] = False
        for rows in _sets(outside.nonzero().flatten(), samples):
            yield judge.training(rows)
    for rows in _sets(torch.arange(len(data.held_out)), samples):
        yield judge.held_out_rows(rows)


def _sets(rows: Tensor, samples: int) -> list[Tensor]:
    """As many disjoint sets of so many rows as there are, drawn at random."""
    mixed = rows[torch.randperm(len(rows), generator=stream(0, "floor"))]
    return [part.sort().values for part in mixed.split(samples) if len(part) == samples]


def _resampled(judge: Judge, samples: int) -> Iterator[Iterator[SampleBatch]]:
    """Sets of training samples drawn with replacement."""
    for i in range(SETS):
        rows = torch.randint(len(judge.data.train), (samples,), generator=stream(0, "floor", i))
        yield judge.training(rows)


def _score(judge: Judge, batches: Iterable[SampleBatch], samples: int) -> float:
    """By the judge's only metric."""
    with judge.showing(batches, "score of real samples", samples) as shown:
        (value,) = judge(shown).values()
    return value
