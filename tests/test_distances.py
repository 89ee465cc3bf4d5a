"""Distances between sets of vectors, compared with quantiles, SciPy, double loops and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from harness.core.registry import build
from harness.evaluation.distances import MMD, TwoSample
from harness.evaluation.metric import Estimate, Summary

DISTANCES = ["sliced_wasserstein", "mmd", "energy"]
ALL = [*DISTANCES, "c2st"]
FIELDS = {"c2st": {"trees": 10}}
"""Settings for short tests."""


def normal(number: int, dimensions: int, seed: int) -> np.ndarray:
    """Return normal values that are exact in float32, the dtype of a summary."""
    return np.random.default_rng(seed).normal(size=(number, dimensions)).astype(np.float32).astype(np.float64)


def summary(x: np.ndarray, classes: np.ndarray | None = None) -> Summary:
    return MMD().summarise(
        torch.from_numpy(np.ascontiguousarray(x)), None if classes is None else torch.from_numpy(classes)
    )


def value(name: str, samples: np.ndarray, reference: np.ndarray, **fields: Any) -> float:
    return build("metric", {"name": name, **FIELDS.get(name, {}), **fields}).compare(
        summary(samples), summary(reference)
    )


def label_accuracy(samples: np.ndarray, asked: np.ndarray, reference: np.ndarray, classes: np.ndarray) -> float:
    return build("metric", "label_accuracy").compare(summary(samples, asked), summary(reference, classes))


def in_units_of(reference: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x - reference.mean(0)) / reference.std(0)


def test_sliced_wasserstein_of_numbers_is_the_distance_of_their_quantiles() -> None:
    samples = 3 + 2 * normal(300, 1, 0)
    reference = 5 * normal(200, 1, 1) ** 3 - 1
    x, y = (np.sort(in_units_of(reference, part)[:, 0].repeat(times)) for part, times in ((samples, 2), (reference, 3)))
    assert value("sliced_wasserstein", samples, reference) == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), rel=1e-5)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 2.0), (1.5, 1.0), (-2.0, 0.25)])
def test_sliced_wasserstein_of_a_shifted_and_scaled_set(shift: float, scale: float) -> None:
    """For a normal, sqrt(shift^2 + (scale - 1)^2) in each coordinate, in standard deviations of the reference."""
    z = normal(500, 1, 0)
    reference = 7 + 3 * in_units_of(z, z)
    samples = 7 + 3 * (scale * in_units_of(z, z) + shift)
    assert value("sliced_wasserstein", samples, reference) == pytest.approx(math.hypot(shift, scale - 1), rel=1e-4)


def test_sliced_wasserstein_of_a_shift_is_its_mean_share_over_directions() -> None:
    reference = normal(100, 4, 0)
    shift = np.array([3.0, 0.0, 4.0, 0.0])
    samples = reference + shift * reference.std(0)
    assert value("sliced_wasserstein", samples, reference, projections=2000) == pytest.approx(
        math.sqrt(25 / 4), rel=0.03
    )


def test_energy_of_numbers_is_scipys() -> None:
    samples = 1 + 2 * normal(150, 1, 0)
    reference = 4 * normal(90, 1, 1)
    x, y = (in_units_of(reference, part)[:, 0] for part in (samples, reference))
    assert value("energy", samples, reference) == pytest.approx(stats.energy_distance(x, y), rel=1e-5)


def test_energy_of_vectors_is_the_mean_over_all_pairs() -> None:
    samples = 1 + normal(40, 5, 0)
    reference = normal(60, 5, 1) * np.arange(1, 6)
    x, y = (in_units_of(reference, part) for part in (samples, reference))
    squared = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert value("energy", samples, reference) == pytest.approx(math.sqrt(squared), rel=1e-5)


def test_mmd_is_a_double_loop_with_five_widths_about_the_median() -> None:
    """The median is over the 15 pairs of six reference samples, scaled by the standard deviations."""
    samples = 1 + normal(4, 3, 0)
    reference = normal(6, 3, 1) * [1, 10, 0.1]
    x, y = (in_units_of(reference, part) for part in (samples, reference))
    median = np.median([np.linalg.norm(y[i] - y[j]) for i in range(6) for j in range(i)])
    widths = [median / 8, median / 4, median / 2, median, 2 * median]

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        kernels = [math.exp(-sum((p - q) ** 2) / (2 * width**2)) for p in a for q in b for width in widths]
        return float(np.mean(kernels))

    squared = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert value("mmd", samples, reference) == pytest.approx(math.sqrt(squared), rel=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_set_has_no_distance_from_itself_in_any_order(name: str) -> None:
    x = 100 + normal(300, 5, 0)
    assert value(name, x, x) == pytest.approx(0, abs=1e-6)
    assert value(name, x[::-1], x) == pytest.approx(0, abs=1e-6)
    assert value(name, x, x) >= 0


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_positive_and_grow_with_a_shift(name: str) -> None:
    x = normal(200, 3, 0)
    y = normal(200, 3, 1)
    steps = [value(name, x + shift, y) for shift in (0, 0.5, 1, 2)]
    assert 0 < steps[0] < steps[1] < steps[2] < steps[3]


@pytest.mark.parametrize("name", ALL)
def test_the_units_of_a_feature_do_not_matter(name: str) -> None:
    """Powers of two change no digit; an added constant may change the last digit."""
    x = normal(100, 4, 0) + 0.3
    y = normal(150, 4, 1)
    units = 2.0 ** np.array([-6, 0, 3, 9])
    assert value(name, units * x, units * y) == value(name, x, y)
    if name != "c2st":
        assert value(name, x + 10 * np.arange(4), y + 10 * np.arange(4)) == pytest.approx(value(name, x, y), rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_axes_of_a_sample_are_features(name: str) -> None:
    x = normal(60, 12, 0) + 1
    y = normal(60, 12, 1)
    assert value(name, x.reshape(60, 3, 4), y.reshape(60, 3, 4)) == value(name, x, y)


@pytest.mark.parametrize("name", ALL)
def test_a_value_can_be_had_again(name: str) -> None:
    x = normal(80, 6, 0)
    y = normal(100, 6, 1)
    first = value(name, x, y)
    np.random.default_rng(5).normal(size=3)
    np.random.seed(5)
    torch.manual_seed(5)
    assert value(name, x, y) == first


@pytest.mark.parametrize(("name", "field"), [("sliced_wasserstein", "projections"), ("c2st", "trees")])
def test_more_work_is_another_value(name: str, field: str) -> None:
    x = normal(200, 6, 0) * 1.5
    y = normal(200, 6, 1)
    assert value(name, x, y, **{field: 3}) != value(name, x, y)


def test_a_forest_cannot_tell_two_draws_of_one_distribution() -> None:
    assert value("c2st", normal(800, 3, 0), normal(800, 3, 1), trees=40) < 0.04


def test_c2st_uses_as_many_real_samples_as_samples() -> None:
    """A classifier that always says the larger set would be right five times in six."""
    assert value("c2st", normal(300, 3, 0), normal(1500, 3, 1)) < 0.07
    assert value("c2st", normal(1500, 3, 0), normal(300, 3, 1)) < 0.07


def test_c2st_draws_from_all_of_the_larger_set() -> None:
    """The first tenth of the larger set is far away, and the other nine tenths are indistinguishable."""
    reference = normal(2000, 2, 0)
    reference[:200] += 40
    assert value("c2st", normal(200, 2, 1), reference) < 0.15


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0, 12.0])
def test_a_forest_tells_shifted_normals_nearly_as_often_as_bayes(shift: float) -> None:
    """The best rule is right with probability Phi(shift / 2); a forest has to learn it and is right slightly less
    often.
    """
    found = 0.5 + value("c2st", normal(1000, 2, 0) + np.array([shift, 0]), normal(1000, 2, 1), trees=16)
    assert stats.norm.cdf(shift / 2) - 0.07 < found < stats.norm.cdf(shift / 2) + 0.02


def four_classes(number: int, seed: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return normals around the corners of a square, and their corners."""
    corners = distance * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    classes = np.random.default_rng(seed + 1000).integers(4, size=number)
    return corners[classes] + normal(number, 2, seed), classes


