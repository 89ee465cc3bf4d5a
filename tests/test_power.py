"""The differences that seeds can detect, compared with statsmodels, published numbers and simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from harness.ablation.design.looks import LEVEL
from harness.ablation.report.power import MOST_SEEDS, Power, sd_of
from harness.ablation.report.statistics import compare

STUDIES = 2000


def of_one_look(n: int, sd: float, arms: int) -> Power:
    """Return the power at the level that a single look gives each arm."""
    return Power(n, sd, LEVEL / arms, arms)


def test_differences_and_seeds_are_those_of_statsmodels() -> None:
    """From five pairs on: with fewer, its solver returns its starting value."""
    theirs = TTestPower()
    for arms in (1, 4, 12):
        for n in (5, 8, 20, 40, 1000):
            effect = theirs.solve_power(nobs=n, alpha=LEVEL / arms, power=0.8)
            assert math.log1p(of_one_look(n, 0.02, arms).found.rise) == pytest.approx(0.02 * effect, rel=1e-3), (
                arms,
                n,
            )
        for sd in (0.03, 0.1, 0.7):
            n = theirs.solve_power(effect_size=math.log1p(0.05) / sd, alpha=LEVEL / arms, power=0.8)
            assert of_one_look(5, sd, arms).seeds_for(0.05) == math.ceil(n), (arms, sd)


@pytest.mark.parametrize(("seeds", "published", "tolerance"), [(3, 0.12, 0.01), (5, 0.045, 0.003), (8, 0.028, 0.003)])
def test_the_differences_of_the_design(seeds: int, published: float, tolerance: float) -> None:
    assert of_one_look(seeds, 0.013 * math.sqrt(2), 4).found.rise == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_is_found_four_times_in_five(n: int, sign: int) -> None:
    found = of_one_look(n, 0.02, 4).found
    effect = math.log1p(found.rise if sign > 0 else found.fall)
    ratios = np.random.default_rng(n).normal(effect, 0.02, (STUDIES, n))
    p = stats.ttest_1samp(ratios, 0, axis=1).pvalue
    assert np.mean(4 * p < LEVEL) == pytest.approx(0.8, abs=0.03)


def test_a_rise_undoes_a_fall() -> None:
    found = of_one_look(5, 0.1, 4).found
    assert (1 + found.fall) * (1 + found.rise) == pytest.approx(1)
    assert found.rise > -found.fall > 0


@pytest.mark.parametrize(
    ("n", "low", "high"), [(3, 0.050636, 7.377759), (5, 0.484419, 11.143287), (20, 8.906516, 32.852327)]
)
def test_the_brackets_are_those_of_a_chi_square_table(n: int, low: float, high: float) -> None:
    """The chi-square quantiles .025 and .975 for n - 1 degrees of freedom: NIST/SEMATECH e-Handbook,
    section 1.3.6.7.4.
    """
    power = of_one_look(n, 0.1, 4)
    found, least, most = (math.log1p(size.rise) for size in (power.found, power.at_least, power.at_most))
    assert least / found == pytest.approx(math.sqrt((n - 1) / high), rel=1e-5)
    assert most / found == pytest.approx(math.sqrt((n - 1) / low), rel=1e-5)
    assert [math.log1p(size.fall) for size in (power.at_least, power.at_most)] == pytest.approx([-least, -most])


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_brackets_contain_the_difference_of_the_true_sd(n: int) -> None:
    """In 95 of 100 studies, because the sd is measured on the same seeds."""
    true = of_one_look(n, 0.1, 4).found.rise
    held = []
    for ratios in np.random.default_rng(n).normal(0, 0.1, (STUDIES // 4, n)):
        power = of_one_look(n, float(ratios.std(ddof=1)), 4)
        held.append(power.at_least.rise <= true <= power.at_most.rise)
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_sd_can_be_read_off_an_interval() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 20):
        arm, baseline = rng.lognormal(1, 0.2, (2, n)).tolist()
        for level in (0.05, 0.003):
            found = compare(arm, baseline, level)
            assert sd_of(found.low, found.high, n, level) == pytest.approx(found.sd, rel=1e-6), (n, level)


def test_without_a_spread_there_is_no_power() -> None:
    for arm, baseline in (([6.0], [5.0]), ([], []), ([6.0, 6.0], [5.0, 5.0]), ([6.0, 0.0], [5.0, 5.0])):
        assert Power.of(compare(arm, baseline), 4) is None, arm


def test_a_difference_too_large_to_state_is_a_factor_of_a_million() -> None:
    for sd in (20.0, 1e6, 1e300):
        assert of_one_look(2, sd, 4).at_most == pytest.approx((-1 + 1e-6, 1e6 - 1)), sd
    assert math.isinf(sd_of(-1.0, 1e300, 5, 0.05))
    assert math.isinf(sd_of(-0.5, math.inf, 5, 0.05))


def test_seeds_beyond_counting_are_not_counted() -> None:
    assert of_one_look(5, 5.0, 4).seeds_for(0.05) is None
    assert (of_one_look(5, 3.0, 4).seeds_for(0.05) or math.inf) < MOST_SEEDS


def test_a_look_finds_what_its_level_allows() -> None:
    """The required seeds are those of a single look, independent of the spending of the current look."""
    theirs = TTestPower()
    effect = theirs.solve_power(nobs=10, alpha=0.003, power=0.8)
    power = Power(10, 0.02, 0.003, 4)
    assert math.log1p(power.found.rise) == pytest.approx(0.02 * effect, rel=1e-3)
    assert power.seeds_for(0.05) == of_one_look(10, 0.02, 4).seeds_for(0.05)
