import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.design.folder import studies_folder
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study, load_scale, load_study
from harness.core.config import override
from harness.core.errors import UserError
from harness.runs.config import RunConfig
from harness.runs.validate import check

STUDY = Study(
    name="toy", question="Which?", baseline="a", looks=(3, 6), nfe=2,
    arms={"a": {"weighting": "uniform"}, "b": {"weighting": {"name": "min_snr", "gamma": 2}}},
)  # fmt: skip

GOOD = (
    "from harness.ablation.design.study import Study; STUDY = Study(question='?', baseline='a', arms={'a': "
    "{}, 'b': {}})"
)


def planned(base: RunConfig, study: Study = STUDY, **changes: Any) -> Plan:
    return Plan.of(study, "digits", base, changes, 2, [])


@pytest.mark.parametrize("name", sorted(p.stem for p in studies_folder().glob("*.py") if "STUDY = " in p.read_text()))
def test_every_study_can_be_planned(name: str) -> None:
    scale = "sequences" if name == "sequences" else "digits"
    study = dataclasses.replace(load_study(name), tuned=None)  # no search has run
    plan = Plan.of(study, scale, load_scale(scale), {}, None, [])
    assert plan.baseline in plan.arms
    assert plan.nfe in plan.arms[plan.baseline].evaluate.nfe
    for config in plan.arms.values():
        check(config)
    evaluations = {(plan.run(arm, seed).name, plan.protocol(arm).digest) for arm, seed in plan.trials()}
    assert len(evaluations) == len(plan.arms) * len(plan.seeds)
    shared = {"solver": 1, "ema": 1, "practice": len(plan.arms) - 1, "interpolant_grid": len(plan.arms) // 3}
    trainings = shared.get(name, len(plan.arms))
    assert len({name for name, _ in evaluations}) == len(plan.seeds) * trainings


def test_a_misspelt_study_or_scale_gets_advice() -> None:
    with pytest.raises(UserError, match=r"'weightin' is not a known study\. Did you mean 'weighting'"):
        load_study("weightin")
    with pytest.raises(UserError, match="'scales' is not a known study"):
        load_study("scales")
    with pytest.raises(UserError, match=r"'digit' is not a known scale\. Did you mean 'digits'"):
        load_scale("digit")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.py", "STUDY = 3", "no study"),
        ("mine.py", "x = 1", "no study"),
        ("My-Study.py", GOOD, "a-z, 0-9"),
        ("mine.py", "STUDY = ", "SyntaxError"),
        ("mine.py", GOOD.replace("'a', arms", "'c', arms"), "baseline 'c'"),
    ],
)  # fmt: skip
def test_a_file_without_a_study_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_study(str(tmp_path / name))


@pytest.mark.parametrize("path", ["weighting", "weighting.gamma", "seed"])
def test_a_change_that_every_arm_replaces_is_refused(tiny: RunConfig, path: str) -> None:
    with pytest.raises(UserError, match=f"^{path}: "):
        planned(tiny, STUDY, **{path: 1})


def test_a_change_that_one_arm_replaces_reaches_the_other(tiny: RunConfig) -> None:
    study = dataclasses.replace(STUDY, arms={"a": {}, "b": {"train.steps": 20}})
    plan = planned(tiny, study, **{"train.steps": 15, "train.batch_size": 8})
    assert {name: (c.train.steps, c.train.batch_size) for name, c in plan.arms.items()} == {"a": (15, 8), "b": (20, 8)}


def test_settings_at_a_scale_hold_at_this_scale_alone_and_give_way_to_arms_and_changes(tiny: RunConfig) -> None:
    own = {"digits": {"train.batch_size": 12, "train.steps": 7}}
    study = dataclasses.replace(STUDY, at_scale=own, arms={"a": {}, "b": {"train.steps": 8}})
    plans = {scale: Plan.of(study, scale, tiny, {}, 2, []) for scale in ("digits", "points")}
    found = {scale: [(arm.train.batch_size, arm.train.steps) for arm in plans[scale].arms.values()] for scale in plans}
    assert found["digits"] == [(12, 7), (12, 8)]
    assert found["points"] == [(tiny.train.batch_size, tiny.train.steps), (tiny.train.batch_size, 8)]
    assert planned(tiny, study, **{"train.batch_size": 9}).arms["b"].train.batch_size == 9
    assert planned(tiny, study, **{"train.batch_size": 12}).name == "toy-digits"  # nothing changed


