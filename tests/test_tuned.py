"""Arms that are tuned before they are judged: each with the same search, on a seed that no verdict uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.search_plan import SearchPlan, searches
from harness.ablation.design.space import at_ends, even, log, one_of
from harness.ablation.design.study import Study, load_scale, load_study
from harness.ablation.design.tuned import Found, Tuned, Tuning
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report import committed as committed_tables
from harness.ablation.report import published
from harness.ablation.report.tuned import about
from harness.cli import main
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import read_json, results_folder, write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run

TUNED = Tuned(spaces={"digits": {"train.learning_rate": log(1e-3, 1e-1)}}, trials=3, rungs=2, samples=32)
STUDY = Study(
    name="toy", question="Which?", baseline="a", nfe=2, looks=(3,), arms={"a": {}, "b B": {"weighting": "data_end"}}
)


def planned(base: RunConfig, changes: dict[str, Any] | None = None, seeds: int | None = None, **changed: Any) -> Plan:
    return Plan.of(dataclasses.replace(STUDY, **changed), "digits", base, changes or {}, seeds, [])


def test_every_arm_is_searched_with_the_same_budget(tiny: RunConfig) -> None:
    found = searches(planned(tiny), TUNED)
    assert [*found] == ["a", "b B"]
    assert found["b B"].base.weighting.name == "data_end" != found["a"].base.weighting.name
    for plan in found.values():
        assert (plan.space, plan.trials, plan.metric, plan.nfe) == (TUNED.spaces["digits"], 3, "fid", 2)
        assert (plan.base.seed, plan.base.evaluate.num_samples, plan.base.train.sample_every) == (1000, 32, 6)
    assert found["a"].name == "toy-a-digits-search"
    changed = searches(planned(tiny, {"train.steps": 20}), TUNED)
    names = {plan.name for plan in (*found.values(), *changed.values())}
    assert len(names) == 4, "other arms and other changes have tables of their own names"
    assert all(" " not in name and name == name.lower() for name in names)


@pytest.mark.parametrize(
    ("own", "space"),
    [
        ({"train.learning_rate": 1e-3}, {"train.learning_rate": log(1e-3, 1e-1)}),
        ({"train": {"learning_rate": 1e-3}}, {"train.learning_rate": log(1e-3, 1e-1)}),
        ({"train.ema_decay": 0.9}, {"1 - train.ema_decay": log(1e-3, 1e-1)}),
        ({"weighting": {"name": "min_snr", "gamma": 2}}, {"weighting.gamma": log(1.0, 9.0)}),
        ({"weighting.gamma": 2}, {"weighting": one_of("min_snr", "data_end")}),
    ],
    ids=str,
)
def test_an_arm_that_sets_a_drawn_setting_is_refused(own: dict[str, Any], space: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"^arm 'b': `tuned` draws .* but this arm sets it\. Leave out one of the two\.$"
    ):
        dataclasses.replace(STUDY, arms={"a": {}, "b": own}, tuned=Tuned(spaces={"digits": space}))
    other = Tuned(spaces={"digits": {"train.warmup_steps": log(1, 5)}})
    dataclasses.replace(STUDY, arms={"a": {}, "b": own}, tuned=other)


def test_impossible_tuning_is_refused_in_one_line(tiny: RunConfig) -> None:
    with pytest.raises(UserError, match=r"^matched: .* Leave out matched or tuned\.$"):
        dataclasses.replace(STUDY, tuned=TUNED, matched="samples")
    with pytest.raises(UserError, match=r"^tuned: expected Tuned\(\.\.\.\), got 'tuning'"):
        dataclasses.replace(STUDY, tuned="tuning")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^spaces\['digits'\]\['train\.steps'\]: 5 is not a range"):
        Tuned(spaces={"digits": {"train.steps": 5}})
    with pytest.raises(UserError, match=r"^trials: 0 is outside"):
        dataclasses.replace(TUNED, trials=0)
    with pytest.raises(UserError, match=r"^tuned: there is no space for digits\. "):
        planned(tiny, tuned=Tuned(spaces={"fashion": {}}))
    with pytest.raises(UserError, match=r"^--seeds: 1001 includes seed 1000"):
        planned(tiny, seeds=1001, tuned=TUNED)
    with pytest.raises(UserError, match=r"^arm 'a', tuned: space\.weighting\.gamma: "):
        searches(planned(tiny), Tuned(spaces={"digits": {"weighting.gamma": log(1.0, 9.0)}}))
    with pytest.raises(UserError, match=r"^train\.learning_rate: tuning sets it in every arm of 'toy'"):
        searches(planned(tiny, {"train.learning_rate": 1e-3}), TUNED)
    with pytest.raises(UserError, match=r"^arm 'a', tuned: seed: 2 is one of the reporting seeds"):
        searches(planned(tiny), dataclasses.replace(TUNED, seed=2))
    with pytest.raises(UserError, match=r"^tuned: seed 2 is one of the reporting seeds, 0 to 2\. Take another"):
        planned(tiny, tuned=dataclasses.replace(TUNED, seed=2))
    with pytest.raises(UserError, match=r"^toy-digits: .* the search of a, b B has not ended\. "):
        planned(tiny, tuned=TUNED)


def test_a_table_says_how_many_samples_judged_a_trial(tiny: RunConfig) -> None:
    """The number at the study's NFE, or fewer if the searches use fewer."""
    more = override(tiny, {"evaluate.more_samples": [{"nfe": 2, "num_samples": 100}]})
    for most, number in ((5000, 100), (32, 32)):
        budget = dataclasses.replace(TUNED, samples=most).budget("digits")
        plan = dataclasses.replace(planned(more), tuning=Tuning(budget, {}))
        assert f" at NFE 2 of {number} samples, on seed 1000" in about(plan)[0]


