"""What every metric is: samples and real ones, each summarised once, to a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import ConfigError
from harness.core.registry import Component
from harness.core.rng import stream
from harness.data.base import Data, Kind
from harness.flow.formulation import Formulation

Summary = Mapping[str, np.ndarray]


class Estimate(NamedTuple):
    """A metric's value, and the 95 % interval where the metric gives one."""

    value: float
    interval: tuple[float, float] | None = None


class Metric(Component, family="metric"):
    """A distance or score of generated samples, computed from their features or from the samples' own values."""

    lower_is_better: ClassVar[bool]
    reads: ClassVar[Literal["features", "values", "either", "logits", "flow"]] = "values"
    """An extractor's features, the decoded samples themselves (`evaluate.extractor = values`), whichever of them there is, the
    logits of the extractor's classifier, or the flow that the samples come along."""
    reference_is_best: ClassVar[bool] = True
    """Whether nothing scores better than the reference itself: not so where a set can be surer, or must not be a copy."""
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Kinds of data that it is for; empty for all."""
    needs_classes: ClassVar[bool] = False
    """Whether it reads the class that each sample was asked to be of."""
    summary: ClassVar[str] = "whole"
    """Name of what `summarise` returns; metrics that share it share what is kept of the reference."""

    @property
    def of_reference(self) -> Self | Metric:
        """The metric that summarises the reference for this one."""
        return self

    @property
    def fewest(self) -> int:
        """The fewest samples, and the fewest of the reference, that it has a value for."""
        return 2

    def check(self, formulation: Formulation) -> None:
        """`ConfigError` when what is trained by this formulation cannot be judged so."""

    def check_data(self, data: Data, samples: int, reference: int) -> None:
        """`ConfigError` when so many samples cannot be compared with so many of the reference's, or not on these data."""
        if (given := min(samples, reference)) < self.fewest:
            which = "samples" if given == samples else "samples of the reference"
            raise ConfigError("", f"{self.name} has no value for {given} {which}. Take {self.fewest} or more.")

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        """What must be kept of a set: features (or values) float64 [N, ...] and classes int64 [N]; here all of it."""
        whole = {"features": features.float().numpy()}
        return whole if classes is None else {**whole, "classes": classes.numpy()}

    def compare(self, samples: Summary, reference: Summary) -> float:
        """The metric's value from two summaries."""
        raise NotImplementedError

    def estimate(self, samples: Summary, reference: Summary) -> Estimate:
        """The same, with an interval where there is one."""
        return Estimate(self.compare(samples, reference))


def reference_rows(data: Data, number: int) -> Tensor:
    """Which training samples are compared with, int64 [number]: drawn by a fixed seed, in the order that they are stored in."""
    return torch.randperm(len(data.train), generator=stream(0, "reference"))[:number].sort().values


def standardised(samples: Summary, reference: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as float64 [N, D] and [M, D], each feature in units of the reference's sd and from its mean.

    A feature that is constant in the reference keeps its own units.
    """
    x, y = (
        np.asarray(part["features"], dtype=np.float64).reshape(len(part["features"]), -1)
        for part in (samples, reference)
    )
    mean, std = y.mean(0), y.std(0)
    std[std == 0] = 1
    return (x - mean) / std, (y - mean) / std