def test_classes_that_lie_apart_are_read() -> None:
    assert label_accuracy(*four_classes(400, 0, 12), *four_classes(600, 1, 12)) > 0.995


def test_classes_that_overlap_are_read_as_often_as_bayes_does() -> None:
    """Both coordinates must be on the right side of the middle: Phi(distance / 2)^2."""
    expected = stats.norm.cdf(1.0) ** 2
    assert label_accuracy(*four_classes(4000, 0, 2), *four_classes(4000, 1, 2)) == pytest.approx(expected, abs=0.03)


def test_shuffled_classes_are_read_by_chance() -> None:
    samples, asked = four_classes(2000, 0, 12)
    shuffled = np.random.default_rng(7).permutation(asked)
    assert label_accuracy(samples, shuffled, *four_classes(600, 1, 12)) == pytest.approx(0.25, abs=0.05)


def test_classes_are_learnt_from_the_reference() -> None:
    """Samples that look like another class than the requested one are wrong, even if they are well separated."""
    samples, asked = four_classes(400, 0, 12)
    assert label_accuracy(samples, (asked + 1) % 4, *four_classes(600, 1, 12)) < 0.005


def test_the_units_of_a_feature_do_not_matter_to_classes() -> None:
    samples, asked = four_classes(500, 0, 2)
    reference, classes = four_classes(500, 1, 2)
    units = 2.0 ** np.array([-6, 9])
    assert label_accuracy(units * samples, asked, units * reference, classes) == label_accuracy(
        samples, asked, reference, classes
    )


