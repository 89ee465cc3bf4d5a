"""Studies with axes and sweeps: their arms, comparisons and verdicts."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_looks import MOST, SMALLEST, STUDIES, cells_of

from harness.ablation.design.crossing import Contrast
from harness.ablation.design.looks import LEVEL, Looks
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import preregister, stored
from harness.ablation.design.study import Study
from harness.ablation.report.outcomes import DIVERGED
from harness.ablation.report.statistics import compare, verdict
from harness.ablation.report.verdicts import in_all, settle
from harness.cli import main
from harness.core.errors import UserError
from harness.runs.config import RunConfig

PATHS = ["linear", "gvp", "cosine"]
WEIGHTINGS = ["uniform", {"name": "data_end", "power": 2}]
AXES: dict[str, Any] = {"interpolant": PATHS, "weighting": WEIGHTINGS}
SWEPT: dict[str, Any] = {
    "arms": {name: {"weighting": name} for name in ("uniform", "data_end", "noise_end")},
    "baseline": "uniform",
    "sweep": {"train.learning_rate": [1e-3, 3e-3, 1e-2]},
}


def planned(base: RunConfig, seeds: int = 8, looks: tuple[int, ...] = (3, 5, 8), **declared: Any) -> Plan:
    study = Study(name="toy", question="?", nfe=2, smallest_difference=SMALLEST, looks=looks, **declared)
    return Plan.of(study, "digits", base, {}, seeds, [])


def test_every_combination_is_an_arm(tiny: RunConfig) -> None:
    plan = planned(tiny, axes=AXES)
    assert plan.baseline == "linear, uniform"
    assert [*plan.arms] == [f"{p}, {w}" for p in PATHS for w in ("uniform", "data_end power 2")]
    made = plan.arms["cosine, data_end power 2"]
    assert (made.interpolant.name, made.weighting.name) == ("cosine", "data_end")
    assert {*plan.contrasts} == {"interpolant: gvp", "interpolant: cosine", "weighting: data_end power 2"}
    assert plan.contrasts["interpolant: gvp"] == Contrast(
        ("gvp, uniform", "gvp, data_end power 2"), ("linear, uniform", "linear, data_end power 2"),
        "interpolant: linear", "interpolant: gvp",
    )  # fmt: skip
    other = planned(tiny, axes=AXES, baseline="cosine, data_end power 2")
    assert other.baseline == "cosine, data_end power 2"
    assert {*other.contrasts} == {"interpolant: linear", "interpolant: gvp", "weighting: uniform"}
    assert other.digest != plan.digest


def test_levels_may_be_numbers_or_settings_with_names(tiny: RunConfig) -> None:
    axes = {"train.learning_rate": [1e-3, 3e-3], "length": {"short": {"train.steps": 9}, "long": {"train.steps": 18}}}
    plan = planned(tiny, axes=axes)
    assert [*plan.arms] == [f"learning_rate {rate}, {length}" for rate in (0.001, 0.003) for length in axes["length"]]
    assert plan.arms["learning_rate 0.003, long"].train.steps == 18
    assert [*plan.contrasts] == ["learning_rate: 0.003", "length: long"]


def test_a_swept_arm_is_compared_with_the_baseline_at_the_same_setting(tiny: RunConfig) -> None:
    plan = planned(tiny, **SWEPT)
    rates = (0.001, 0.003, 0.01)
    assert plan.bases == {
        f"{arm}, learning_rate {r}": f"uniform, learning_rate {r}" for arm in ("data_end", "noise_end") for r in rates
    }
    assert all(contrast.against == (plan.bases[arm],) for arm, contrast in plan.contrasts.items())
    assert {contrast.family for contrast in plan.contrasts.values()} == {"data_end", "noise_end"}


@pytest.mark.parametrize("declared", [{"axes": AXES}, SWEPT, {"axes": {**AXES, "interpolant": PATHS[:2]}}], ids=str)
def test_the_level_is_divided_among_the_tests(tiny: RunConfig, declared: dict[str, Any]) -> None:
    plan = planned(tiny, **declared)
    families = {contrast.family for contrast in plan.contrasts.values()}
    assert {*plan.sharers.values()} == {(len(plan.contrasts), len(families))}


@pytest.mark.parametrize("declared", [{"axes": AXES}, SWEPT], ids=["axes", "sweep"])
def test_it_survives_its_file_and_is_stored_with_its_tests(
    tiny: RunConfig, declared: dict[str, Any], tmp_path: Path
) -> None:
    plan = planned(tiny, **declared)
    path = plan.write(tmp_path)
    assert (Plan.read(path), Plan.read(path).digest) == (plan, plan.digest)
    preregister(plan)
    assert stored(plan)[-1]["design"]["verdicts"] == sorted(plan.contrasts)


def test_a_fraction_reports_its_aliased_effects(tiny: RunConfig) -> None:
    paths = {"train.steps": [9, 12], "train.batch_size": [16, 32], "weighting": ["uniform", "data_end"]}
    plan = planned(tiny, axes={**paths, "interpolant": PATHS[:2]}, fraction=1 / 2)
    assert len(plan.arms) == 8
    assert plan.crossing
    assert plan.crossing.told() == [
        "8 of 16 combinations run, a regular fraction of resolution IV. It cannot tell apart: steps × batch_size with "
        "weighting × interpolant; steps × weighting with batch_size × interpolant; steps × interpolant with batch_size "
        "× weighting."
    ]
    for contrast in plan.contrasts.values():
        assert sorted(contrast.arms + contrast.against) == sorted(plan.arms)
    third = planned(tiny, axes={**paths, "train.warmup_steps": [1, 2], "seeded": {"x": {}, "y": {}}}, fraction=1 / 2)
    assert third.crossing
    assert third.crossing.told() == [
        "16 of 32 combinations run, a regular fraction of resolution V. It tells effects of one and two axes apart."
    ]


LATE: dict[str, Any] = {"train.steps": [12, 9, 4], "train.warmup_steps": [2, 6]}
"""No configuration allows six warm-up steps with four training steps."""


def test_an_invalid_combination_is_an_error_or_left_out_with_a_note(tiny: RunConfig) -> None:
    with pytest.raises(UserError, match=r"^arm 'steps 4, warmup_steps 6'\.train\.warmup_steps: the warm-up of 6 steps"):
        planned(tiny, axes=LATE)
    plan = planned(tiny, axes=LATE, skip_invalid=True)
    assert len(plan.arms) == 5
    assert plan.crossing
    (line,) = plan.crossing.told()
    assert line.startswith("Left out, as skip_invalid allows: steps 4, warmup_steps 6 (train.warmup_steps: the warm-up")
    assert plan.contrasts["steps: 4"].against == ("steps 12, warmup_steps 2",)
    assert plan.contrasts["warmup_steps: 6"].arms == ("steps 12, warmup_steps 6", "steps 9, warmup_steps 6")


def test_a_level_is_compared_with_the_first_of_its_axis_in_common_combinations(tiny: RunConfig) -> None:
    plan = planned(tiny, axes={"train.steps": [5, 12], "train.warmup_steps": [2, 6]}, skip_invalid=True)
    assert plan.contrasts["steps: 12"][:2] == (("steps 12, warmup_steps 2",), ("steps 5, warmup_steps 2",))
    assert plan.contrasts["warmup_steps: 6"][:2] == (("steps 12, warmup_steps 6",), ("steps 12, warmup_steps 2",))


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"axes": {"train.steps": [4, 12], "train.warmup_steps": [6, 2]}}, r"arm 'steps 4, warmup_steps 6'\.train"),
        (
            {"axes": {"train.steps": [12, 4], "train.warmup_steps": [6, 8]}},
            r"axes: steps 4 has no partner with 12 left \(steps 4, warmup_steps 6: train\.warmup_steps: ",
        ),
        (
            {"arms": {"a": {}, "b": {"train.steps": 4}}, "baseline": "b", "sweep": {"train.warmup_steps": [2, 6]}},
            r"arm 'b, warmup_steps 6'\.train",
        ),
    ],
    ids=["baseline", "level", "swept baseline"],
)
def test_the_reference_of_comparisons_is_never_left_out(tiny: RunConfig, declared: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=f"^{why}"):
        planned(tiny, **declared, skip_invalid=True)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"axes": AXES, "arms": {"a": {}, "b": {}}}, r"^axes: they replace arms"),
        ({"axes": AXES, "sweep": {"train.steps": [1, 2]}}, r"^axes: they replace arms"),
        ({"axes": {**AXES, "weighting": "uniform"}}, r"^axes\['weighting'\]: expected a list of values"),
        ({"axes": {**AXES, "weighting": ["uniform"]}}, r"^axes\['weighting'\]: uniform are not two different"),
        ({"axes": {**AXES, "weighting": ["snr", "snr"]}}, r"^axes\['weighting'\]: snr, snr are not two different"),
        ({"axes": {**AXES, "length": {"long": 3, "short": {}}}}, r"^axes\['length'\]\['long'\]: expected the lev"),
        ({"axes": {**AXES, "both": {"a": {}, "b": {"weighting": "snr"}}}}, r"^arm '.*': two of its axes set weighting"),
        ({"axes": {"weighting": WEIGHTINGS}}, r"^axes: there is only one"),
        ({"axes": {"l": {"a, b": {}, "a": {}}, "r": {"c": {}, "b, c": {}}}}, r"^arm 'a, b, c': two combinations have"),
        ({"axes": AXES, "baseline": "linear"}, r"^baseline 'linear': no combination has this name\."),
        ({"axes": AXES, "fraction": 1 / 2}, r"^fraction: the axes have 3, 2 levels"),
        ({"axes": AXES, "fraction": 1 / 2, "skip_invalid": True}, r"^skip_invalid: a fraction must be whole"),
        ({**SWEPT, "fraction": 1 / 3}, r"^fraction: only a study of axes has one"),
        ({"arms": {"a": {}, "b": {}}, "baseline": "a", "skip_invalid": True}, r"^skip_invalid: there are no combi"),
        ({**SWEPT, "baseline": "snr"}, r"^baseline 'snr': the arms must include it and another"),
        ({**SWEPT, "sweep": {"weighting": ["snr", "edm"]}}, r"^arm '.*': two of its axes set weighting"),
        ({"axes": AXES, "expected_nfe": {"linear": (1, 2)}}, r"^expected_nfe: 'linear' is not an arm"),
        ({}, r"^baseline '': the arms must"),
    ],
)  # fmt: skip
def test_a_wrong_design_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Study(question="?", **wrong)


def test_the_command_line_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = f"STUDY = Study(question='?', axes={{**{AXES!r}, 'train.steps': [9, 2]}})"
    (file := tmp_path / "mine.py").write_text(f"from harness.ablation.design.study import Study\n{declared}\n")
    assert main(["table", str(file), "--set", "train.warmup_steps=5"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: arm 'linear, uniform, steps 2'.train.warmup_steps: the warm-up of 5 steps is")
    assert said.count("\n") == 1
    assert main(["table", str(file), "--set", "weighting=snr"]) == 2
    assert capsys.readouterr().err.startswith("error: weighting: every arm of 'mine' replaces it")


def logs_of(plan: Plan, rng: np.random.Generator, sd: float) -> np.ndarray:
    """Return log values [arms, seeds]; each level has an effect or none."""
    assert plan.crossing
    sizes = {
        (axis, level): rng.choice([0.0, 0.03, 0.4]) if i else 0.0
        for axis, levels in plan.crossing.levels.items()
        for i, level in enumerate(levels)
    }
    effects = [
        sum(sizes[at] for at in zip(plan.crossing.levels, own, strict=True)) for own in plan.crossing.arms.values()
    ]
    return (
        rng.normal(0, 0.1, plan.looks.last)
        + rng.normal(0, sd, (len(plan.arms), plan.looks.last))
        + np.array(effects)[:, None]
    )


def by_hand(plan: Plan, logs: np.ndarray) -> dict[str, tuple[str, int]]:
    """Return {contrast: (verdict, look)}, computed by loops over log values [arms, seeds]."""
    rows = dict(zip(plan.arms, logs, strict=True))
    families: dict[str, list[str]] = {}
    for name, contrast in plan.contrasts.items():
        families.setdefault(contrast.family, []).append(name)
    out = {name: ("undecided", len(plan.looks.seeds)) for name in plan.contrasts}
    for names in families.values():
        for look, n in enumerate(plan.looks.seeds, 1):
            words: dict[bool, dict[str, str]] = {}
            for whole, share in ((True, len(families)), (False, len(plan.contrasts))):
                words[whole] = {}
                for name in names:
                    sides = (plan.contrasts[name].arms, plan.contrasts[name].against)
                    own, base = (np.exp(np.mean([rows[arm][:n] for arm in side], axis=0)).tolist() for side in sides)
                    found = verdict(compare(own, base, plan.looks.level(look, share)), SMALLEST, True)
                    words[whole][name] = out[name][0] if out[name][0] != "undecided" else found
            agreed = len({*words[True].values()}) == 1
            for name in names:
                if out[name][0] == "undecided" and (word := words[agreed][name]) != "undecided":
                    out[name] = (word, look)
    return out


@pytest.mark.parametrize("declared", [{"axes": AXES}, SWEPT], ids=["axes", "sweep"])
def test_verdicts_are_those_of_the_looks_and_closed_arms_change_none(
    tiny: RunConfig, declared: Mapping[str, Any]
) -> None:
    """Random studies, compared with loops. An arm is closed once all of its comparisons are decided."""
    rng = np.random.default_rng(3)
    plan = planned(tiny, **declared)
    seen = Counter[tuple[str, int]]()
    for _ in range(8):
        logs = logs_of(plan, rng, rng.choice([0.005, 0.03, 0.1]))
        expected = by_hand(plan, logs)
        settled = settle(plan, cells_of(plan, logs))
        assert {name: settled.verdicts[name][::2] for name in plan.contrasts} == expected
        closed = settled.closed(plan)
        for arm in plan.arms:
            parts = [expected[name] for name, of in plan.contrasts.items() if arm in of.arms + of.against]
            ended = all(word != "undecided" for word, _ in parts)
            assert closed.get(arm) == (max(plan.looks.seeds[look - 1] for _, look in parts) if ended else None)
        fewer = dataclasses.replace(plan, closed=closed)
        assert settle(fewer, cells_of(fewer, logs)).verdicts == settled.verdicts
        seen.update(expected.values())
    assert {("worse", 1), ("tie", 1), ("undecided", 3)} <= seen.keys()
    assert any(word != "undecided" and look > 1 for word, look in seen)


def test_a_finding_holds_in_all_differs_or_is_undecided(tiny: RunConfig) -> None:
    plan = planned(tiny, 3, (3,), **SWEPT)
    shifts = {"data_end": (-0.5, -0.5, -0.5), "noise_end": (0.3, -0.3, -0.3)}
    noise = np.random.default_rng(0).normal(0, 0.001, (9, 3))
    logs = np.array([(0, 0, 0), *shifts.values()], dtype=float).reshape(9, 1) + noise
    settled = settle(plan, cells_of(plan, logs))
    found = in_all(plan, settled)
    assert (found["data_end"], found["noise_end"].word) == (("better in all", "", 0), "differs")
    assert found["noise_end"].reason == (
        "noise_end, learning_rate 0.001: worse; noise_end, learning_rate 0.003: better; noise_end, learning_rate 0.01: "
        "better"
    )
    logs[6:8] = 0.3 + noise[6:8]
    logs[8] = [0.3, -0.3, 0.0]
    assert in_all(plan, settle(plan, cells_of(plan, logs)))["noise_end"].word == "undecided"


def test_a_verdict_at_every_setting_needs_no_division_over_settings(tiny: RunConfig) -> None:
    """Each difference is significant for the arm (two-sided t at .025, two degrees of freedom: 6.2) but not for one of
    three settings (10.9). Together they are worse in all settings; if one is far from significant, no setting is worse.
    """
    plan = planned(tiny, 3, (3,), **SWEPT)
    ratios = 0.05 * 8 / math.sqrt(3) + 0.05 * np.array([-1, 0, 1])
    logs = np.zeros((9, 3))
    logs[3:6] = ratios
    logs[6:8] = ratios
    words = {name: found.word for name, found in settle(plan, cells_of(plan, logs)).verdicts.items()}
    assert {word for name, word in words.items() if name.startswith("data_end")} == {"worse"}
    assert [word for name, word in words.items() if name.startswith("noise_end")] == ["undecided", "undecided", "tie"]


def test_a_level_with_a_diverged_combination_is_unstable_and_the_others_keep_their_verdicts(tiny: RunConfig) -> None:
    plan = planned(tiny, 3, (3,), axes={"interpolant": PATHS, "weighting": ["uniform", "data_end", "noise_end"]})
    cells = cells_of(plan, np.random.default_rng(0).normal(0, 0.01, (9, 3)))
    lost = (cells.arm == "gvp, data_end") & (cells.seed == 1)
    cells = cells.assign(state=cells.state.mask(lost, DIVERGED), value=cells.value.mask(lost))
    found = {name: (v.word, v.reason) for name, v in settle(plan, cells).verdicts.items()}
    assert found.pop("interpolant: gvp") == found.pop("weighting: data_end") == ("unstable", "1 of 3 diverged")
    assert {word for word, _ in found.values()} == {"baseline", "tie"}
    lost = (cells.arm == "linear, noise_end") & (cells.seed == 1)
    cells = cells.assign(state=cells.state.mask(lost, DIVERGED), value=cells.value.mask(lost))
    found = {name: (v.word, v.reason) for name, v in settle(plan, cells).verdicts.items()}
    why = "the baseline interpolant: linear lost seeds (1 of 3 diverged), and the remaining seeds are a biased sample"
    assert found["interpolant: cosine"] == ("not compared", why)
    assert found["weighting: noise_end"][0] == "unstable"


SETTINGS = 3
ARMS = 2


def swept_errors(effects: np.ndarray, shared: float, studies: int) -> float:
    """Return the share of studies, of two arms at three settings, in which any arm has a false verdict at any setting.

    effects [settings] are the log ratios of both; `shared` is the part of the noise variance that settings share.
    """
    looks = Looks((5, 10, 20, 40))
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(studies):
        errs = False
        for _ in range(ARMS):
            common = rng.normal(0, math.sqrt(shared), looks.last)
            own = rng.normal(0, math.sqrt(1 - shared), (SETTINGS, looks.last))
            ratios = effects[:, None] + 0.1 * (common + own)
            errs |= any(false(word, effect) for word, effect in zip(judged(looks, ratios), effects, strict=True))
        wrong += errs
    return wrong / studies


def judged(looks: Looks, ratios: np.ndarray) -> list[str]:
    """Return the verdicts of one arm by the rule of `verdicts`, from log ratios [settings, seeds]."""
    kept = ["undecided"] * len(ratios)
    for look, n in enumerate(looks.seeds, 1):
        ones = [1.0] * n
        words = [
            [
                old if old != "undecided" else verdict(compare(np.exp(own[:n]).tolist(), ones, level), SMALLEST, True)
                for own, old in zip(ratios, kept, strict=True)
            ]
            for level in (looks.level(look, ARMS), looks.level(look, ARMS * len(ratios)))
        ]
        kept = words[0] if len({*words[0]}) == 1 else words[1]
        if "undecided" not in kept:
            break
    return kept


def false(word: str, effect: float) -> bool:
    """Whether a verdict is false for a log ratio; at the smallest difference, a tie is false."""
    if abs(effect) < math.log1p(SMALLEST) - 1e-9:
        return word in ("better", "worse") if effect == 0 else False
    return word in ("tie", "better" if effect > 0 else "worse")


EDGE = math.log1p(SMALLEST)
WORLDS = {
    "none": (0.0, 0.0, 0.0),
    "one none": (1.0, 1.0, 0.0),
    "edge": (EDGE,) * 3,
    "one at the edge": (0.0, 0.0, EDGE),
}
"""`one none`: the arm is worse except at one setting, where the arm's whole share of the level may be spent wrongly."""


@pytest.mark.parametrize("world", ["none", "one none"])
def test_few_sweeps_err(world: str) -> None:
    """A twentieth of the studies of the slow test, with the standard error of this number."""
    assert swept_errors(np.array(WORLDS[world]), 0.5, STUDIES // 20) <= LEVEL + 20**0.5 * (MOST - LEVEL)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("world", WORLDS)
def test_a_sweep_errs_in_one_of_twenty_at_most(world: str, shared: float) -> None:
    rate = swept_errors(np.array(WORLDS[world]), shared, STUDIES)
    print(f"{world}, {shared:.0%} shared: {rate:.3f}")
    assert rate <= MOST
