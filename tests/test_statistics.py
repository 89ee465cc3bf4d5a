import math
import warnings

import numpy as np
import pytest
from scipy import stats

from harness.ablation.report.statistics import SKEWED, Comparison, compare, is_small, verdict

REPETITIONS = 2000


def two_arms(seed: int, n: int = 5, difference: float = 0.0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Return FIDs of an arm and the baseline on n seeds that share part of their noise."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(math.log(5), 0.1, n)
    arm, baseline = (np.exp(luck + rng.normal(0, noise, n)) for _ in range(2))
    return arm * (1 + difference), baseline


def of_two(seed: int, difference: float) -> Comparison:
    arm, baseline = two_arms(seed, difference=difference)
    return compare(arm.tolist(), baseline.tolist())


@pytest.mark.parametrize("level", [0.05, 0.0016])
@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_it_is_the_paired_t_of_the_logs(n: int, level: float) -> None:
    arm, baseline = two_arms(seed=n, n=n, difference=0.03)
    found = compare(arm.tolist(), baseline.tolist(), level)
    test = stats.ttest_rel(np.log(arm), np.log(baseline))
    ratios = np.log(arm / baseline)
    wide = test.confidence_interval(1 - level)
    narrow = test.confidence_interval(1 - 2 * level)
    expected = [
        np.exp(np.mean(ratios)) - 1,
        *(np.exp([wide.low, wide.high, narrow.low, narrow.high]) - 1),
        np.std(ratios, ddof=1),
    ]
    got = [found.difference, found.low, found.high, found.narrow_low, found.narrow_high, found.sd]
    assert (found.n, found.level) == (n, level)
    assert got == pytest.approx(expected, rel=1e-9)
    assert (found.low > 0 or found.high < 0) == (test.pvalue < level)
    if n > 2:
        assert found.skewness == pytest.approx(stats.skew(ratios, bias=False))


def test_the_unit_of_the_metric_does_not_matter() -> None:
    arm, baseline = two_arms(seed=0)
    scaled, found = (vars(compare([*(unit * arm)], [*(unit * baseline)])) for unit in (7, 1))
    assert scaled.pop("log_ratios") == pytest.approx(found.pop("log_ratios"))
    assert scaled == pytest.approx(found)


def test_the_intervals_cover_as_often_as_they_say() -> None:
    truth = 0.04
    found = [of_two(seed, truth) for seed in range(REPETITIONS // 2)]
    assert 0.93 <= np.mean([c.low < truth < c.high for c in found]) <= 0.97
    assert 0.88 <= np.mean([c.narrow_low < truth < c.narrow_high for c in found]) <= 0.92


def comparison(difference: float, half: float, narrow: float, n: int = 5) -> Comparison:
    ends = (difference - half, difference + half, difference - narrow, difference + narrow)
    return Comparison(n, 0.05, difference, *ends, sd=0.02)


@pytest.mark.parametrize(
    ("difference", "half", "narrow", "n", "lower", "higher"),
    [
        (-0.10, 0.05, 0.04, 5, "better", "worse"),
        (0.10, 0.05, 0.04, 5, "worse", "better"),
        (0.02, 0.01, 0.008, 5, "worse", "better"),  # small and certain
        (0.01, 0.03, 0.02, 5, "tie", "tie"),
        (0.01, 0.05, 0.03, 5, "tie", "tie"),  # a tie uses the narrow interval
        (-0.04, 0.05, 0.02, 5, "undecided", "undecided"),  # here, it contains the smallest difference
        (0.10, 0.20, 0.15, 5, "undecided", "undecided"),
        (-0.10, 0.10, 0.08, 5, "undecided", "undecided"),  # zero belongs to the interval
        (-0.10, 0.05, 0.04, 3, "better", "worse"),
        (-0.10, 0.05, 0.04, 2, "undecided", "undecided"),
        (0.00, 0.01, 0.01, 2, "undecided", "undecided"),
        (0.10, math.nan, math.nan, 1, "undecided", "undecided"),
    ],
)
def test_verdicts(difference: float, half: float, narrow: float, n: int, lower: str, higher: str) -> None:
    found = comparison(difference, half, narrow, n)
    assert verdict(found, smallest_difference=0.05, lower_is_better=True) == lower
    assert verdict(found, smallest_difference=0.05, lower_is_better=False) == higher


def test_a_difference_is_small_where_all_of_its_interval_is() -> None:
    """An earlier example: +0.6 to +2.0 % was "worse", although the smallest difference of interest was 5 %."""
    assert is_small(comparison(0.013, 0.007, 0.006), 0.05)
    assert not is_small(comparison(0.013, 0.007, 0.006), 0.02)
    assert not is_small(comparison(-0.04, 0.02, 0.01), 0.05)


def test_identical_arms_tie() -> None:
    values = [5.1, 5.3, 4.9]
    found = compare(values, values)
    assert (found.difference, found.low, found.high, found.narrow_low, found.narrow_high) == (0, 0, 0, 0, 0)
    assert verdict(found, smallest_difference=0.05, lower_is_better=True) == "tie"


def test_a_skewed_arm_is_seen() -> None:
    logs = np.random.default_rng(0).lognormal(0, 0.6, 40)
    assert compare([*np.exp(logs)], [1.0] * 40).skewness > SKEWED
    assert abs(compare([*np.exp(np.linspace(-1, 1, 9))], [1.0] * 9).skewness) < 1e-12


def test_few_seeds_that_differ_by_factors_exclude_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare([1.0, 1e100, 1e-100], [1.0, 1.0, 1.0], 0.0016)
    assert (found.low, found.high) == (-1, math.inf)
    assert verdict(found, smallest_difference=0.05, lower_is_better=True) == "undecided"


@pytest.mark.parametrize("n", [0, 1])
def test_below_two_pairs_there_is_no_interval(n: int) -> None:
    found = compare([6.0][:n], [5.0][:n])
    assert found.n == n
    assert math.isnan(found.difference) if n == 0 else found.difference == pytest.approx(0.2)
    assert all(map(math.isnan, (found.low, found.high, found.narrow_low, found.narrow_high, found.sd)))


@pytest.mark.parametrize("wrong", [0.0, -0.3])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_values_without_a_logarithm_have_no_ratio_and_no_verdict(wrong: float, place: int, swapped: bool) -> None:
    """KID can be zero or negative. There is no warning either."""
    arms = [[5.1, 5.3, 4.9], [5.0, 5.2, 5.1]]
    arms[swapped][place] = wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(arms[0], arms[1])
        said = verdict(found, smallest_difference=0.05, lower_is_better=True)
    numbers = vars(found)
    assert [numbers.pop(name) for name in ("n", "level", "log_ratios")] == [3, 0.05, ()]
    assert all(map(math.isnan, numbers.values()))
    assert said == "undecided"


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_p_value_is_scipys_of_the_logs(n: int) -> None:
    arm, baseline = two_arms(seed=n, n=n, difference=0.03)
    expected = stats.ttest_rel(np.log(arm), np.log(baseline)).pvalue
    assert compare(arm.tolist(), baseline.tolist()).p == pytest.approx(expected, rel=1e-9)


def test_there_is_no_p_value_of_one_pair_or_of_none_that_differs() -> None:
    assert math.isnan(compare([2.0], [1.0]).p)
    assert math.isnan(compare([2.0, 3.0, 4.0], [2.0, 3.0, 4.0]).p)
