"""Simulated studies, compared with SciPy for one look, and with the promises of looks."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from harness.ablation.design.looks import LEVEL, Looks
from harness.ablation.design.simulation import simulate

STUDIES = 4000
NOISE = 3 * math.sqrt(0.25 / STUDIES)
"""Three standard errors of a share of the studies, at most."""


@pytest.mark.parametrize(("n", "sd", "true"), [(5, 0.1, 0.15), (20, 0.2, -0.1), (8, 0.05, 0.0)])
def test_one_look_at_one_arm_finds_as_often_as_the_noncentral_t_says(n: int, sd: float, true: float) -> None:
    found = simulate(Looks((n,)), [sd], true, 1e-9, STUDIES)  # a tie is impossible
    shift = abs(true) / sd * math.sqrt(n)
    critical = stats.t.isf(LEVEL / 2, n - 1)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert found.decided.mean() == pytest.approx(power, abs=NOISE)
    assert found.wrong.mean() == pytest.approx(LEVEL if true == 0 else 0, abs=NOISE if true == 0 else 0.005)
    assert set(found.seeds.flat) == {n}
    assert set(found.trials) == {2 * n}


def test_each_arm_has_its_sd() -> None:
    sds = [0.05, 0.1, 0.4]
    found = simulate(Looks((10,)), sds, 0.1, 1e-9, STUDIES)
    critical = stats.t.isf(LEVEL / 3 / 2, 9)
    powers = [stats.nct.sf(critical, 9, 0.1 / sd * math.sqrt(10)) for sd in sds]
    assert found.decided.mean(0) == pytest.approx(powers, abs=NOISE)


def test_a_design_costs_less_if_arms_are_decided_early() -> None:
    looks = Looks((5, 10, 20, 40))
    plain, clear, ties = (
        simulate(looks, [sd] * 4, true, 0.1, 500) for sd, true in ((0.111, 0.0), (0.111, 1.0), (0.01, 0.0))
    )
    assert plain.trials.max() <= 5 * 40
    assert set(clear.trials) == {5 * 5}
    assert ties.seeds.mean() < 10
    assert ties.decided.all()
    assert plain.wrong.any(1).mean() <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 500)


def test_the_baseline_runs_while_any_arm_is_open() -> None:
    found = simulate(Looks((5, 20)), [0.01, 1.0], 0.3, 0.05, 200)
    assert (found.seeds[:, 0] == 5).all()
    assert (found.trials == 5 + found.seeds[:, 1] + found.seeds.max(1)).all()
    assert (found.trials == 45).mean() > 0.8


@pytest.mark.parametrize("edge", [math.log1p(0.1), math.log1p(-0.1)])
def test_a_tie_is_wrong_at_the_smallest_difference_and_right_inside(edge: float) -> None:
    at, inside = (simulate(Looks((5,)), [0.06], share * edge, 0.1, STUDIES) for share in (1, 0.98))
    assert 0.001 < at.wrong.mean() <= LEVEL + NOISE
    assert inside.wrong.mean() < at.wrong.mean() / 10
    assert at.decided.mean() == pytest.approx(inside.decided.mean(), abs=0.03)