def test_a_table_says_which_best_values_lie_near_an_end_of_their_range(tiny: RunConfig) -> None:
    """On a log range, of the distance from 1, or on an even one; a choice has no ends."""
    space = {
        "train.learning_rate": log(1e-4, 1e-1), "1 - train.ema_decay": log(1e-3, 1e-1), "objective.eps": even(0.0, 1.0),
        "train.batch_size": one_of(8, 16),
    }  # fmt: skip
    middle = {"train.learning_rate": 3e-3, "train.ema_decay": 0.99, "objective.eps": 0.5, "train.batch_size": 8}
    assert at_ends(space, middle) == []
    for path, value in (
        ("train.learning_rate", 6e-2), ("train.learning_rate", 1.9e-4), ("train.ema_decay", 0.9985),
        ("train.ema_decay", 0.93), ("objective.eps", 0.05), ("objective.eps", 0.95),
    ):  # fmt: skip
        assert at_ends(space, {**middle, path: value}) == [path]
    assert at_ends({"train.learning_rate": log(1e-3, 1e-3)}, {"train.learning_rate": 1e-3}) == []
    budget = dataclasses.replace(TUNED, spaces={"digits": {"train.learning_rate": log(1e-4, 1e-1)}}).budget("digits")
    found = Found(settings={"train.learning_rate": 0.09}, value=1.0, trials={}, search="abc")
    said = about(dataclasses.replace(planned(tiny), tuning=Tuning(budget, {"a": found})))
    assert "a: train.learning_rate lies near an end of its range, so better values may lie outside." in said


