"""Metrics of image features, computed by torch-fidelity from memory: FID, KID, Inception score, precision, recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from harness.core.config import Count, Range, Repeats
from harness.core.errors import ConfigError
from harness.evaluation.metric import MOMENTS, Comparison, Estimate, SampleMetric, Summary


@dataclass(frozen=True, kw_only=True)
class FID(SampleMetric, name="fid"):
    """Frechet inception distance: Wasserstein-2 between Gaussians fitted to the features."""

    label = "FID"
    source: ClassVar[str] = "Heusel et al. 2017, eq. 6"
    lower_is_better = True
    floor_power = 1
    reads = "features"
    summary = MOMENTS

    def short_of_samples(self, given: Comparison) -> str | None:
        dimensions = given.extractor.dimensions if given.extractor else 0
        if given.samples >= dimensions:
            return None
        return (
            f"{given.samples} samples are fewer than the {dimensions} features: FID is far too high, for real samples "
            "too. The score of resampled training samples shows this bias; more samples lower it."
        )

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(features)

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        return fid_statistics_to_metric(samples, reference, verbose=False)[KEY_METRIC_FID]


@dataclass(frozen=True, kw_only=True)
class HeldOutFID(FID, name="held_out_fid"):
    """FID against all held-out samples.

    Copies of training samples score nearly as well as new real samples; `authenticity` detects copies.
    """

    label = "held-out FID"
    reference_is_best = False
    against = "held_out"

    def short_of_samples(self, given: Comparison) -> str | None:
        return super().short_of_samples(replace(given, samples=min(given.samples, len(given.data.held_out))))


Sums = tuple[int, np.ndarray, np.ndarray]
"""Number of samples in a block, their sum [D] and their sum of outer products [D, D]."""


@dataclass(frozen=True, kw_only=True)
class ExtrapolatedFID(FID, name="fid_infinity"):
    """FID extrapolated to infinitely many samples: 2 FID(n) - FID(n / 2), without the bias of order 1 / n.

    Values from different numbers of samples can be compared. A fixed seed draws halves and blocks, so the order of the
    samples does not matter. The interval is the 95 % jackknife interval over blocks. The bias from a finite reference
    stays.
    """

    label = "FID at infinity"
    source: ClassVar[str] = "Chong & Forsyth 2020, section 4 (extrapolation); Kunsch 1989 (block jackknife)"
    floor_power = 0
    summary = "whole"

    blocks: Annotated[int, Range(4, 100)] = 10
    """Number of blocks for the jackknife, which leaves out each block once; even."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks % 2:
            raise ConfigError("blocks", f"{self.blocks} cannot be halved. Choose an even number.")

    @property
    def of_reference(self) -> SampleMetric:
        return FID()

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if given.samples < (enough := 4 * self.blocks):
            reason = f"{given.samples} samples are too few for {self.blocks} blocks"
            raise ConfigError("", f"{reason}. Take {enough} or more.")

    def short_of_samples(self, given: Comparison) -> str | None:
        dimensions = given.extractor.dimensions if given.extractor else 0
        if given.samples >= 2 * dimensions:
            return None
        return (
            f"{self.label} halves {given.samples} samples, to fewer than the {dimensions} features. There the "
            f"bias does not yet fall as 1 / n, and the value can be far below 0. Take {2 * dimensions} or more."
        )

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        return SampleMetric.summarise(self, features, classes)

    def compare(self, samples: Summary, reference: Summary) -> float:
        return self._extrapolated(self._blocks(samples), reference)

    def estimate(self, samples: Summary, reference: Summary) -> Estimate:
        blocks = self._blocks(samples)
        n = len(blocks)
        value = self._extrapolated(blocks, reference)
        without = np.array([self._extrapolated(blocks[:i] + blocks[i + 1 :], reference) for i in range(n)])
        half = stdtrit(n - 1, 0.975) * np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
        return Estimate(value, (value - half, value + half))

    def _blocks(self, samples: Summary) -> list[Sums]:
        shuffled = np.random.default_rng(0).permutation(samples["features"].astype(np.float64))
        return [(len(block), block.sum(0), block.T @ block) for block in np.array_split(shuffled, self.blocks)]

    def _extrapolated(self, blocks: Sequence[Sums], reference: Summary) -> float:
        half = len(blocks) // 2
        of_halves = (self._of(blocks[:half], reference) + self._of(blocks[half:], reference)) / 2
        return 2 * self._of(blocks, reference) - of_halves

    def _of(self, blocks: Sequence[Sums], reference: Summary) -> float:
        n, total, squares = (sum(each[1:], each[0]) for each in zip(*blocks, strict=True))
        mean = total / n
        return super().compare({"mu": mean, "sigma": (squares - n * np.outer(mean, mean)) / (n - 1)}, reference)


