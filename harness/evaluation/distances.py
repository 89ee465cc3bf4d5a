"""Distances between samples and real ones as vectors, each entry in units of the reference's standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from harness.core.config import Repeats
from harness.core.errors import ConfigError
from harness.evaluation.metric import Comparison, Estimate, SampleMetric, Summary, reference_rows, standardised

SAME = 1e-5
"""Root mean square difference, in the features' standard deviations, up to which two samples are the same: an image's
features differ a little between batches of different sizes."""
SAYS_LITTLE = 0.05
"""A c2st that guessing exceeds says little of samples."""


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(SampleMetric, name="sliced_wasserstein"):
    """Sliced Wasserstein-2 distance, by POT on fixed random projections."""

    source: ClassVar[str] = "Bonneel et al. 2015"
    lower_is_better = True
    floor_power = 2

    projections: Repeats = 100

    def held_bytes(self, samples: int, reference: int) -> int:
        return 8 * self.projections * (samples + reference)

    def compare(self, samples: Summary, reference: Summary) -> float:
        import ot

        x, y = standardised(samples, reference)
        return float(ot.sliced_wasserstein_distance(x, y, n_projections=self.projections, seed=0))


@dataclass(frozen=True, kw_only=True)
class MMD(SampleMetric, name="mmd"):
    """Maximum mean discrepancy, by five Gaussian kernels about as wide as the median distance of two reference samples.

    Samples that are equal do not count for the median. The narrow kernels see modes: at the median width alone, a ring
    through all modes scores better than held-out points.
    """

    formula: ClassVar[str] = (
        "sqrt(E k(x, x') + E k(y, y') - 2 E k(x, y)), k = mean over w of exp(-|x - y|^2 / (2 w^2)), "
        "w = median * (1/8, 1/4, 1/2, 1, 2), all pairs counted"
    )
    source: ClassVar[str] = (
        "Gretton et al. 2012, eq. 5 and section 8 (the median); Li et al. 2015, section 3 (several widths)"
    )
    lower_is_better = True
    floor_power = 2
    widths: ClassVar[tuple[float, ...]] = (1 / 8, 1 / 4, 1 / 2, 1, 2)
    """Of the kernels, in medians."""

    def held_bytes(self, samples: int, reference: int) -> int:
        return 2 * 8 * reference**2  # distances, and which belong to a pair

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = map(torch.from_numpy, standardised(samples, reference))
        within = torch.cdist(y, y)
        pairs = within[*torch.triu_indices(len(y), len(y), 1)]
        apart = pairs[pairs > SAME * math.sqrt(y.shape[1])]
        median = apart.median() if len(apart) else torch.ones(())

        def similarity(distances: torch.Tensor) -> float:
            squared = (distances / median).square()
            return float(np.mean([torch.exp(-squared / (2 * width**2)).mean().item() for width in self.widths]))

        return math.sqrt(
            max(0.0, similarity(torch.cdist(x, x)) + similarity(within) - 2 * similarity(torch.cdist(x, y)))
        )


@dataclass(frozen=True, kw_only=True)
class EnergyDistance(SampleMetric, name="energy"):
    """Energy distance."""

    formula: ClassVar[str] = "sqrt(2 E|x - y| - E|x - x'| - E|y - y'|), all pairs counted"
    source: ClassVar[str] = "Szekely & Rizzo 2013"
    lower_is_better = True
    floor_power = 2

    def held_bytes(self, samples: int, reference: int) -> int:
        return 8 * max(samples, reference) ** 2

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = map(torch.from_numpy, standardised(samples, reference))
        squared = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
        return math.sqrt(max(0.0, squared.item()))


@dataclass(frozen=True, kw_only=True)
class TwoSample(SampleMetric, name="c2st"):
    """Classifier two-sample test: how far from 1/2 a random forest's accuracy is in telling samples from real ones.

    It is given as many real ones as samples. 0 when it cannot tell them apart, 1/2 when it always can; copies of
    training samples mislead it, so an accuracy below 1/2 counts as much as one above. The interval is of 1.96 standard
    errors of the accuracy, cut at 0.
    """

    formula: ClassVar[str] = (
        "max(|accuracy - 1/2|, 1 / 4n), accuracy in five-fold cross-validation on n samples and n real ones"
    )
    source: ClassVar[str] = "Lopez-Paz & Oquab 2017, section 3"
    lower_is_better = True
    reference_is_best = False
    folds: ClassVar[int] = 5

    trees: Repeats = 100

    @property
    def fewest(self) -> int:
        return self.folds

    def short_of_samples(self, given: Comparison) -> str | None:
        told = min(given.samples, given.reference)
        if (guessing := self.guessing(told)) <= SAYS_LITTLE:
            return None
        return (
            f"c2st of {told} samples and as many real ones: a forest that has learnt nothing scores up to "
            f"{guessing:.2g}. A value below that does not say that the samples are good: "
            f"take {self.needed(SAYS_LITTLE)} or more."
        )

    def compare(self, samples: Summary, reference: Summary) -> float:
        return self.estimate(samples, reference).value

    def estimate(self, samples: Summary, reference: Summary) -> Estimate:
        accuracy = self.accuracy(samples, reference)
        told = 2 * min(len(samples["features"]), len(reference["features"]))
        value = max(abs(accuracy - 0.5), 0.5 / told)
        half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / told)
        return Estimate(value, (max(0.0, value - half), min(0.5, value + half)))

    @staticmethod
    def guessing(number: int) -> float:
        """What a forest that guesses stays below in 95 % of the cases, of `number` samples and as many real ones."""
        return 1.96 / math.sqrt(8 * number)

    @staticmethod
    def needed(value: float) -> int:
        """How many samples, and as many real ones, keep guessing below a value."""
        return math.ceil(1.96**2 / (8 * value**2))

    def accuracy(self, samples: Summary, reference: Summary) -> float:
        """How often the forest is right about samples that it was not fitted to."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        x, y = standardised(samples, reference)
        number = min(len(x), len(y))
        generator = np.random.default_rng(0)
        x, y = (rows[generator.permutation(len(rows))[:number]] for rows in (x, y))
        forest = RandomForestClassifier(self.trees, random_state=0, n_jobs=1)
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=0)
        return float(cross_val_score(forest, np.concatenate([x, y]), np.repeat([0, 1], number), cv=folds).mean())


