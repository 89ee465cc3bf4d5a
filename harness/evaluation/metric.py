"""Base classes of metrics: a sample metric summarises generated and real samples and compares the two summaries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import ConfigError, UserError
from harness.core.registry import Component, find, names
from harness.core.rng import stream
from harness.data.base import Data, Kind
from harness.evaluation.extractors import VALUES, Extractor
from harness.flow.formulation import Formulation

Summary = Mapping[str, np.ndarray]
MOMENTS = "fid"
"""Summary that a file of statistics can replace: the features' mean `mu` [D] and covariance `sigma` [D, D]."""


@dataclass(frozen=True)
class Comparison:
    """Facts of an evaluation that metrics check before there are samples."""

    data: Data
    extractor: Extractor | None
    """None if the decoded samples themselves are compared."""
    samples: int
    reference: int
    """Number of training samples in the reference."""
    statistics: bool = False
    """Whether a file of statistics replaces the reference samples."""


class Estimate(NamedTuple):
    """A metric's value, and its 95 % interval if the metric gives one."""

    value: float
    interval: tuple[float, float] | None = None


class Metric(Component, family="metric"):
    """Base of all metrics: a `SampleMetric` scores samples, a `FlowMetric` measures the flow itself."""

    label: ClassVar[str] = ""
    """The name as people write it, like `held-out FID`; made from `name` for a class that sets none."""
    lower_is_better: ClassVar[bool]
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Kinds of data that it supports; empty for all."""
    needs_classes: ClassVar[bool] = False
    """Whether it reads the requested class of each sample."""

    def __init_subclass__(cls, **kwargs: Any):
        if kwargs.get("name") and not {"SampleMetric", "FlowMetric"} & {base.__name__ for base in cls.__mro__}:
            raise UserError(f"{cls.__name__}: derive it from SampleMetric or FlowMetric, not from Metric itself.")
        super().__init_subclass__(**kwargs)
        if kwargs.get("name") and "label" not in vars(cls):
            cls.label = _words(cls.name)

    def check(self, formulation: Formulation) -> None:
        """Raise `ConfigError` if the metric is undefined for networks trained with this formulation.

        Called first, before the data are read.
        """
        if self.needs_classes and not formulation.conditional:
            reason = f"{self.name} needs a class-conditional network"
            raise ConfigError("", f"{reason}. Set objective.label_dropout, like 0.1.")

    def check_data(self, given: Comparison) -> None:
        """Raise `ConfigError` if the metric is undefined for these data, this extractor, or so few samples.

        Called after the data are read. A subclass with further checks calls this method first.
        """
        kind = given.data.kind
        if self.kinds and kind not in self.kinds:
            allowed = " and ".join(self.kinds)
            raise ConfigError("", f"{self.name} is for {allowed}, and these data are {kind}. Choose another.")
        if self.needs_classes and given.data.classes is None:
            raise ConfigError("", f"{self.name} needs classes, and these data have none. Choose another.")


class SampleMetric(Metric):
    """Base of distances and scores of generated samples, computed from their features or their values."""

    reads: ClassVar[Literal["features", "values", "either", "logits"]] = "values"
    """Input: an extractor's features, the decoded samples themselves (`evaluate.extractor = values`), either of these,
    or the logits of the extractor's classifier."""
    reference_is_best: ClassVar[bool] = True
    """Whether the reference itself has the best possible score. False if samples can look more typical than real ones,
    or if copies score badly."""
    floor_power: ClassVar[int] = 0
    """Power p in value^p = excess^p + floor^p. The floor is the score of finitely many real samples; the excess is the
    score of infinitely many samples of the model. 1: the value has a bias. 2: its square has a bias, for example the
    root of a distance that counts the pair of each sample with itself. 0: no floor."""
    against: ClassVar[Literal["training", "held_out"]] = "training"
    """Real samples that are its reference: the chosen training samples (`reference_rows`), or all held-out samples."""
    summary: ClassVar[str] = "whole"
    """Name of the summary that `summarise` returns; metrics with the same name share the reference's summary."""

    @property
    def of_reference(self) -> SampleMetric:
        """Metric whose `summarise` summarises the reference."""
        return self

    @property
    def reference_name(self) -> str:
        """Name under which the reference's summary is cached."""
        own = self.of_reference.summary
        return own if self.against == "training" else f"{self.against}-{own}"

    @property
    def fewest(self) -> int:
        """Smallest number of samples, and of reference samples, for which the metric is defined."""
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
        """Raise `ConfigError` if the extractor, or its absence, does not give the metric's input."""
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
            raise ConfigError("", f"{reason}. Choose {remedy} or another metric.")

    def held_bytes(self, samples: int, reference: int) -> int:
        """Return a lower bound on the bytes that `compare` needs in addition to both summaries."""
        return 0

    def short_of_samples(self, given: Comparison) -> str | None:
        """Return a warning if the value for so few samples says little; None if there are enough."""
        return None

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        """Summarise a set: features (or values) float64 [N, ...], classes int64 [N]. Default: keep all of it."""
        whole = {"features": features.float().numpy()}
        return whole if classes is None else {**whole, "classes": classes.numpy()}

    @abstractmethod
    def compare(self, samples: Summary, reference: Summary) -> float:
        """Return the metric's value from two summaries."""

    def estimate(self, samples: Summary, reference: Summary) -> Estimate:
        """Return the metric's value from two summaries, with an interval if the metric gives one."""
        return Estimate(self.compare(samples, reference))


def label_of(name: str) -> str:
    """Return the label of a metric, given its `name`.

    A committed table may name a metric of a plugin that is not loaded: its label is made from the name.
    """
    return find("metric", name).label if name in names("metric") else _words(name)  # type: ignore[attr-defined]


def _words(name: str) -> str:
    return name.replace("_", " ")


def reference_rows(data: Data, number: int) -> Tensor:
    """Return indices of the reference's training samples, int64 [number], drawn with a fixed seed and sorted."""
    return torch.randperm(len(data.train), generator=stream(0, "reference"))[:number].sort().values


def standardised(samples: Summary, reference: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Standardise every feature by the reference's mean and sd; return both sets, float64 [N, D] and [M, D].

    A feature that is constant in the reference is centred, not scaled.
    """
    x, y = (
        np.asarray(kept["features"], dtype=np.float64).reshape(len(kept["features"]), -1)
        for kept in (samples, reference)
    )
    mean = y.mean(0)
    std = y.std(0)
    std[std == 0] = 1
    return (x - mean) / std, (y - mean) / std
