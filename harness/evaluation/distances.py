"""Metrics of samples as vectors, with every feature in units of its standard deviation in the reference."""

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
"""Two samples count as equal up to this root mean square difference, in standard deviations of the features. An
extractor gives one image slightly different features in batches of different sizes."""
SAYS_LITTLE = 0.05
"""c2st warns when a classifier that guesses can score above this: the value then says little about the samples."""


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(SampleMetric, name="sliced_wasserstein"):
    """Sliced Wasserstein-2 distance, by POT on fixed random projections."""

    label = "sliced Wasserstein distance"
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
class ClassWasserstein(SampleMetric, name="class_wasserstein"):
    """Wasserstein-2 distance between the samples and the real data of each class, by POT's exact solver.

    The root mean square over the classes that were requested, with coordinates in standard deviations of the reference.
    Time grows about with the cube of the number of samples per class, and memory with its square.
    """

    label = "Wasserstein distance by class"
    formula: ClassVar[str] = "sqrt(sum over c of p_c W2(x_c, y_c)^2), p_c: share of the samples of class c"
    source: ClassVar[str] = "Peyre & Cuturi 2019, proposition 2.2 (W2)"
    lower_is_better = True
    floor_power = 2
    needs_classes = True

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        _refuse_missing_classes(given)

    def compare(self, samples: Summary, reference: Summary) -> float:
        import ot

        x, y = standardised(samples, reference)
        total = 0.0
        for number in np.unique(samples["classes"]):
            of_class = x[samples["classes"] == number]
            cost = ot.dist(of_class, y[reference["classes"] == number])
            total += len(of_class) / len(x) * float(ot.emd2([], [], cost, numItermax=10_000_000))
        return math.sqrt(total)


@dataclass(frozen=True, kw_only=True)
class MMD(SampleMetric, name="mmd"):
    """Maximum mean discrepancy with five Gaussian kernels, whose widths are multiples of the median distance.

    The median is over all pairs of reference samples that are not equal. The narrow kernels detect modes: with only the
    median width, a ring through all modes scores better than held-out points.
    """

    label = "MMD"
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
    """Widths of the kernels, in units of the median distance."""

    def held_bytes(self, samples: int, reference: int) -> int:
        return 2 * 8 * reference**2  # the distances, and the indices of the pairs

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

    label = "energy distance"
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
    """Classifier two-sample test: how far a random forest's accuracy at telling samples from real data is from 1/2.

    The forest gets equal numbers of generated and real samples. 0: it cannot tell them apart; 1/2: it always can.
    Copies of training samples mislead it to an accuracy below 1/2, so that side counts too. The interval is the value
    +- 1.96 standard errors of the accuracy, cut to [0, 1/2].
    """

    label = "classifier two-sample test (C2ST)"
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
            f"{self.label} on {told} generated and {told} real samples: a forest that has learnt nothing scores up to "
            f"{guessing:.2g}. A lower value does not show that the samples are good: "
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
        """Return the 95 % quantile of a guessing forest's value on `number` generated and `number` real samples."""
        return 1.96 / math.sqrt(8 * number)

    @staticmethod
    def needed(value: float) -> int:
        """Return the smallest number of samples (generated, and real) for which `guessing` is at most `value`."""
        return math.ceil(1.96**2 / (8 * value**2))

    def accuracy(self, samples: Summary, reference: Summary) -> float:
        """Return the forest's cross-validated accuracy in [0, 1]."""
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
    """Share of samples for which logistic regression, fitted to the reference, predicts the requested class.

    Samples that are very typical of their class, for example under strong guidance, score higher than real samples:
    compare the value with the score of held-out samples.
    """

    lower_is_better = False
    reads = "either"
    reference_is_best = False
    needs_classes = True

    def check_data(self, given: Comparison) -> None:
        super().check_data(given)
        if given.data.num_classes < 2:
            raise ConfigError("", "the data have one class, so nothing can be predicted. Leave label_accuracy out.")
        _refuse_missing_classes(given)

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.linear_model import LogisticRegression

        x, y = standardised(samples, reference)
        fitted = LogisticRegression(max_iter=2000).fit(y, reference["classes"])
        return float(fitted.score(x, samples["classes"]))


def _refuse_missing_classes(given: Comparison) -> None:
    """Raise `ConfigError` if the reference lacks a class."""
    data = given.data
    reference = given.reference
    assert data.classes is not None
    if missing := data.num_classes - len(data.classes[reference_rows(data, reference)].unique()):
        reason = f"the {reference} samples of the reference lack {missing} of the {data.num_classes} classes"
        raise ConfigError("", f"{reason}. Raise evaluate.num_reference, or evaluate.num_samples where that is null.")


@dataclass(frozen=True, kw_only=True)
class Authenticity(SampleMetric, name="authenticity"):
    """Share of samples at least as far from the nearest training sample as its nearest neighbour is; low: memorised.

    Equal training samples count as one. So a copy is never authentic, however often its original occurs.
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
        return float(((distance > same) & (distance >= _to_neighbour(known, len(y), same)[nearest])).mean())


def _to_neighbour(known: Any, number: int, same: float) -> np.ndarray:
    """Return each fitted sample's distance [number] to its nearest neighbour farther than `same`; inf without one."""
    found = np.full(number, np.inf)
    neighbours = 1
    while neighbours < number and not np.isfinite(found).all():
        distances = known.kneighbors(n_neighbors=neighbours)[0]  # without the sample itself
        found = np.where(distances > same, distances, np.inf).min(1)
        neighbours = min(4 * neighbours, number - 1) if neighbours < number - 1 else number
    return found