@dataclass(frozen=True, kw_only=True)
class LabelAccuracy(SampleMetric, name="label_accuracy"):
    """How often logistic regression, fitted to the reference and its classes, reads the class that a sample was given.

    Samples that are typical of their class, under strong guidance perhaps, are read more often than real ones: compare
    it with what held-out samples score.
    """

    lower_is_better = False
    reads = "either"
    reference_is_best = False
    needs_classes = True

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        data = given.data
        reference = given.reference
        assert data.classes is not None
        if data.num_classes < 2:
            raise ConfigError("", "the data have one class, and there is nothing to read. Leave label_accuracy out.")
        if missing := data.num_classes - len(data.classes[reference_rows(data, reference)].unique()):
            reason = f"the {reference} samples of the reference lack {missing} of the {data.num_classes} classes"
            raise ConfigError(
                "", f"{reason}. Raise evaluate.num_reference, or evaluate.num_samples where that is null."
            )

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.linear_model import LogisticRegression

        x, y = standardised(samples, reference)
        fitted = LogisticRegression(max_iter=2000).fit(y, reference["classes"])
        return float(fitted.score(x, samples["classes"]))


@dataclass(frozen=True, kw_only=True)
class Authenticity(SampleMetric, name="authenticity"):
    """Share of the samples as far from their nearest training sample as that is from its own: low means memorised.

    Training samples that are equal count as one, so a copy is never authentic, whether the sample that it copies is
    there once or often.
    """

    formula: ClassVar[str] = "share of x with |x - y| >= min |y - y'|; y nearest to x, y' all that differ from y"
    source: ClassVar[str] = "Alaa et al. 2022, section 3.3"
    reference_is_best = False
    lower_is_better = False
    reads = "either"

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.neighbors import NearestNeighbors

        x, y = standardised(samples, reference)
        y = np.unique(y, axis=0)
        same = SAME * math.sqrt(y.shape[1])
        known = NearestNeighbors(n_neighbors=1).fit(y)
        distance, nearest = (found[:, 0] for found in known.kneighbors(x))
        return float(((distance > same) & (distance >= _fellows(known, len(y), same)[nearest])).mean())


def _fellows(known: Any, number: int, same: float) -> np.ndarray:
    """Distances [number] of the samples that NearestNeighbors knows to the nearest one farther than `same`.

    They are infinite where no sample lies farther.
    """
    found = np.full(number, np.inf)
    neighbours = 1
    while neighbours < number and not np.isfinite(found).all():
        distances = known.kneighbors(n_neighbors=neighbours)[0]  # of each but itself
        found = np.where(distances > same, distances, np.inf).min(1)
        neighbours = min(4 * neighbours, number - 1) if neighbours < number - 1 else number
    return found
