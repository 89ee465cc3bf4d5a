"""Readouts of curves, for curves with obvious answers."""

import math

import pandas as pd
import pytest
from scipy import stats

from harness.ablation.report import readouts
from harness.ablation.report.readouts import Needed, Readout


def read(curves: dict[str, dict[int, list[float]]], lower: bool = True, **seconds: float) -> dict[str, Readout]:
    """Return the readouts of {arm: {NFE: values by seed}}."""
    rows = [
        (arm, s, "fid", nfe, v)
        for arm, curve in curves.items()
        for nfe, values in curve.items()
        for s, v in enumerate(values)
    ]
    values = pd.DataFrame(rows, columns=["arm", "seed", "metric", "nfe", "value"])
    bases = dict.fromkeys(curves.keys() - {"a"}, "a")
    return readouts.read(values, "fid", bases, lower, {("a", int(nfe[1:])): s for nfe, s in seconds.items()})


def test_a_power_law_has_the_geometric_mean_of_its_ends() -> None:
    """log FID is linear in log NFE, so its mean is that of the ends; denser sampling changes nothing."""
    for nfes in ([1, 16], [1, 2, 4, 8, 16]):
        found = read({"a": {n: [64 / n, 128 / n] for n in nfes}})["a"]
        assert found.area == pytest.approx((16 + 32) / 2)


def test_areas_are_compared_over_the_steps_that_all_arms_have_in_pairs() -> None:
    found = read({"a": {1: [1e6, 1e6, 1e6], 2: [10, 11, 12], 8: [5, 5.5, 6]}, "b": {2: [20, 22, 24], 8: [10, 11, 12]}})
    against = found["b"].against
    assert against is not None
    assert (against.n, against.difference) == (3, pytest.approx(1.0))
    assert found["a"].against is None


def test_the_fewest_steps_are_within_a_twentieth_of_the_best() -> None:
    curves = {"a": {1: [30.0], 4: [10.4], 8: [10.0], 16: [10.2]}, "b": {1: [20.0], 4: [9.5], 8: [9.4], 16: [9.6]}}
    found = read(curves, n4=0.25)
    assert (found["a"].fewest, found["b"].fewest) == (4, 4)
    assert (found["a"].fewest_of_all, found["b"].fewest_of_all) == (None, 4)
    assert found["a"].seconds == 0.25
    assert math.isnan(found["b"].seconds)


def test_more_is_better_where_the_metric_says_so() -> None:
    found = read({"a": {1: [0.1], 2: [0.96], 4: [1.0]}, "b": {1: [0.1], 2: [0.2], 4: [0.3]}}, lower=False)
    assert (found["a"].fewest, found["a"].fewest_of_all, found["b"].fewest_of_all) == (2, 2, None)


def test_an_adaptive_solver_and_values_without_a_logarithm_have_no_area() -> None:
    found = read({"a": {0: [1.0], 1: [2.0], 2: [-1.0]}, "b": {0: [1.0]}})
    assert math.isnan(found["a"].area)
    assert "b" not in found
    assert found["a"].fewest == 2


def frame(curves: dict[str, dict[int, list[float]]]) -> pd.DataFrame:
    rows = [
        (arm, s, "fid", nfe, v)
        for arm, curve in curves.items()
        for nfe, values in curve.items()
        for s, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "metric", "nfe", "value"]).assign(state="measured")


def test_the_needed_calls_are_counted_by_seed_for_each_final_value() -> None:
    """The final values are 10 and 20 for b and 8 for a; within 5 % are 10.5, 21 and 8.4."""
    values = frame({"a": {2: [9.0, 8.3], 8: [8.0, 8.0]}, "b": {2: [10.5, 21.1], 4: [10.6, 20.0], 8: [10.0, 20.0]}})
    own = readouts.needed(values, "fid", "b", "b", 8, lower=True)
    assert own.calls == (2, 4)
    assert own.mean == pytest.approx(math.sqrt(8))
    half = stats.t.ppf(0.975, 1) * math.log(2) / 2  # sd of log 2 and log 4 over root 2
    assert (own.low, own.high) == (
        pytest.approx(math.sqrt(8) * math.exp(-half)),
        pytest.approx(math.sqrt(8) * math.exp(half)),
    )
    others = readouts.needed(values, "fid", "b", "a", 8, lower=True)
    assert others.calls == (None, None)
    assert math.isinf(others.mean)
    assert (str(own), str(others)) == ("2.83 (0.0346 to 231)", "never in 2 seeds")
    assert str(Needed.of([None, 4])) == "in 1 of 2 seeds"
    unfinished = values[(values.nfe < 8) | (values.seed == 0)]
    assert readouts.needed(unfinished, "fid", "b", "b", 8, lower=True).calls == (2,)
    assert readouts.needed(values, "fid", "a", "a", 8, lower=True).calls == (8, 2)
    unmeasured = values.assign(value=values.value.where((values.arm == "a") | (values.seed == 1)))
    of_one = readouts.needed(unmeasured, "fid", "b", "a", 8, lower=True)
    assert (of_one.calls, str(of_one)) == ((None,), "never in 1 seeds; 1 of 2 seeds left out")
    of_none = readouts.needed(unmeasured[unmeasured.seed == 0], "fid", "b", "a", 8, lower=True)
    assert (of_none.calls, str(of_none)) == ((), "-")


@pytest.mark.parametrize(
    ("calls", "verdict"),
    [
        ((24, 24, 24), "as expected"),
        ((20, 24, 30), "undecided"),
        ((12, 12, 12), "fewer"),
        ((32, 32, 32), "more"),
        ((12, 24, 24), "undecided"),
        ((32, 64, None), "undecided"),
        ((None, None, None), "more"),
        ((24,), "undecided"),
        ((), "undecided"),
    ],
    ids=str,
)
def test_an_expectation_holds_if_the_interval_lies_within_it(calls: tuple[int | None, ...], verdict: str) -> None:
    assert Needed.of(calls).verdict((20, 30)) == verdict


def test_an_arm_distilled_to_one_step_has_no_curve_and_does_not_affect_others() -> None:
    found = read({"a": {1: [4.0], 2: [2.0]}, "b": {1: [3.0]}})
    assert found["a"].area == pytest.approx(math.sqrt(8))
    assert math.isnan(found["b"].area)
