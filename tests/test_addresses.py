"""Runs by study, arm and seed: a plan finds its runs, and a wrong address gives one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import load_run
from harness.ablation.design.addresses import find_run
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.cli import main
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import locked, results_folder, write_json
from harness.data import base
from harness.runs import stored
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import facts_of, training_digest

ODD = "data in [0, 1] / twice"
"""An arm with spaces and a slash."""


def planned(tiny: RunConfig, scale: str = "digits", seeds: int = 2, **steps: int) -> Plan:
    """Return a stored plan with three arms: two trainings, and another solver on the first."""
    first = override(tiny, {f"train.{name}": value for name, value in steps.items()})
    arms = {
        "uniform": first,
        ODD: override(first, {"weighting": "min_snr"}),
        "heun": override(first, {"evaluate.solver": "heun", "evaluate.nfe": [2]}),
    }
    looks = Looks((seeds,))
    plan = Plan("weighting", scale, "Which?", "uniform", arms, looks, tuple(range(seeds)), "fid", 2, 0.1, ())
    plan.write()
    return plan


def begun(run: Run) -> Run:
    """Write the files of a run that has begun training."""
    run.describe(lambda _: None)
    about = {"commits": ["abc"], "parameters": 1, "weight_mean": 1.0, "name": run.name}
    write_json(run.folder / "environment.json", {**about, **facts_of(run.config)})
    return run


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    """A plan whose runs have begun, except the last seed of the odd arm."""
    made = planned(tiny)
    for arm, seed in made.trials():
        if (arm, seed) != (ODD, 1):
            begun(made.run(arm, seed))
    return made


def test_every_run_of_a_plan_is_found_by_its_address(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address may have the name of the study, of the plan or of its folder; no data are read."""
    folders = {(arm, seed): plan.run(arm, seed).folder for arm, seed in plan.trials() if (arm, seed) != (ODD, 1)}
    names = ("weighting", "weighting-digits", plan.folder.name)
    monkeypatch.setattr(base, "tried", lambda *_, **__: pytest.fail("data are read"))
    base.load.cache_clear()
    for (arm, seed), folder in folders.items():
        for study in names:
            assert find_run(f"{study}/{arm}/{seed}").folder == folder, (study, arm, seed)


