"""Finished runs sampled in several ways: nothing is trained, and every number equals that of a separate evaluation."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from harness.ablation.design import sweep
from harness.ablation.execute.worker import PlanBoard, work
from harness.cli import main
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import results_folder
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.sample import restore
from harness.runs.train import ensure


@pytest.fixture(scope="module")
def trained_twice(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two seeds of a training."""
    results = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(results))
        for seed in (0, 1):
            ensure(override(tiny, {"seed": seed, "evaluate.nfe": [1, 2, 4]}), print, lambda: False)
    return results


@pytest.fixture
def trained(tiny: RunConfig, trained_twice: Path, isolated: None) -> list[Run]:
    """Two seeds of a training."""
    shutil.copytree(trained_twice, results_folder())
    return [Run.of(override(tiny, {"seed": seed, "evaluate.nfe": [1, 2, 4]})) for seed in (0, 1)]


def test_words_become_axes() -> None:
    axes = sweep.axes_of(
        ["solver=euler,heun", "evaluate.guidance.scale=1,2.5", 'time_grid=uniform,{"name":"shifted","shift":[1,2]}']
    )
    assert {path: [value.read() for value in values] for path, values in axes.items()} == {
        "solver": ["euler", "heun"],
        "guidance.scale": [1, 2.5],
        "time_grid": ["uniform", {"name": "shifted", "shift": [1, 2]}],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solver"], "'solver' is not path=value,value"),
        (["nfe=1,2"], "nfe is not an axis"),
        (["metrics=fid,kid"], "metrics is not an axis"),
    ],
    ids=str,
)
def test_invalid_axes_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep.axes_of(words)


def test_every_way_is_judged_at_the_nfes_that_its_solver_can_use(trained: list[Run]) -> None:
    plan = sweep.plan_of(trained, sweep.axes_of(["solver=euler,heun,dopri5", "time_grid=uniform,quadratic"]))
    assert {arm: config.evaluate.nfe for arm, config in plan.arms.items()} == {
        "euler, uniform": (1, 2, 4), "euler, quadratic": (1, 2, 4), "heun, uniform": (2, 4), "heun, quadratic": (2, 4),
        "dopri5, uniform": (0,), "dopri5, quadratic": (0,),
    }  # fmt: skip
    assert plan.baseline == "euler, uniform"
    assert plan.seeds == (0, 1)
    described = sweep.plan_of(trained, sweep.axes_of(['time_grid=uniform,{"name":"shifted","shift":2}']))
    assert [*described.arms] == ["uniform", "shifted shift 2"]
    assert plan.one_training


def test_a_sweep_trains_nothing_and_gives_the_values_of_evaluations(
    trained: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runs.train.fit", lambda *_: pytest.fail("trained"))
    plan = sweep.plan_of(trained, sweep.axes_of(["solver=euler,heun"]))
    work(PlanBoard(plan), lambda: False)
    for run in trained:
        config = override(run.config, {"evaluate.solver": "heun", "evaluate.nfe": [4]})
        protocol = config.protocol()
        swept = run.evaluation(protocol)["values"]["fid"]["4"]
        (run.folder / "evaluations" / f"{protocol.digest}.json").unlink()
        again = Run.of(config)
        evaluate(again, restore(again), judge_of(config), lambda: False)
        assert again.evaluation(protocol)["values"]["fid"]["4"] == swept


@pytest.mark.slow
def test_the_command_compares_and_writes(trained: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *(run.name for run in trained), "--sweep", "solver=euler,heun"]) == 0
    said = capsys.readouterr().out
    assert "The arms share their trainings and differ in solver" in said
    name = f"sweep-solver-{trained[0].name.partition('-')[0]}"
    local = results_folder() / "local"
    assert (local / "figures" / f"{name}.png").is_file()
    assert "Read off FID" in (local / "tables" / f"{name}.md").read_text()


def test_other_trainings_and_single_ways_are_refused(trained: list[Run], tiny: RunConfig, tmp_path: Path) -> None:
    axes = sweep.axes_of(["solver=euler,heun"])
    other = Run.of(override(tiny, {"train.steps": 3}))
    with pytest.raises(UserError, match=f"{other.name} and .* are different trainings"):
        sweep.plan_of([trained[0], other], axes)
    with pytest.raises(UserError, match="a sweep needs two combinations"):
        sweep.plan_of(trained, sweep.axes_of(["solver=euler"]))
    with pytest.raises(UserError, match="'hein' is not a known solver"):
        sweep.plan_of(trained, sweep.axes_of(["solver=euler,hein"]))
    moved = dataclasses.replace(trained[0], folder=tmp_path)
    with pytest.raises(UserError, match="must be at"):
        sweep.plan_of([moved], axes)
