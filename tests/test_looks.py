"""Group-sequential verdicts: the spending of each look, the differences it can show, and how often a study errs."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.ablation.design.looks import LEVEL, Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.report.outcomes import DIVERGED, MEASURED, UNFINISHED, Cell
from harness.ablation.report.statistics import compare, verdict
from harness.ablation.report.verdicts import settle
from harness.runs.config import RunConfig

DEFAULT = Looks((5, 10, 20, 40))
ARMS = 4
SMALLEST = 0.1
STUDIES = 4000
MOST = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / STUDIES)
"""The largest rate that `STUDIES` studies may show by chance for a true rate of `LEVEL`: two standard
errors above it.
"""

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
"""Draws log values [arms + 1, seeds] without an effect, the baseline first."""


@pytest.mark.parametrize(
    ("looks", "sizes"),
    [
        (DEFAULT, [46, 17, 8.8, 5.2]),
        (Looks((5, 10, 20, 40), "equal"), [37, 15, 8.8, 5.7]),
        (Looks((6, 20, 40), "equal"), [25, 8.4, 5.5]),
    ],
)
def test_the_difference_that_a_look_can_show_has_the_known_values(looks: Looks, sizes: list[float]) -> None:
    """At sd .111, with four arms besides the baseline."""
    got = [100 * looks.provable(look, ARMS, 0.111) for look in range(1, len(sizes) + 1)]
    assert got == pytest.approx(sizes, abs=0.5)


@pytest.mark.parametrize("spending", ["proportional", "equal"])
@pytest.mark.parametrize("seeds", [(3,), (5,), (5, 10, 20, 40), (3, 4, 5, 6, 100)])
def test_arms_and_looks_spend_the_level_between_them(seeds: tuple[int, ...], spending: str) -> None:
    looks = Looks(seeds, spending)  # type: ignore[arg-type]
    assert sum(looks.level(k, 7) for k in range(1, len(seeds) + 1)) == pytest.approx(LEVEL / 7)


def test_the_first_look_of_the_default_by_hand() -> None:
    """5 of 40 seeds and one of four arms: .05 / 4 x 5 / 40; then .05 / 4 x (40 - 20) / 40."""
    assert DEFAULT.level(1, ARMS) == pytest.approx(0.0015625)
    assert DEFAULT.level(4, ARMS) == pytest.approx(0.00625)
    assert DEFAULT.provable(1, ARMS, 0.1) == pytest.approx(math.expm1(stats.t.ppf(1 - 0.00078125, 4) * 0.1 / 5**0.5))
    assert [DEFAULT.within(n) for n in (0, 4, 5, 19, 20, 100)] == [0, 0, 1, 2, 3, 4]


def first_verdicts(looks: Looks, logs: np.ndarray) -> list[tuple[str, int]]:
    """Return the first verdict of each arm, and its look; log values [arms + 1, seeds], the baseline first."""
    out = []
    for own in logs[1:]:
        for look, n in enumerate(looks.seeds, 1):
            found = compare(np.exp(own[:n]).tolist(), np.exp(logs[0, :n]).tolist(), looks.level(look, len(logs) - 1))
            word = verdict(found, SMALLEST, lower_is_better=True)
            if word != "undecided":
                break
        out.append((word, look))
    return out


def normal(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    return rng.normal(0, 0.08, (arms, seeds))


def t3(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    return 0.05 * rng.standard_t(3, (arms, seeds))


def mixed(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    return rng.normal(0, 1, (arms, seeds)) * np.array([0.05, 0.02, 0.05, 0.1, 0.3])[:arms, None]


def skewed(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    return 0.08 * (rng.gamma(2, 1, (arms, seeds)) - 2) / math.sqrt(2)


def skewed_arms(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
    """Draw skewed arms and a normal baseline."""
    logs = skewed(rng, arms, seeds)
    logs[0] = rng.normal(0, 0.08, seeds)
    return logs


def apart(draw: Draw) -> Draw:
    """Give every arm a separate baseline: the log ratios share nothing."""

    def drawn(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
        logs = np.zeros((arms, seeds))
        for arm in range(1, arms):
            base, own = draw(rng, 2, seeds)
            logs[arm] = own - base
        return logs

    return drawn


def wrong(word: str, effect: float) -> bool:
    """Whether a verdict is false for an arm with the log ratio `effect`; at the smallest difference, a tie is false."""
    if effect == 0:
        return word in ("better", "worse")
    return word in ("tie", "better" if effect > 0 else "worse")


def error_rate(looks: Looks, draw: Draw, effect: float, studies: int = STUDIES) -> float:
    """Return the share of studies in which any arm has a false verdict; all arms have this effect."""
    rng = np.random.default_rng(0)
    shift = np.array([0.0] + [effect] * ARMS)[:, None]
    errs = [
        any(wrong(word, effect) for word, _ in first_verdicts(looks, draw(rng, ARMS + 1, looks.last) + shift))
        for _ in range(studies)
    ]
    return float(np.mean(errs))


EFFECTS = (0.0, math.log1p(SMALLEST), math.log1p(-SMALLEST))


@pytest.mark.parametrize("effect", EFFECTS, ids=["none", "rise", "fall"])
def test_few_studies_err(effect: float) -> None:
    """A twentieth of the studies of the slow tests, with the standard error of this number."""
    assert error_rate(DEFAULT, normal, effect, STUDIES // 20) <= LEVEL + 20**0.5 * (MOST - LEVEL)


def test_the_level_that_is_not_divided_errs_much_more_often() -> None:
    """Each arm's first verdict of tests at 5 % each: the simulation detects the error that looks must control."""

    class Undivided(Looks):
        def level(self, look: int, arms: int) -> float:
            return LEVEL

    assert error_rate(Undivided(DEFAULT.seeds), normal, EFFECTS[1], STUDIES // 20) > 3 * LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("looks", [DEFAULT, Looks(DEFAULT.seeds, "equal"), Looks((5,)), Looks((20,))], ids=str)
@pytest.mark.parametrize("effect", EFFECTS, ids=["none", "rise", "fall"])
@pytest.mark.parametrize(
    "draw",
    [*(f for draw in (normal, t3, mixed, skewed) for f in (draw, apart(draw))), skewed_arms],
    ids=["normal", "normal apart", "t3", "t3 apart", "mixed", "mixed apart", "skewed", "skewed apart", "skewed arms"],
)
def test_a_study_errs_in_one_of_twenty_at_most(looks: Looks, effect: float, draw: Draw) -> None:
    assert error_rate(looks, draw, effect) <= MOST


@pytest.mark.slow
def test_log_ratios_that_are_skewed_themselves_are_the_known_limit() -> None:
    """Lognormal ones of .6 without an effect: a fixed test errs in one study of seven, instead of one of twenty.

    Looks err less often, since each spends less. The notes of a table report skewed log ratios.
    """

    def lognormal(rng: np.random.Generator, arms: int, seeds: int) -> np.ndarray:
        logs = np.zeros((arms, seeds))
        logs[1:] = 0.1 * (rng.lognormal(0, 0.6, (arms - 1, seeds)) - math.exp(0.18))
        return logs

    fixed, looks = (error_rate(design, lognormal, 0.0) for design in (Looks((20,)), DEFAULT))
    assert 2 * MOST < fixed < 0.2
    assert MOST < looks < fixed


def planned(base: RunConfig, seeds: int, looks: tuple[int, ...] = (3, 5, 8)) -> Plan:
    arms = {arm: {"train.steps": 10 + i} for i, arm in enumerate("abcd")}
    study = Study(
        name="toy", question="Which?", baseline="a", arms=arms, nfe=2, smallest_difference=SMALLEST, looks=looks
    )
    return Plan.of(study, "digits", base, {}, seeds, [])


def cells_of(plan: Plan, logs: np.ndarray) -> pd.DataFrame:
    """Return the measurements of a plan's trials. Log values [arms, seeds] are NaN for open seeds and infinite after
    divergence.
    """
    values = dict(zip(plan.arms, np.exp(logs), strict=True))
    cells = []
    for arm, seed in plan.trials():
        value = float(values[arm][seed])
        state = UNFINISHED if math.isnan(value) else DIVERGED if math.isinf(value) else MEASURED
        cells.append(Cell(arm, seed, plan.metric, plan.nfe, value if state == MEASURED else math.nan, plan.nfe, state))
    return pd.DataFrame(cells)


def test_the_verdicts_of_a_plan_are_those_of_its_looks(tiny: RunConfig) -> None:
    """Random studies, compared with the loop above; a plan whose decided arms are closed has the same verdicts from
    fewer trials.
    """
    rng = np.random.default_rng(1)
    whole = planned(tiny, 8)
    seen = Counter[tuple[str, int]]()
    for _ in range(25):
        logs = rng.normal(0, rng.choice([0.01, 0.05]), (4, 8)) + rng.choice([0, 0.05, 0.3], 4)[:, None]
        expected = dict(zip("bcd", first_verdicts(whole.looks, logs), strict=True))
        settled = settle(whole, cells_of(whole, logs))
        assert {arm: settled.verdicts[arm] for arm in "bcd"} == {
            arm: found._replace(word=expected[arm][0], look=expected[arm][1])
            for arm, found in settled.verdicts.items()
            if arm != "a"
        }
        closed = settled.closed(whole)
        assert {arm: closed.get(arm) for arm in "bcd"} == {
            arm: None if word == "undecided" else whole.looks.seeds[look - 1] for arm, (word, look) in expected.items()
        }
        assert closed.get("a") == (max(closed.values()) if {*"bcd"} <= closed.keys() else None)
        fewer = dataclasses.replace(whole, closed=closed)
        assert settle(fewer, cells_of(fewer, logs)).verdicts == settled.verdicts
        seen.update(expected.values())
    assert {("worse", 1), ("tie", 2), ("tie", 3), ("undecided", 3)} <= seen.keys()


def test_no_verdict_between_looks_or_before_a_look_has_ended(tiny: RunConfig) -> None:
    logs = np.repeat([[0.0], [0.5], [0.001], [-0.5]], 8, axis=1) + np.random.default_rng(0).normal(0, 0.002, (4, 8))
    for seeds, looks in ((2, 0), (3, 1), (4, 1), (5, 2), (7, 2), (8, 3)):
        plan = planned(tiny, seeds)
        standings = settle(plan, cells_of(plan, logs)).standings
        assert {standings[arm].look for arm in "bcd"} <= set(range(looks + 1)), seeds
        assert min(1, looks) == min(standings[arm].look for arm in "bcd"), seeds
    plan = planned(tiny, 3)
    missing = logs.copy()
    missing[1, 2] = math.nan
    found = settle(plan, cells_of(plan, missing)).verdicts
    assert [found[arm].word for arm in "bcd"] == ["undecided", "tie", "better"]
    assert found["b"].reason == "2 of the 3 pairs of seeds of the first look have values"
    missing[0, 1] = math.nan
    assert {v.word for v in settle(plan, cells_of(plan, missing)).verdicts.values()} == {"baseline", "undecided"}


def test_an_open_arm_reports_the_excluded_differences(tiny: RunConfig) -> None:
    plan = planned(tiny, 3, (3,))
    logs = np.array([[0.0] * 3, [0.0, 0.3, 0.1], [0.5, 0.51, 0.49], [0.02, 0.021, 0.019]])
    settled = settle(plan, cells_of(plan, logs))
    low, high = (math.exp(0.4 / 3 + sign * stats.t.ppf(1 - 0.05 / 6, 2) * 0.1528 / 3**0.5) - 1 for sign in (-1, 1))
    assert (
        settled.verdicts["b"].reason
        == f"a fall of more than {-low:.0%} and a rise of more than {high:.0%} are excluded"
    )
    assert settled.verdicts["c"] == ("worse", "", 1)
    assert settled.verdicts["d"] == ("worse", "by less than 10 %", 1)


@pytest.mark.slow
@pytest.mark.parametrize("effect", EFFECTS, ids=["none", "rise", "fall"])
def test_studies_in_which_the_worst_seeds_diverge_err_no_more_often(tiny: RunConfig, effect: float) -> None:
    """The survivors are a biased sample: an arm that loses its worst seeds is neither better nor a tie."""
    studies = 400
    plan = planned(tiny, 8)
    rng = np.random.default_rng(0)
    errs = []
    for _ in range(studies):
        logs = rng.normal(0, 0.04, (4, 8))
        logs[1:] += effect
        logs[1:][rng.random((3, 8)) < 0.3 * (logs[1:] > effect + 0.03)] = math.inf
        words = settle(plan, cells_of(plan, logs)).verdicts
        for arm, own in zip("bcd", logs[1:], strict=True):
            if words[arm].word in ("better", "tie"):
                assert np.isfinite(own[: plan.looks.seeds[words[arm].look - 1]]).all()
        errs.append(any(wrong(words[arm].word, effect) for arm in "bcd"))
    assert np.mean(errs) <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / studies)
