"""What every metric is: samples and real ones, each summarised once, to a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import ConfigError, UserError
from harness.core.registry import Component
from harness.core.rng import stream
from harness.data.base import Data, Kind
from harness.evaluation.extractors import VALUES, Extractor
from harness.flow.formulation import Formulation

Summary = Mapping[str, np.ndarray]
MOMENTS = "fid"
"""The summary that a file of statistics can stand for: the features' mean `mu` [D] and covariance `sigma` [D, D]."""


@dataclass(frozen=True)
class Comparison:
    """What an evaluation has for its metrics to read, known before there are samples."""

    data: Data
    extractor: Extractor | None
    """None where the decoded samples themselves are compared."""
    samples: int
    reference: int
    """How many of the training samples they are compared with."""
    statistics: bool = False
    """Whether a file of statistics stands for the reference's samples."""


class Estimate(NamedTuple):
    """A metric's value, and the 95 % interval where the metric gives one."""

    value: float
    interval: tuple[float, float] | None = None


class Metric(Component, family="metric"):
    """A number that says something of a trained flow; each is one of samples or one of the flow itself."""

    lower_is_better: ClassVar[bool]
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Kinds of data that it is for; empty for all."""
    needs_classes: ClassVar[bool] = False
    """Whether it reads the class that each sample was asked to be of."""

    def __init_subclass__(cls, **kwargs: Any):
        if kwargs.get("name") and not {"SampleMetric", "FlowMetric"} & {base.__name__ for base in cls.__mro__}:
            raise UserError(f"{cls.__name__}: derive it from SampleMetric or FlowMetric, not from Metric itself.")
        super().__init_subclass__(**kwargs)

    def check(self, formulation: Formulation) -> None:
        """`ConfigError` when it has no value for networks that are trained by a formulation.

        It is asked first, before the data are read.
        """
        if self.needs_classes and not formulation.conditional:
            reason = f"{self.name} needs a network that is told classes"
            raise ConfigError("", f"{reason}. Set objective.label_dropout, like 0.1.")

    def check_data(self, given: Comparison) -> None:
        """`ConfigError` when it has no value for these data, for what the extractor gives, or for so few samples.

        It is asked once the data are read. A metric with more to ask calls this first.
        """
        kind = given.data.kind
        if self.kinds and kind not in self.kinds:
            allowed = " and ".join(self.kinds)
            raise ConfigError("", f"{self.name} is for {allowed}, and these data are {kind}. Choose another.")
        if self.needs_classes and given.data.classes is None:
            raise ConfigError("", f"{self.name} needs classes, and these data have none. Choose another.")


class SampleMetric(Metric):
    """A distance or score of generated samples, computed from their features or from the samples' own values."""

    reads: ClassVar[Literal["features", "values", "either", "logits"]] = "values"
    """An extractor's features, the decoded samples themselves (`evaluate.extractor = values`), either of the two, or
    the logits of the extractor's classifier."""
    reference_is_best: ClassVar[bool] = True
    """Whether nothing scores better than the reference: not so where a set can be surer, or must not be a copy."""
    floor_power: ClassVar[int] = 0
    """The power p of value^p = excess^p + floor^p: what finitely many real samples score beside real ones adds to what
    infinitely many of a model would score. 1 for a bias of the value, 2 for one of its square, as of the root of a
    distance that counts each sample's pair with itself; 0 where there is no floor."""
    against: ClassVar[Literal["training", "held_out"]] = "training"
    """The real samples that are its reference: those of the training that are compared with, or all held-out ones."""
    summary: ClassVar[str] = "whole"
    """Name of what `summarise` returns; metrics that share it share what is kept of the reference."""

    @property
    def of_reference(self) -> SampleMetric:
        """The metric that summarises the reference for this one."""
        return self

    @property
    def reference_name(self) -> str:
        """What its summary of the reference is kept as."""
        own = self.of_reference.summary
        return own if self.against == "training" else f"{self.against}-{own}"

    @property
    def fewest(self) -> int:
        """The fewest samples, and the fewest of the reference, that it has a value for."""
        return 2

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if self.against == "held_out":
            given = replace(given, reference=len(given.data.held_out), statistics=False)
        if given.statistics and self.reads != "logits" and self.of_reference.summary != MOMENTS:
            reason = "needs the reference's samples, and evaluate.reference is a file of statistics"
            raise ConfigError("", f"{self.name} {reason}. Leave it out.")
        self._check_read(given.extractor)
        if (number := min(given.samples, given.reference)) < self.fewest:
            real = "samples of the reference" if self.against == "training" else "held-out samples"
            which = "samples" if number == given.samples else real
            raise ConfigError("", f"{self.name} has no value for {number} {which}. Take {self.fewest} or more.")

    def _check_read(self, extractor: Extractor | None) -> None:
        """`ConfigError` when an extractor, or none, does not give what it reads."""
        if self.reads == "logits":
            if extractor is not None and extractor.gives_logits():
                return
            name = VALUES if extractor is None else extractor.name
            lacks = (extractor or Extractor).without_logits
            raise ConfigError("", f"{self.name} reads logits, and evaluate.extractor={name} {lacks}. Leave it out.")
        read = "values" if extractor is None else "features"
        if self.reads not in (read, "either"):
            remedy = "evaluate.extractor=values" if self.reads == "values" else "an extractor"
            reason = f"{self.name} reads {self.reads}, and evaluate.extractor gives {read}"
            raise ConfigError("", f"{reason}. Choose {remedy} or another.")

    def held_bytes(self, samples: int, reference: int) -> int:
        """What comparing so many samples keeps in memory at least, beside what was kept of both sets."""
        return 0

    def short_of_samples(self, given: Comparison) -> str | None:
        """A warning where it has a value for so few samples that says little; None where there are enough."""
        return None

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        """What must be kept of a set: features (or values) float64 [N, ...] and classes int64 [N]; here all of it."""
        whole = {"features": features.float().numpy()}
        return whole if classes is None else {**whole, "classes": classes.numpy()}

    @abstractmethod
    def compare(self, samples: Summary, reference: Summary) -> float:
        """The metric's value from two summaries."""

    def estimate(self, samples: Summary, reference: Summary) -> Estimate:
        """The same, with an interval where there is one."""
        return Estimate(self.compare(samples, reference))


def reference_rows(data: Data, number: int) -> Tensor:
    """Which training samples are compared with, int64 [number]: drawn by a fixed seed, in the order of the data."""
    return torch.randperm(len(data.train), generator=stream(0, "reference"))[:number].sort().values


def standardised(samples: Summary, reference: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as float64 [N, D] and [M, D], each feature in units of the reference's sd and from its mean.

    A feature that is constant in the reference keeps its own units.
    """
    x, y = (
        np.asarray(kept["features"], dtype=np.float64).reshape(len(kept["features"]), -1)
        for kept in (samples, reference)
    )
    mean = y.mean(0)
    std = y.std(0)
    std[std == 0] = 1
    return (x - mean) / std, (y - mean) / std