def class_wasserstein(samples: np.ndarray, asked: np.ndarray, reference: np.ndarray, classes: np.ndarray) -> float:
    return build("metric", "class_wasserstein").compare(summary(samples, asked), summary(reference, classes))


def test_the_wasserstein_distance_by_class_is_that_of_the_best_pairs_of_each_class() -> None:
    """By SciPy's assignment: each class has as many samples as reference rows, and weighs as its samples do."""
    samples, asked = four_classes(200, 0, 3)
    reference = normal(200, 2, 1) + 1
    x, y = in_units_of(reference, samples), in_units_of(reference, reference)
    total = 0.0
    for number in range(4):
        cost = cdist(x[asked == number], y[asked == number], "sqeuclidean")
        total += cost[linear_sum_assignment(cost)].sum()
    assert class_wasserstein(samples, asked, reference, asked) == pytest.approx(math.sqrt(total / 200), rel=1e-5)


def test_the_wasserstein_distance_by_class_tells_right_classes_from_wrong_ones() -> None:
    """Wrong classes have the same samples together, one side of the square away."""
    reference, classes = four_classes(600, 1, 12)
    assert class_wasserstein(reference, classes, reference, classes) == pytest.approx(0, abs=1e-6)
    side = 12 / reference.std(0).mean()
    swapped = class_wasserstein(reference, classes ^ 1, reference, classes)
    assert swapped == pytest.approx(side, rel=0.05)


def test_a_class_of_unequal_numbers_is_weighted_by_its_samples() -> None:
    """One class lies on its reference, the other 3 away; a quarter of the samples belong to the second."""
    classes = np.array([0, 1] * 50)
    reference = np.where(classes == 0, -1.0, 1.0)[:, None]
    asked = np.array([0] * 75 + [1] * 25)
    samples = np.where(asked == 0, -1.0, 4.0)[:, None]
    assert class_wasserstein(samples, asked, reference, classes) == pytest.approx(3 / 2)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("constant", [0.0, 0.1, 3.0])
def test_a_feature_that_is_constant_in_the_reference_causes_no_division_by_zero(name: str, constant: float) -> None:
    x = normal(100, 3, 0)
    y = normal(100, 3, 1)
    y[:, 1] = constant
    same = x.copy()
    same[:, 1] = constant
    assert math.isfinite(value(name, same, y))
    assert value(name, same, y) < value(name, x, y) < 10


def test_a_constant_reference_keeps_its_units() -> None:
    reference = np.full((30, 1), 2.0)
    assert value("sliced_wasserstein", reference + 3, reference) == pytest.approx(3, rel=1e-6)
    assert value("energy", reference + 3, reference) == pytest.approx(math.sqrt(2 * 3), rel=1e-6)
    assert value("sliced_wasserstein", reference, reference) == value("energy", reference, reference) == 0