@dataclass(frozen=True, kw_only=True)
class LowestFID(FID, name="lowest_fid"):
    """Lowest FID of several equal sets of samples, which Karras et al. report.

    Chance makes it lower than the FID of one set: compare it only with the lowest of as many sets of the same size.
    A fixed seed draws the sets, so the order of the samples does not matter.
    """

    label = "lowest FID of several sets"
    source: ClassVar[str] = "Karras et al. 2022, table 2 (the minimum of three sets of 50,000)"
    floor_power = 0
    summary = "whole"

    sets: Annotated[int, Range(2, 100)] = 3
    """Number of sets; `evaluate.num_samples` counts the samples of all."""

    @property
    def of_reference(self) -> SampleMetric:
        return FID()

    @property
    def fewest(self) -> int:
        return 2 * self.sets

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if rest := given.samples % self.sets:
            reason = f"{given.samples} samples cannot be divided into {self.sets} equal sets"
            raise ConfigError("", f"{reason}. Take {given.samples - rest}, or another number of sets.")

    def short_of_samples(self, given: Comparison) -> str | None:
        return super().short_of_samples(replace(given, samples=given.samples // self.sets))

    def summarise(self, features: Tensor, classes: Tensor | None) -> dict[str, np.ndarray]:
        return SampleMetric.summarise(self, features, classes)

    def compare(self, samples: Summary, reference: Summary) -> float:
        shuffled = np.random.default_rng(0).permutation(samples["features"].astype(np.float64))
        sets = torch.from_numpy(shuffled).chunk(self.sets)
        return min(FID.compare(self, FID.summarise(self, each, None), reference) for each in sets)


@dataclass(frozen=True, kw_only=True)
class InceptionScore(SampleMetric, name="isc"):
    """Inception score exp(E KL(p(class | x) || p(class))): high for samples that are clear and diverse."""

    label = "inception score"
    source: ClassVar[str] = "Salimans et al. 2016, section 4"
    lower_is_better = False
    reads = "logits"
    reference_is_best = False
    summary = "logits"

    splits: Count = 10
    """Number of random subsets, drawn with a fixed seed; the value is the mean of their scores."""

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if given.samples < 2 * self.splits:
            reason = f"{given.samples} samples are too few for {self.splits} splits: a single sample always scores 1"
            raise ConfigError("", f"{reason}. Take {2 * self.splits} or more, or fewer splits.")

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        logits = torch.from_numpy(samples["features"])
        return isc_features_to_metric(logits, splits=self.splits)[KEY_METRIC_ISC_MEAN]


@dataclass(frozen=True, kw_only=True)
class KID(SampleMetric, name="kid"):
    """Kernel inception distance: squared MMD with a cubic kernel; unbiased, so it can be negative."""

    label = "KID"
    source: ClassVar[str] = "Binkowski et al. 2018, section 4"
    lower_is_better = True
    reads = "features"

    subsets: Repeats = 100
    """Number of random subsets; the value is the mean over them."""
    subset_size: Annotated[int, Range(2, 10**9, why="no machine gets through a billion")] = 1000
    """Samples per subset; at most all samples are used."""

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        x, y = (torch.from_numpy(kept["features"]).double() for kept in (samples, reference))
        size = min(self.subset_size, len(x), len(y))
        found = kid_features_to_metric(x, y, kid_subsets=self.subsets, kid_subset_size=size, rng_seed=0, verbose=False)
        return found[KEY_METRIC_KID_MEAN]


@dataclass(frozen=True, kw_only=True)
class NeighbourShare(SampleMetric):
    """Base of precision and recall, which use nearest neighbours in feature space."""

    lower_is_better = False
    reads = "features"
    key: ClassVar[str]

    neighbours: Count = 3
    """k: the ball of a sample reaches to its k-th nearest neighbour. Each of the two sets needs more than k samples."""

    @property
    def fewest(self) -> int:
        return self.neighbours + 1

    def compare(self, samples: Summary, reference: Summary) -> float:
        from torch_fidelity.metric_prc import prc_features_to_metric

        x, y = (torch.from_numpy(kept["features"]) for kept in (samples, reference))
        found = prc_features_to_metric(x, y, prc_neighborhood=self.neighbours, save_cpu_ram=True, verbose=False)
        return found[self.key]


@dataclass(frozen=True, kw_only=True)
class Precision(NeighbourShare, name="precision"):
    """Share of generated samples inside the ball of at least one real sample: fidelity."""

    source: ClassVar[str] = "Kynkaanniemi et al. 2019, eq. 3"
    key = "precision"


@dataclass(frozen=True, kw_only=True)
class Recall(NeighbourShare, name="recall"):
    """Share of real samples inside the ball of at least one generated sample: diversity."""

    source: ClassVar[str] = "Kynkaanniemi et al. 2019, eq. 3"
    key = "recall"
