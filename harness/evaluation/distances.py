"""Distances between samples and real ones as vectors, whose entries are in units of the reference's standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from harness.config import Count
from harness.evaluation.metric import Metric, Summary, standardised


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(Metric, name="sliced_wasserstein"):
    """Sliced Wasserstein-2 distance, by POT on fixed random projections."""

    source: ClassVar[str] = "Bonneel et al. 2015"
    lower_is_better = True

    projections: Count = 100

    def compare(self, samples: Summary, reference: Summary) -> float:
        import ot

        x, y = standardised(samples, reference)
        return float(ot.sliced_wasserstein_distance(x, y, n_projections=self.projections, seed=0))


@dataclass(frozen=True, kw_only=True)
class MMD(Metric, name="mmd"):
    """Maximum mean discrepancy with a Gaussian kernel as wide as the median distance of two reference samples that differ."""

    formula: ClassVar[str] = "sqrt(E k(x, x') + E k(y, y') - 2 E k(x, y)), k = exp(-|x - y|^2 / (2 median^2)), all pairs counted"
    source: ClassVar[str] = "Gretton et al. 2012, eq. 5 and section 8"
    lower_is_better = True

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = map(torch.from_numpy, standardised(samples, reference))
        within = torch.cdist(y, y)
        pairs = within[*torch.triu_indices(len(y), len(y), 1)]
        width = pairs[pairs > 0].median() if (pairs > 0).any() else torch.ones(())

        def similarity(distances: torch.Tensor) -> float:
            return torch.exp(-distances.square() / (2 * width.square())).mean().item()

        return math.sqrt(max(0.0, similarity(torch.cdist(x, x)) + similarity(within) - 2 * similarity(torch.cdist(x, y))))


@dataclass(frozen=True, kw_only=True)
class EnergyDistance(Metric, name="energy"):
    """Energy distance."""

    formula: ClassVar[str] = "sqrt(2 E|x - y| - E|x - x'| - E|y - y'|), all pairs counted"
    source: ClassVar[str] = "Szekely & Rizzo 2013"
    lower_is_better = True

    def compare(self, samples: Summary, reference: Summary) -> float:
        x, y = map(torch.from_numpy, standardised(samples, reference))
        squared = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
        return math.sqrt(max(0.0, squared.item()))


@dataclass(frozen=True, kw_only=True)
class TwoSample(Metric, name="c2st"):
    """Classifier two-sample test: how often a random forest tells samples from as many real ones; 0.5 when it cannot."""

    source: ClassVar[str] = "Lopez-Paz & Oquab 2017; accuracy in five-fold cross-validation"
    lower_is_better = True

    trees: Count = 100

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        x, y = standardised(samples, reference)
        number, generator = min(len(x), len(y)), np.random.default_rng(0)
        x, y = (part[generator.permutation(len(part))[:number]] for part in (x, y))
        forest = RandomForestClassifier(self.trees, random_state=0, n_jobs=1)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        return float(cross_val_score(forest, np.concatenate([x, y]), np.repeat([0, 1], number), cv=folds).mean())


@dataclass(frozen=True, kw_only=True)
class LabelAccuracy(Metric, name="label_accuracy"):
    """How often logistic regression, fitted to the reference and its classes, reads the class that a sample was asked to be of."""

    lower_is_better = False
    reads = "either"
    needs_classes = True

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.linear_model import LogisticRegression

        x, y = standardised(samples, reference)
        fitted = LogisticRegression(max_iter=2000).fit(y, reference["classes"])
        return float(fitted.score(x, samples["classes"]))


@dataclass(frozen=True, kw_only=True)
class Authenticity(Metric, name="authenticity"):
    """Share of the samples that are not nearer to a training sample than that is to its nearest fellow: low means memorised."""

    source: ClassVar[str] = "Alaa et al. 2022, section 3.3"
    reference_is_best = False
    lower_is_better = False
    reads = "either"

    def compare(self, samples: Summary, reference: Summary) -> float:
        from sklearn.neighbors import NearestNeighbors

        x, y = standardised(samples, reference)
        known = NearestNeighbors(n_neighbors=2).fit(y)
        distance, nearest = known.kneighbors(x, 1)
        fellows = known.kneighbors(y)[0][:, 1]  # the first is the sample itself
        return float((distance[:, 0] >= fellows[nearest[:, 0]]).mean())