def test_a_run_that_is_found_by_its_address_is_judged_as_its_arm_is(plan: Plan) -> None:
    """Arms that share a training differ only in the evaluation; the run's files have that of the first arm."""
    run = find_run("weighting/heun/1")
    assert run.folder == find_run("weighting/uniform/1").folder
    assert (run.config.evaluate.solver.name, run.config.seed) == ("heun", 1)
    assert Run.find(run.name).config.evaluate.solver.name == "euler"
    assert load_run("weighting/heun/1") == run
    assert load_run("weighting/heun/1", {"evaluate.solver": "midpoint"}).config.evaluate.solver.name == "midpoint"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weihgting/uniform/0", "holds no plan of that name. Did you mean 'weighting'?"),
        ("weighting/unifrom/0", "'unifrom' is not an arm of weighting. Did you mean 'uniform'?"),
        (f"weighting/{ODD}/1", "holds no run of this arm and seed. Seeds of this arm on disk: 0."),
        ("weighting/uniform/9", "Seeds of this arm on disk: 0, 1."),
        ("weighting/uniform", "is neither a folder nor STUDY/ARM/SEED."),
        ("weighting/uniform/first", "is neither a folder nor STUDY/ARM/SEED."),
        ("./weighting/uniform/0", "no such run."),
        ("nosuch", "no such run."),
    ],
)
def test_a_wrong_address_gives_one_line_with_the_choices(plan: Plan, name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        find_run(name)
    line = str(caught.value)
    assert line.startswith(f"{name}: ")
    assert said in line
    assert "\n" not in line


def test_a_misspelt_run_name_suggests_the_nearest(plan: Plan) -> None:
    name = plan.run("uniform", 0).name
    with pytest.raises(UserError, match=f"Did you mean '{name}'"):
        find_run(name[1:])


def test_an_address_of_several_runs_names_them(tiny: RunConfig, plan: Plan) -> None:
    """First two scales, then two settings of one scale: each suggested address finds its run."""
    other = planned(tiny, "points", steps=13)
    begun(other.run("uniform", 0))
    with pytest.raises(UserError) as caught:
        find_run("weighting/uniform/0")
    choices = str(caught.value).partition("Choose: ")[2].rstrip(".").split(", ")
    assert choices == ["weighting-digits/uniform/0", "weighting-points/uniform/0"]
    assert [find_run(choice).folder for choice in choices] == [each.run("uniform", 0).folder for each in (plan, other)]
    again = planned(tiny, steps=14)
    begun(again.run("uniform", 0))
    with pytest.raises(UserError) as caught:
        find_run("weighting-digits/uniform/0")
    choices = str(caught.value).partition("Choose: ")[2].rstrip(".").split(", ")
    assert {find_run(choice).folder for choice in choices} == {each.run("uniform", 0).folder for each in (plan, again)}


def test_a_run_beyond_the_plans_seeds_is_found(tiny: RunConfig) -> None:
    """A later command with fewer seeds hides no run."""
    many = planned(tiny, seeds=4)
    run = begun(many.run("uniform", 3))
    replace(many, seeds=(0, 1)).write()
    assert find_run("weighting/uniform/3").folder == run.folder


def test_a_changed_plan_that_kept_a_run_has_no_second_one(plan: Plan) -> None:
    arms = {**plan.arms, "more": override(plan.arms["uniform"], {"weighting": "data_end"})}
    replace(plan, arms=arms).write()
    assert find_run("weighting/uniform/0").folder == plan.run("uniform", 0).folder


def test_a_run_of_earlier_numerics_gives_way_to_one_of_todays(plan: Plan) -> None:
    run = plan.run("uniform", 0)
    old = run.folder.with_name("0123456789ab-s0")
    shutil.copytree(run.folder, old)
    facts = json.loads((old / "environment.json").read_text()) | {"numerics_version": 1}
    renamed = old.with_name(f"{training_digest(run.config, facts)}-s0")
    old.rename(renamed)
    write_json(renamed / "environment.json", facts)
    assert find_run("weighting/uniform/0").folder == run.folder
    shutil.rmtree(run.folder)
    assert find_run("weighting/uniform/0").folder == renamed


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    assert main(["runs", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_runs_are_listed_with_their_states_and_scores(
    tiny: RunConfig, tiny_run: Run, plan: Plan, score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tiny_run` is the run of `uniform` and `heun` with seed 0; a run without a study comes last."""
    score(tiny_run, plan.protocol("uniform"), {1: 7.0, 2: 3.5})
    score(tiny_run, plan.protocol("heun"), {2: 2.5})
    write_json(plan.run(ODD, 0).folder / "diverged.json", {"reason": "it did"})
    alone = begun(Run.of(override(tiny, {"seed": 7, "loss": "pseudo_huber"})))
    with locked(plan.run("uniform", 1).folder / "lock"):
        rows = listed(capsys)
    found = [(row["study"], row["arm"], row["seed"], row["state"], row["value"], row["name"]) for row in rows]
    first, odd, second = (plan.run(*trial).name for trial in (("uniform", 0), (ODD, 0), ("uniform", 1)))
    study = "weighting-digits"
    assert found == [
        (study, "uniform", 0, "finished", 3.5, first),
        (study, "uniform", 1, "running", None, second),
        (study, ODD, 0, "diverged", None, odd),
        (study, "heun", 0, "finished", 2.5, first),
        (study, "heun", 1, "running", None, second),
        (None, None, 7, "interrupted", None, alone.name),
    ]
    for row in rows:
        assert find_run(row["address"]).name == row["name"]
    assert listed(capsys, "weighting") == [row | {"state": STATES.get(row["state"], row["state"])} for row in rows[:-1]]


STATES = {"running": "interrupted"}
"""The states when no process holds the lock."""


def test_values_against_several_references_are_reported(
    plan: Plan, score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their settings are the same, but the table must say that the references differ."""
    score(plan.run("uniform", 0), plan.protocol("uniform"), {2: 3.5})
    score(plan.run("uniform", 1), plan.protocol("uniform"), {2: 3.0})
    assert main(["runs"]) == 0
    assert "several references" not in capsys.readouterr().out
    score(plan.run(ODD, 0), replace(plan.protocol(ODD), weights="others"), {2: 2.0})
    assert len({row["against"] for row in listed(capsys) if row["value"]}) == 2
    assert main(["runs"]) == 0
    assert "several references" in capsys.readouterr().out


def test_a_value_by_other_settings_is_shown_and_marked(
    tiny: RunConfig, plan: Plan, score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its protocol is another one, so the value does not stand for the run's own."""
    alone = begun(Run.of(override(tiny, {"seed": 7, "loss": "pseudo_huber"})))
    other = override(alone.config, {"evaluate.num_samples": 32}).protocol()
    score(alone, other, {1: 9.5, 2: 4.5})
    row = listed(capsys)[-1]
    assert (row["name"], row["metric"], row["nfe"], row["value"], row["protocol"]) == (
        alone.name, "fid", 2, 4.5, other.digest,
    )  # fmt: skip
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    assert "4.5 *" in said
    assert "* measured with other settings than the run's own" in said.replace("\n", " ")


def test_a_run_whose_component_is_missing_says_what_it_needs(
    tiny: RunConfig, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = begun(Run.of(override(tiny, {"seed": 7, "weighting": "noise_end"})))
    place = alone.folder / "config.json"
    place.write_text(place.read_text().replace('"noise_end"', '"mine"'))
    about = alone.folder / "environment.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sources": {"weighting.mine": "0" * 12}}))
    assert listed(capsys)[-1]["state"] == "needs --plugin"


def test_the_table_of_runs_fits_80_columns(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arms = {"a name, of many words, as three axes with several levels each have it, in full": plan.arms["uniform"]}
    replace(plan, arms=arms, baseline=next(iter(arms)), scale="long").write()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    name = plan.run("uniform", 0).name
    assert sum(name in line for line in lines) == 3
    assert "…" not in "".join(lines)


def test_unlisted_runs_are_reported(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "weihgting"]) == 2
    assert "Did you mean 'weighting'?" in capsys.readouterr().err
    (evaluations := plan.run("uniform", 0).folder / "evaluations").mkdir()
    (evaluations / "0123456789ab.json").write_text("{")
    assert main(["runs"]) == 0
    assert "0123456789ab.json: cannot be read" in capsys.readouterr().err
    shutil.rmtree(results_folder() / "local" / "runs")
    assert main(["runs"]) == 0
    assert f"There is no run in {results_folder() / 'local' / 'runs'}" in capsys.readouterr().out
    place: Path = plan.folder / "plan.json"
    place.write_text(place.read_text().replace('"min_snr"', '"mine"'))
    assert main(["runs"]) == 0
    assert "'mine' is not a known weighting" in (said := capsys.readouterr().err.replace("\n", " "))
    assert "--plugin FILE" in said


def test_rounds_of_reflow_are_told_apart_by_their_teachers(tiny: RunConfig) -> None:
    """All facts of the rounds are equal but for the teacher, and the name does not cover the number of the round."""
    arms = {f"{k}-rectified": override(tiny, {"reflow.rounds": k - 1}) for k in (1, 2, 3)}
    made = Plan("reflow", "digits", "Which?", "1-rectified", arms, Looks((2,)), (0, 1), "fid", 2, 0.1, ())
    made.write()
    for arm, seed in made.trials():
        begun(made.run(arm, seed))
    known = stored.facts_on_disk()
    for arm, config in arms.items():
        assert stored.runs_of(config, [0, 1], known) == [made.run(arm, 0), made.run(arm, 1)]
        assert find_run(f"reflow/{arm}/1") == made.run(arm, 1)