FILE = """
from harness.ablation.design.space import log
from harness.ablation.design.study import Study
from harness.ablation.design.tuned import Tuned

SMALL = {"train.steps": 20, "train.warmup_steps": 2, "evaluate.nfe": [2], "evaluate.num_samples": 50}
SMALL["evaluate.metrics"] = ["sliced_wasserstein"]
STUDY = Study(
    question="Which?",
    baseline="a",
    arms={"a": SMALL, "b": {**SMALL, "weighting": "data_end"}},
    looks=(3,),
    nfe=2,
    tuned=Tuned(spaces={"points": {"train.learning_rate": log(1e-4, 1e-1)}}, trials=3, rungs=2),
)
"""
WORDS = ["--scale", "points"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Boards end without training: values of trials are their distances from a rate of 0.05, or 0.0005 for arm b;
    returns the names of the boards with open trials.
    """
    names = list[str]()

    def run(board: Any, placement: Any, console: Any, stop: Any, report: Callable[[], list[Path]], *rest: Any) -> bool:
        if isinstance(board, SearchBoard):
            names.append(board.plan.name)
            while claimed := board.next():
                trial, lease = claimed
                lease.close()
                end(board, trial)
        else:
            plan: Plan = board.plan
            for arm, seed in plan.unfinished():
                names.append(f"{arm} {seed}")
                judged(plan.run(arm, seed), plan, arm, 8.0 + seed - 3 * (arm == "b"))
        report()
        return True

    monkeypatch.setattr("harness.cli.plans.launch", run)
    return names


def end(board: SearchBoard, trial: optuna.Trial) -> None:
    rate = trial.params["train.learning_rate"]
    plan: SearchPlan = board.plan
    wanted = 0.05 if plan.base.weighting.name == "uniform" else 0.0005
    trial.set_user_attr("run", Run.of(plan.config(trial.params)).name)
    board.study.tell(trial, max(rate / wanted, wanted / rate))


def judged(run: Run, plan: Plan, arm: str, value: float) -> None:
    protocol = plan.protocol(arm)
    known = run.evaluation(protocol) | {"values": {plan.metric: {"2": value}}, "commits": ["abc"]}
    write_json(
        run.folder / "evaluations" / f"{protocol.digest}.json", known | {"seconds": {"2": 1.0}, "time": {"2": 1.75e9}}
    )


def plans_of(name: str) -> list[str]:
    """Return the digests of the plans stored under a name."""
    return [stored["plan"] for stored in read_json(results_folder() / "local" / "plans" / f"{name}.json")]


def kept(name: str) -> list[dict[str, Any]]:
    """Return the designs stored under the name of a plan."""
    return [stored["design"] for stored in read_json(results_folder() / "local" / "plans" / f"{name}.json")]


@pytest.fixture
def tuned(tmp_path: Path, launched: list[str], undrawn: None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The file of a finished study, and its table's path without an ending."""
    monkeypatch.setattr("harness.ablation.report.history.png", lambda figure: b"")
    (file := tmp_path / "rates.py").write_text(FILE)
    assert main(["ablate", str(file), *WORDS, "--workers", "1"]) == 0
    assert launched
    (table,) = (results_folder() / "local" / "tables").glob("*.md")
    return str(file), table.with_suffix("")


def test_a_study_tunes_its_arms_then_judges_them(tuned: tuple[str, Path], launched: list[str]) -> None:
    file, table = tuned
    searched = [f"rates-{arm}-points-search" for arm in "ab"]
    assert launched == [*searched, *(f"{arm} {seed}" for seed in range(3) for arm in "ab")]
    written = read_json(table.with_suffix(".json"))
    found = written["tuned"]["found"]
    for arm in "ab":
        search = read_json(table.with_name(f"rates-{arm}-points-trials.json"))
        rate = search["best"]["train.learning_rate"]
        assert found[arm]["settings"] == {"train.learning_rate": rate}
        assert (found[arm]["value"], found[arm]["search"]) == (search["best"]["value"], search["search"])
        assert found[arm]["trials"] == {"finished": 3}
        assert (
            f"{arm} was tuned to train.learning_rate {rate:g} (sliced Wasserstein"
            in table.with_suffix(".md").read_text()
        )
        assert written["settings"][arm]["train.learning_rate"] == rate
    assert found["a"]["settings"]["train.learning_rate"] > found["b"]["settings"]["train.learning_rate"]
    first, second = kept(table.name)
    assert first["tuned by"] == second["tuned by"] == written["tuned"]["budget"], (
        "stored before any search, and any run"
    )
    plain = Plan.of(dataclasses.replace(load_study(file), tuned=None), "points", load_scale("points"), {}, None, [])
    assert plain.digest not in plans_of(table.name), "the same arms without the searches are another design"
    assert (first["tuned by"]["trials"], first["arms"] == second["arms"]) == (3, False)
    assert not [note for note in written["notes"] if note.startswith("Not planned")]


def test_a_tuned_study_is_continued_and_published(
    tuned: tuple[str, Path], launched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, table = tuned
    again = ["ablate", file, *WORDS, "--workers", "1"]
    written = read_json(table.with_suffix(".json"))
    done = list(launched)
    for command in (again, ["table", file, *WORDS]):
        assert main(command) == 0
        assert launched == done, "nothing is searched or trained again"
        assert read_json(table.with_suffix(".json"))["verdicts"] == written["verdicts"]
    assert len(kept(table.name)) == 2
    (results_folder() / "local" / "plans" / f"{table.name}-tuned.json").unlink()
    assert main(again) == 0
    assert read_json(table.with_suffix(".json"))["tuned"] == written["tuned"], "read anew from the searches"
    assert launched == [*done, *done[:2]]
    study = load_study(file)
    more = dataclasses.replace(study, tuned=dataclasses.replace(study.tuned, trials=4))  # type: ignore[type-var]
    with pytest.raises(UserError, match="the search of a, b has not ended"):
        Plan.of(more, "points", load_scale("points"), {}, None, [])
    (studies := tmp_path / "checkout" / "studies").mkdir(parents=True)
    for module in (published, committed_tables):
        monkeypatch.setattr(module, "studies_folder", lambda: studies)
    assert main(["publish", file, *WORDS]) == 0
    committed = {path.name for path in (tmp_path / "checkout" / "results" / "tables").iterdir()}
    assert committed == {path.name for path in table.parent.iterdir()}
    assert len([name for name in committed if name.endswith("-trials.json")]) == 2