def test_mmd_from_a_reference_that_mostly_repeats_one_sample_is_not_zero() -> None:
    reference = normal(20, 2, 1)
    reference[5:] = 0
    assert value("mmd", normal(20, 2, 0) + 9, reference) > 0.5


def c2st(samples: np.ndarray, reference: np.ndarray) -> Estimate:
    return build("metric", {"name": "c2st", "trees": 12}).estimate(summary(samples), summary(reference))


def test_copies_that_mislead_the_forest_are_no_better_than_real_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forest learns that the original is real and calls the copy real, or the reverse: it is right far less than
    half of the time.
    """
    reference = normal(200, 4, 0)
    unseen = normal(200, 4, 1)
    real = c2st(unseen, reference)
    for name, copies in {
        "all": reference,
        "all in another order": reference[::-1].copy(),
        "drawn with replacement": reference[np.random.default_rng(0).integers(200, size=200)],
        "with a little noise": reference + 1e-3 * normal(200, 4, 2),
        "half of them": np.concatenate([reference[:100], unseen[:100]]),
    }.items():
        accuracy = TwoSample(trees=12).accuracy(summary(copies), summary(reference))
        assert accuracy < 0.45, name
        with monkeypatch.context() as patch:
            patch.setattr(TwoSample, "accuracy", lambda *_, known=accuracy: known)
            found = c2st(copies, reference)
        assert found.value > real.value, name
        assert found.interval, name
        assert found.interval[0] > 0, name


def test_the_distance_from_one_half_is_of_scikit_learns_accuracy() -> None:
    """The interval is that of a proportion of 2 n trials."""
    samples = normal(120, 3, 0) + 0.5
    reference = normal(120, 3, 1)
    accuracy = TwoSample(trees=12).accuracy(summary(samples), summary(reference))
    value, interval = c2st(samples, reference)
    assert value == abs(accuracy - 0.5)
    half = stats.norm.ppf(0.975) * math.sqrt(accuracy * (1 - accuracy) / 240)
    assert interval == pytest.approx((max(0, value - half), value + half), rel=1e-4)


def test_the_interval_of_equal_distributions_contains_zero() -> None:
    """Most of the time: folds that share samples vary slightly more than independent trials."""
    found = [c2st(normal(60, 3, seed), normal(60, 3, seed + 100)).interval or (1, 1) for seed in range(8)]
    assert sum(low == 0 for low, _ in found) >= 6


def test_guessing_stays_below_its_limit_nineteen_times_in_twenty() -> None:
    """By the binomial distribution of 2 n guesses."""
    for number in (20, 100, 193):
        limit = TwoSample.guessing(number)
        inside = stats.binom.cdf(2 * number * (0.5 + limit), 2 * number, 0.5) - stats.binom.cdf(
            2 * number * (0.5 - limit), 2 * number, 0.5
        )
        assert inside == pytest.approx(0.95, abs=0.02)
    assert TwoSample.guessing(TwoSample.needed(0.05)) <= 0.05 < TwoSample.guessing(TwoSample.needed(0.05) - 1)


def points_of(corners: np.ndarray, number: int, spread: float, seed: int) -> np.ndarray:
    return corners[np.random.default_rng(seed + 99).integers(len(corners), size=number)] + spread * normal(
        number, 2, seed
    )


def test_samples_without_modes_are_no_better_than_real_ones_by_any_distance() -> None:
    """Sets with the right means and covariances: a ring through eight modes, a normal, and a square over a grid of
    modes.
    """
    angles = 2 * np.pi * np.arange(8) / 8
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 2), axis=-1).reshape(-1, 2)
    for seed in range(2):
        turned = np.random.default_rng(seed).uniform(0, 2 * np.pi, 400)
        radius = np.linalg.norm(points_of(ring, 400, 0.07, seed), axis=1, keepdims=True)
        cases = {
            "ring": (ring, 0.07, radius * np.stack([np.cos(turned), np.sin(turned)], axis=1)),
            "normal": (ring, 0.07, normal(400, 2, seed) * math.sqrt(0.5 + 0.07**2)),
            "square": (grid, 0.1, np.random.default_rng(seed).uniform(-0.5, 3.5, (400, 2))),
        }
        for name, (corners, spread, broken) in cases.items():
            reference = points_of(corners, 900, spread, 1)
            unseen = points_of(corners, 400, spread, seed + 2)
            assert value("mmd", broken, reference) > 1.3 * value("mmd", unseen, reference), (name, seed)


def authenticity(samples: np.ndarray, reference: np.ndarray) -> float:
    return value("authenticity", samples, reference)


def test_no_copy_is_authentic_even_of_a_repeated_sample() -> None:
    """In few and in many dimensions, where scikit-learn uses different neighbour searches."""
    for dimensions in (1, 2, 20, 200):
        single = 5 + normal(40, dimensions, 0)
        for times in (1, 2, 7):
            for name, reference in {
                "each": np.repeat(single, times, axis=0),
                "one": np.concatenate([single, np.repeat(single[:1], times - 1, axis=0)]),
                "shuffled": np.random.default_rng(0).permutation(np.repeat(single, times, axis=0)),
            }.items():
                assert authenticity(single, reference) == 0, (dimensions, times, name)
                assert authenticity(np.repeat(single[:1], 9, axis=0), reference) == 0, (dimensions, times, name)
                near = single + 1e-3 * normal(40, dimensions, 1)
                assert authenticity(near, reference) <= 0.1, (dimensions, times, name)
        assert authenticity(single + 100, np.repeat(single, 2, axis=0)) == 1, dimensions


def test_a_copy_of_a_nearly_repeated_sample_is_not_authentic() -> None:
    """Features of equal images differ in the last digits between batches of different sizes."""
    for times in (2, 3, 6):
        single = normal(200, 16, 0)
        jitter = 1 + 1e-7 * np.random.default_rng(times).standard_normal((200 * times, 16))
        reference = np.repeat(single, times, axis=0) * jitter
        assert authenticity(single + 1e-3 * normal(200, 16, 1), reference) == 0, times
        assert authenticity(single + 100, reference) == 1, times


def test_the_widths_of_mmd_are_of_samples_that_differ() -> None:
    """Most windows of an idle sensor are equal."""
    for dimensions in (4, 20, 128):
        rest = normal(60, dimensions, 0)
        reference = np.concatenate([np.repeat(rest[:1], 240, axis=0), rest])
        near = reference + 0.05 * normal(300, dimensions, 1)
        far = reference + 3 * normal(300, dimensions, 2)
        assert value("mmd", near, reference) < 0.7 * value("mmd", far, reference), dimensions


def test_the_best_c2st_has_a_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accuracy of exactly one half counts as half a step of the accuracy."""
    metric = TwoSample()
    monkeypatch.setattr(TwoSample, "accuracy", lambda *_: 0.5)
    rows = metric.summarise(torch.from_numpy(normal(250, 2, 0)), None)
    assert metric.compare(rows, rows) == 1 / (4 * 250)


def test_authenticity_is_counted_by_hand() -> None:
    """Reference 0, 0, 1, 3: samples at 0 and 0.9 are copies. 4.9 is 1.9 from 3, whose nearest neighbour is 2 away, so
    it is a copy too; 5.1 is farther.
    """
    reference = np.array([0.0, 0.0, 1.0, 3.0])[:, None]
    for at, authentic in ((0.0, 0), (0.9, 0), (-0.9, 0), (-1.1, 1), (4.9, 0), (5.1, 1)):
        assert authenticity(np.array([[at]]), reference) == authentic, at
    assert authenticity(np.array([[at] for at in (0.0, -1.1, 4.9, 5.1)]), reference) == 0.5


def test_nothing_is_authentic_for_a_reference_of_one_sample() -> None:
    assert authenticity(normal(5, 2, 0), np.ones((8, 2))) == 0


def test_the_rounding_of_an_extractor_makes_no_copy_authentic() -> None:
    single = normal(40, 64, 0)
    reference = np.repeat(single, 3, axis=0)
    assert authenticity(single + 3e-6 * normal(40, 64, 1), reference) == 0