def test_settings_at_an_unknown_scale_and_wrong_settings_there_are_refused(tiny: RunConfig) -> None:
    with pytest.raises(UserError, match=r"toy, at_scale: 'digit' is not a known scale\. Did you mean 'digits'"):
        planned(tiny, dataclasses.replace(STUDY, at_scale={"digit": {}}))
    with pytest.raises(UserError, match=r"at_scale\['digits'\].*train\.step"):
        planned(tiny, dataclasses.replace(STUDY, at_scale={"digits": {"train.step": 5}}))


def test_a_mistake_in_an_arm_names_the_arm(tiny: RunConfig) -> None:
    study = dataclasses.replace(STUDY, arms={"a": {}, "b": {"weighting.gama": 2}})
    with pytest.raises(UserError, match=r"^arm 'b'\.weighting\.gama: "):
        planned(tiny, study)


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seeds_are_refused(tiny: RunConfig, seeds: int) -> None:
    with pytest.raises(UserError, match="--seeds"):
        Plan.of(STUDY, "digits", tiny, {}, seeds, [])


def test_verdicts_use_the_first_metric_of_the_scale_unless_the_study_names_one(tiny: RunConfig) -> None:
    both = override(tiny, {"evaluate.metrics": ["kid", "fid"]})
    assert planned(both).metric == "kid"
    assert planned(both, dataclasses.replace(STUDY, metric="fid")).metric == "fid"
    assert planned(both).digest != planned(both, dataclasses.replace(STUDY, metric="fid")).digest
    assert planned(both).digest == planned(both, dataclasses.replace(STUDY, metric="kid")).digest


def test_an_unknown_metric_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(UserError, match=r"'fdi' is not a known metric\. Did you mean 'fid'"):
        planned(tiny, dataclasses.replace(STUDY, metric="fdi"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"baseline": "c"},
        {"arms": {"a": {}}},
        {"smallest_difference": 0.0},
        {"smallest_difference": 5.0},
        {"looks": ()},
        {"looks": (2, 5)},
        {"looks": (5, 5)},
        {"looks": (10, 5)},
        {"looks": "5"},
        {"looks": 5},
        {"spending": "all"},
        {"nfe": -1},
        {"question": None},
        {"baseline": 0},
        {"metrics": "fid"},
        {"metrics": [1]},
        {"expected_nfe": {"a": (1,)}},
        {"expected_nfe": {"a": (1, 2.5)}},
        {"smallest_difference": "a lot"},
    ],
    ids=str,
)
def test_an_invalid_study_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong)).replace("arms", "another one")):
        dataclasses.replace(STUDY, **wrong)


def test_a_trial_is_its_arm_with_its_seed_and_seeds_are_consecutive(tiny: RunConfig) -> None:
    plan = planned(tiny)
    assert plan.trials() == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert plan.config("b", 1) == override(tiny, {"weighting": {"name": "min_snr", "gamma": 2}, "seed": 1})


@pytest.mark.parametrize(("path", "value"), [("train.steps", 13), ("weighting", "data_end"), ("evaluate.nfe", [2])])
def test_a_setting_changes_the_digest(tiny: RunConfig, path: str, value: object) -> None:
    study = dataclasses.replace(STUDY, arms={"a": {}, "b": {"time_sampler": "power"}})
    assert planned(tiny, study, **{path: value}).digest != planned(tiny, study).digest


@pytest.mark.parametrize(
    "change",
    [
        {"nfe": 1},
        {"smallest_difference": 0.1},
        {"baseline": "b"},
        {"looks": (3,)},
        {"spending": "equal"},
        {"question": "What?"},
    ],
    ids=str,
)
def test_the_design_of_a_study_changes_the_digest(tiny: RunConfig, change: dict) -> None:
    assert planned(tiny, dataclasses.replace(STUDY, **change)).digest != planned(tiny).digest


@pytest.mark.parametrize("name", ["log_every", "sample_every", "checkpoint_every"])
def test_the_way_of_carrying_it_out_does_not_change_the_digest(tiny: RunConfig, name: str) -> None:
    assert planned(tiny, STUDY, **{f"train.{name}": 7}).digest == planned(tiny).digest


def test_the_content_of_data_changes_the_digest_and_their_path_does_not(
    tiny: RunConfig, needed: Callable[..., dict[str, Any]]
) -> None:
    here, there, other = (planned(tiny, dataset={"name": "npz", **needed("npz", seed)}).digest for seed in (0, 0, 1))
    assert here == there != other


def test_a_plan_comes_back_from_its_file(tiny: RunConfig, tmp_path: Path) -> None:
    plan = Plan.of(STUDY, "digits", tiny, {}, 4, [tmp_path / "mine.py"])
    path = plan.write()
    assert path == plan.folder / "plan.json"
    assert json.loads(path.read_text())["seeds"] == [0, 1, 2, 3]
    assert Plan.read(path) == plan
    assert Plan.read(path).digest == plan.digest
