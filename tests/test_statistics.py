import math
import warnings

import numpy as np
import pytest
from scipy import stats

from harness.ablation.report.statistics import Comparison, compare, holm, verdict

LEVEL = 0.05
REPETITIONS = 2000


def two_arms(seed: int, n: int = 5, difference: float = 0.0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """FIDs of an arm and the baseline on n seeds that share some of their luck."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(math.log(5), 0.1, n)
    arm, baseline = (np.exp(luck + rng.normal(0, noise, n)) for _ in range(2))
    return arm * (1 + difference), baseline


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_it_is_the_paired_t_of_the_logs(n: int) -> None:
    arm, baseline = two_arms(seed=n, n=n, difference=0.03)
    found = compare(arm.tolist(), baseline.tolist())
    test = stats.ttest_rel(np.log(arm), np.log(baseline))
    ratios = np.log(arm / baseline)
    wide = test.confidence_interval(0.95)
    narrow = test.confidence_interval(0.9)
    expected = [
        np.exp(np.mean(ratios)) - 1,
        *(np.exp([wide.low, wide.high, narrow.low, narrow.high]) - 1),
        test.pvalue,
        np.std(ratios, ddof=1),
    ]
    got = [found.difference, found.low, found.high, found.narrow_low, found.narrow_high, found.p_value, found.sd]
    assert found.n == n
    assert got == pytest.approx(expected, rel=1e-9)


def test_the_unit_of_the_metric_does_not_matter() -> None:
    arm, baseline = two_arms(seed=0)
    assert vars(compare([*(7 * arm)], [*(7 * baseline)])) == pytest.approx(vars(compare([*arm], [*baseline])))


def test_the_intervals_cover_as_often_as_they_say() -> None:
    truth = 0.04
    found = [compare(*map(list, two_arms(seed, difference=truth))) for seed in range(REPETITIONS // 2)]
    assert 0.93 <= np.mean([c.low < truth < c.high for c in found]) <= 0.97
    assert 0.88 <= np.mean([c.narrow_low < truth < c.narrow_high for c in found]) <= 0.92


def test_holm_by_hand() -> None:
    # sorted: 4 x 0.005 = 0.02, 3 x 0.01 = 0.03, 2 x 0.03 = 0.06, 1 x 0.04 = 0.04, lifted to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def simulated_p_values(arms: int, effect: float, sd: float, n: int, seed: int = 0) -> np.ndarray:
    """Paired p-values [REPETITIONS, arms]; the first arm differs by `effect` on the log."""
    ratios = np.random.default_rng(seed).normal(0, sd, (REPETITIONS, arms, n))
    ratios[:, 0] += effect
    return stats.ttest_1samp(ratios, 0, axis=2).pvalue


def test_under_the_null_one_study_in_twenty_errs() -> None:
    wrong = np.mean([min(holm(p.tolist())) < LEVEL for p in simulated_p_values(arms=4, effect=0, sd=0.02, n=5)])
    assert 0.035 <= wrong <= 0.065


def comparison(difference: float, half: float, n: int = 5) -> Comparison:
    low = difference - half
    high = difference + half
    return Comparison(n, difference, low, high, low, high, math.nan, 0.02)


@pytest.mark.parametrize(
    ("difference", "half", "p", "n", "lower", "higher"),
    [
        (-0.10, 0.05, 0.01, 5, "better", "worse"),
        (0.10, 0.05, 0.01, 5, "worse", "better"),
        (0.02, 0.01, 0.01, 5, "worse", "better"),  # small, and certain
        (0.01, 0.03, 0.60, 5, "tie", "tie"),
        (-0.04, 0.02, 0.06, 5, "undecided", "undecided"),  # the interval leaves the smallest difference
        (0.10, 0.20, 0.30, 5, "undecided", "undecided"),
        (-0.10, 0.05, 0.05, 5, "undecided", "undecided"),  # the level itself is not below it
        (-0.10, 0.05, 0.01, 3, "better", "worse"),
        (-0.10, 0.05, 0.01, 2, "undecided", "undecided"),
        (0.00, 0.01, 0.90, 2, "undecided", "undecided"),
        (0.10, math.nan, math.nan, 1, "undecided", "undecided"),
    ],
)
def test_verdicts(difference: float, half: float, p: float, n: int, lower: str, higher: str) -> None:
    found = comparison(difference, half, n)
    assert verdict(found, p, smallest_difference=0.05, lower_is_better=True) == lower
    assert verdict(found, p, smallest_difference=0.05, lower_is_better=False) == higher


def test_identical_arms_tie() -> None:
    values = [5.1, 5.3, 4.9]
    found = compare(values, values)
    assert (found.p_value, found.difference, found.low, found.high) == (1, 0, 0, 0)
    (p,) = holm([found.p_value])
    assert verdict(found, p, smallest_difference=0.05, lower_is_better=True) == "tie"


@pytest.mark.parametrize("n", [0, 1])
def test_below_two_pairs_there_is_no_interval(n: int) -> None:
    found = compare([6.0][:n], [5.0][:n])
    assert found.n == n
    assert math.isnan(found.difference) if n == 0 else found.difference == pytest.approx(0.2)
    assert all(map(math.isnan, (found.low, found.high, found.narrow_low, found.narrow_high, found.p_value, found.sd)))


@pytest.mark.parametrize("wrong", [0.0, -0.3])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_has_no_logarithm_has_no_ratio_and_no_verdict(wrong: float, place: int, swapped: bool) -> None:
    """KID can fall to zero and below. Not even a warning is given."""
    arms = [[5.1, 5.3, 4.9], [5.0, 5.2, 5.1]]
    arms[swapped][place] = wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(*arms)
        said = verdict(found, math.nan, smallest_difference=0.05, lower_is_better=True)
    numbers = vars(found)
    assert numbers.pop("n") == 3
    assert all(map(math.isnan, numbers.values()))
    assert said == "undecided"
