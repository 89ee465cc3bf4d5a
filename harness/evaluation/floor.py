"""Score of a perfect model (the floor): real samples outside the reference, in sets as large as the generated set.

A distance between two finite sets is above 0 even if both come from one distribution. Near this floor, the ratio of two
values says little. The excess over the floor is the score of infinitely many samples.
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
"""Largest number of sets that are scored."""
FEW = 3
"""Smallest number of fresh sets that gives a standard deviation."""


class Scored(TypedDict):
    """Scores of the sets of real samples, in the format of the cache file."""

    fresh: list[FiniteFloat]
    resampled: list[FiniteFloat]
    """Empty if there are at least `FEW` fresh scores."""


@dataclass(frozen=True)
class Floor:
    """Floor of a metric, for one number of samples and one reference."""

    kind: Literal["fresh", "resampled"]
    """fresh: real samples outside the reference; resampled: training samples with replacement, if those are too few."""
    samples: int
    power: int
    """The metric's `floor_power`."""
    values: tuple[float, ...]
    """One value per set; fresh sets are disjoint."""
    sd: float
    """Standard deviation of value^power over sets."""

    @property
    def value(self) -> float:
        """Power mean of the values over the sets, with exponent `power`."""
        return self.moved(0)

    @property
    def error(self) -> float:
        """Standard error of the mean of value^power."""
        return self.sd / len(self.values) ** 0.5

    def moved(self, errors: float) -> float:
        """Return the floor for a mean of value^power that is `errors` standard errors higher; 0 if it is negative."""
        mean = statistics.fmean(value**self.power for value in self.values)
        return max(0.0, mean + errors * self.error) ** (1 / self.power)

    def plain(self) -> dict[str, Any]:
        """Return a JSON object: the fields, the value, and the value one standard error lower and higher."""
        return {**vars(self), "value": self.value, "lower": self.moved(-1), "higher": self.moved(1)}


def judge_floor(judge: Judge, metric: str, samples: int) -> Floor | None:
    """Return the floor of a judge's metric for this number of samples, cached on disk; None if the metric has none."""
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
    """Score fresh sets by this metric, and resampled sets too if there are fewer than `FEW` fresh ones."""
    config = override(judge.config, {"metrics": [metric]})
    alone = Judge(config, judge.data, judge.device, judge.show_progress, judge.stop)
    fresh = [_score(alone, rows, samples) for rows in itertools.islice(_fresh(alone, metric, samples), SETS)]
    again = _resampled(alone, samples) if len(fresh) < FEW else ()
    return {"fresh": fresh, "resampled": [_score(alone, rows, samples) for rows in again]}


def _fresh(judge: Judge, metric: SampleMetric, samples: int) -> Iterator[Iterator[SampleBatch]]:
    """Yield disjoint sets of real samples outside the reference: training samples first, then held-out ones.

    If a file of published statistics is the reference, use only held-out samples: it may cover all training samples.
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
    """Split rows at random into disjoint sets of exactly `samples` rows; drop the rest."""
    mixed = rows[torch.randperm(len(rows), generator=stream(0, "floor"))]
    return [part.sort().values for part in mixed.split(samples) if len(part) == samples]


def _resampled(judge: Judge, samples: int) -> Iterator[Iterator[SampleBatch]]:
    """Yield `SETS` sets of training samples drawn with replacement."""
    for i in range(SETS):
        rows = torch.randint(len(judge.data.train), (samples,), generator=stream(0, "floor", i))
        yield judge.training(rows)


def _score(judge: Judge, batches: Iterable[SampleBatch], samples: int) -> float:
    """Score one set of real samples by the judge's only metric."""
    with judge.showing(batches, "score of real samples", samples) as shown:
        (value,) = judge(shown).values()
    return value
