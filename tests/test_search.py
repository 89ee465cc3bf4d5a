"""A search: its draws, dead workers, pruning, and a fresh evaluation of the reported results."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

from harness.ablation.design.search import BASELINE, WINNER, Search, load_search
from harness.ablation.design.search_plan import SearchPlan, compared
from harness.ablation.design.space import Space, even, inverse, log, one_of, settings, together
from harness.ablation.design.study import load_scale
from harness.ablation.execute import tuner
from harness.ablation.execute.pruning import UNPRUNED_TRIALS
from harness.ablation.execute.tuner import RANDOM_TRIALS, SearchBoard
from harness.ablation.execute.worker import work
from harness.ablation.report import history
from harness.core.config import override
from harness.core.errors import Diverged, Stopped, UserError
from harness.core.files import read_json, read_lines
from harness.core.registry import build
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import known_rungs
from harness.runs.train import ensure

pytestmark = pytest.mark.usefixtures("unmeasured")
SPACE: Space = {
    "train.learning_rate": log(1e-4, 1e-1),
    "train.warmup_steps": even(0, 10),
    "train.batch_size": one_of(16, 32),
    "1 - train.ema_decay": log(1e-3, 1e-1),
    "weighting.gamma": log(0.1, 20.0),
}


def searched(**changes: Any) -> Search:
    own = {
        "question": "Which?",
        "spaces": {"digits": SPACE},
        "fixed": {"weighting": "min_snr"},
        "nfe": 2,
        "trials": 4,
        "name": "toy",
    }
    return Search(**{**own, **changes})


def planned(base: RunConfig, **changes: Any) -> SearchPlan:
    return SearchPlan.of(searched(**changes), "digits", base, None, [])


def draw(board: SearchBoard) -> optuna.Trial:
    """Return the next trial, with its lease released."""
    claimed = board.next()
    assert claimed
    claimed[1].close()
    return claimed[0]


def drawn(
    board: SearchBoard, number: int, value: Callable[[dict[str, Any]], float] = lambda values: 1.0
) -> list[dict[str, Any]]:
    """Return the settings of the next trials, and finish each with its value."""
    out = []
    for _ in range(number):
        trial = draw(board)
        out.append(settings(trial.params))
        board.study.tell(trial, value(out[-1]))
    return out


def distance(values: dict[str, Any]) -> float:
    """Return the distance from learning rate 0.01, gamma 2 and an average of 0.99, in decades."""
    errors = (
        values["train.learning_rate"] / 0.01,
        values["weighting.gamma"] / 2,
        (1 - values["train.ema_decay"]) / 0.01,
    )
    return 0.1 + sum(math.log10(error) ** 2 for error in errors) + (values["train.batch_size"] != 32)


def states(board: SearchBoard) -> Counter[str]:
    return Counter(trial.state.name for trial in board.trials())


def never() -> bool:
    return False


def test_it_finds_the_best_region(tiny: RunConfig) -> None:
    board = SearchBoard(planned(tiny, trials=40))
    found = [distance(values) for values in drawn(board, 40, distance)]
    blind = pd.Series(found[1:RANDOM_TRIALS])
    late = pd.Series(found[-15:])
    assert late.median() < 0.5 * blind.median()
    assert board.best().value == min(found) < 0.4
    assert board.finished()
    assert board.next() is None


def test_it_begins_with_the_scales_own_settings_as_far_as_they_are_in_the_space(tiny: RunConfig) -> None:
    first = drawn(SearchBoard(planned(tiny)), 1)[0]
    assert (first["train.learning_rate"], first["train.batch_size"], first["weighting.gamma"]) == (8e-3, 32, 5.0)
    assert 0.9 <= first["train.ema_decay"] <= 0.999  # the scale's average is none of these


def test_an_interrupted_search_draws_what_an_unbroken_one_draws(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = planned(tiny, trials=14)
    unbroken = drawn(SearchBoard(plan), 14, distance)
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "again"))
    begun = drawn(SearchBoard(plan), 4, distance)
    lost = settings(draw(SearchBoard(plan)).params)  # its worker dies
    rest = drawn(SearchBoard(plan), 10, distance)
    assert [*begun, *rest] == unbroken
    assert rest[0] == lost
    board = SearchBoard(plan)
    assert states(board) == {"COMPLETE": 14, "FAIL": 1}
    assert board.finished()
    assert len({json.dumps(values) for values in unbroken}) == 14


@pytest.mark.parametrize("deaths", [1, 3])
def test_the_trial_of_a_dead_worker_is_failed_and_drawn_again(tiny: RunConfig, deaths: int) -> None:
    plan = planned(tiny, trials=2)
    first = draw(SearchBoard(plan))
    for _ in range(deaths - 1):
        assert draw(SearchBoard(plan)).params == first.params
    for _ in range(2):
        SearchBoard(plan).refill()
    board = SearchBoard(plan)
    assert states(board) == {"FAIL": deaths, "WAITING": 1}
    assert drawn(board, 2)[0] == settings(first.params)
    assert states(board) == {"FAIL": deaths, "COMPLETE": 2}
    assert board.finished()
    assert [trial.title for trial in board.followed(())] == ["trial 0", f"trial {deaths + 1}"]


def test_the_trial_of_a_living_worker_is_left_alone(tiny: RunConfig) -> None:
    plan = planned(tiny, trials=2)
    boards = SearchBoard(plan), SearchBoard(plan)
    (one, lease), (other, other_lease) = (claimed for board in boards if (claimed := board.next()))
    assert one.params != other.params
    assert boards[0].next() is None
    assert not boards[0].finished()
    assert states(boards[1]) == {"RUNNING": 2}
    lease.close()
    other_lease.close()


def test_a_journal_whose_trial_lacks_a_setting_is_refused(tiny: RunConfig) -> None:
    board = SearchBoard(planned(tiny))
    board.study.add_trial(create_trial(value=1.0, user_attrs={"run": "none"}))
    with pytest.raises(UserError, match=r"^.*: Optuna cannot use it \(its trial 0 has no 1 - train\.ema_decay\)\. "):
        SearchBoard(board.plan).trials()


def test_more_trials_continue_a_search_and_changes_of_values_start_another(tiny: RunConfig) -> None:
    plan = planned(tiny)
    drawn(SearchBoard(plan), 4)
    more = SearchBoard(planned(tiny, trials=6, question="What?", looks=(3,)))
    assert (states(more), more.finished()) == ({"COMPLETE": 4}, False)
    for change in ({"seed": 1001}, {"nfe": 1}, {"samples": 32}, {"fixed": {"weighting": "min_snr", "train.steps": 9}}):
        assert planned(tiny, **change).digest != plan.digest
    narrow = {**SPACE, "train.learning_rate": log(1e-3, 1e-1)}
    assert planned(tiny, spaces={"digits": narrow}).digest != plan.digest
    assert SearchPlan.read(plan.write()) == plan


def add_finished(board: SearchBoard, rung: float) -> None:
    """Add as many finished trials as the pruner needs, each with this value at step 3."""
    own = board.plan.own() | {"1 - train.ema_decay": 0.01, "train.warmup_steps": 2}
    board.study.add_trials(
        create_trial(
            params=own, distributions=dict(SPACE), value=rung, intermediate_values={3: rung}, user_attrs={"run": "none"}
        )
        for _ in range(UNPRUNED_TRIALS)
    )


@pytest.mark.parametrize(("rung", "state"), [(0.001, TrialState.PRUNED), (1e6, TrialState.COMPLETE)])
def test_a_trial_that_falls_behind_is_pruned_and_its_run_can_continue(
    tiny: RunConfig, rung: float, state: TrialState
) -> None:
    board = SearchBoard(planned(tiny, trials=9))
    add_finished(board, rung)
    trial = draw(board)
    board.run(trial, never)
    told = board.trials()[trial.number]
    run = Run.of(board.plan.config(trial.params))
    assert told.state == state
    looked = known_rungs(run, board.plan.protocol, 2)
    assert told.intermediate_values == {step: values["fid"] for step, values in looked.items()}
    assert list(looked) == ([3] if state == TrialState.PRUNED else [3, 6, 9])
    assert (run.pruned is None) == (state == TrialState.COMPLETE)
    if state == TrialState.PRUNED:
        assert told.user_attrs["reason"] == run.pruned
        assert str(run.pruned).startswith("given up at step 3: FID ")
        ensure(run.config, lambda _: None, never)
    assert (run.pruned, run.steps_done, run.missing(board.plan.protocol)) == (None, 12, [])


def test_a_resumed_trial_reports_known_values_without_measuring_again(tiny: RunConfig) -> None:
    board = SearchBoard(planned(tiny))
    trial = draw(board)
    run = Run.of(board.plan.config(trial.params))
    with pytest.raises(Stopped):
        board.run(trial, lambda: run.steps_done >= 6)
    path = run.folder / "rungs.jsonl"
    lines = [{**line, "values": {"fid": 1000.0 + line["step"]}} for line in read_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = draw(SearchBoard(board.plan))
    assert again.params == trial.params
    board.run(again, never)
    told = board.trials()[again.number]
    assert told.state == TrialState.COMPLETE
    assert [told.intermediate_values[step] for step in (3, 6)] == [1003.0, 1006.0]
    assert told.intermediate_values.keys() == {3, 6, 9}
    assert told.intermediate_values[9] < 1000


def test_diverged_settings_are_reported_so_that_the_search_avoids_them(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> Run:
        raise Diverged("it diverged.")

    monkeypatch.setattr(tuner, "ensure", diverge)
    board = SearchBoard(planned(tiny, trials=1))
    work(board, never)
    assert board.finished()
    assert (board.trials()[0].state, board.trials()[0].user_attrs["reason"]) == (TrialState.PRUNED, "it diverged.")
    with pytest.raises(
        UserError, match=r"^toy-digits-search: no trial finished; the first: it diverged\. Correct the space"
    ):
        board.best()


def test_results_are_judged_on_seeds_that_the_search_never_saw(tiny: RunConfig) -> None:
    plan = planned(tiny)
    values = drawn(SearchBoard(plan), 1)[0]
    pair = compared(searched(), "digits", tiny, {}, None, [], {WINNER: values})
    assert {trial.run.config.seed for trial in SearchBoard(plan).followed(())} == {1000}
    assert pair.seeds == (0, 1, 2, 3, 4)
    assert pair.arms[BASELINE] == tiny
    assert pair.arms[WINNER] == override(tiny, {"weighting": "min_snr", **values})
    assert pair.name == "toy-digits"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 3}, r"^seed: 3 is one of the reporting seeds, 0 to 39\. Take another, like 1000\."),
        ({"trials": 0}, r"^trials: 0 is less than 1\."),
        ({"rungs": 0}, r"^rungs: 0 is less than 2, and the pruner cannot stop a trial at its end\. Take two"),
        ({"metric": "fdi"}, r"^metric: 'fdi' is not a known metric\. Did you mean 'fid'"),
        ({"spaces": {"points": SPACE}}, r"^--scale: 'toy' has no space for digits\. Known: points"),
        ({"spaces": {"digits": {"train.learning_rat": log(1, 2)}}},
         r"^space\.train\.learning_rat: is not a known field\."),
        ({"spaces": {"digits": {"1 - train.ema_decay": even(0.5, 1.5)}}},
         r"^space\.train\.ema_decay: -0\.5 is outside \[0, 1\)"),
        ({"spaces": {"digits": {"train.batch_size": even(1.0, 2.0)}}},
         r"^space\.train\.batch_size: expected a whole number, got 1\.0\."),
        ({"spaces": {"digits": {"train.learning_rate": 1e-3}}},
         r"^spaces\['digits'\]\['train\.learning_rate'\]: 0\.001 is not a range\. Write even"),
        ({"spaces": {"digits": {"train.batch_size, train.steps": together((16, 24), (32,))}}},
         r"^spaces\['digits'\]\['train\.batch_size, train\.steps'\]: expected together.* with 2 values in each row"),
        ({"spaces": {"digits": {"train.batch_size, train.steps": log(1, 2)}}}, r"expected together.* with 2 values"),
        ({"spaces": {"digits": {"1 - train.ema_decay, train.steps": together((0.1, 9))}}}, r'"1 - " works with a sin'),
        ({"spaces": {"digits": {"train.steps": even(1, 9), "train.batch_size, train.steps": together((16, 9))}}},
         r"^spaces\['digits'\]: train\.steps is drawn twice\."),
        ({"spaces": {"digits": {"train.steps": even(1, 9)}}}, r"^space\.train\.steps: the pruner compares trials"),
        ({"spaces": {"digits": [log(1, 2)]}}, r"^spaces\['digits'\]: expected a mapping"),
        ({"fixed": {3: 4}}, r"^a name in fixed: expected a text, got 3"),
        ({"trials": 2.5}, r"^trials: expected a whole number, got 2\.5"),
        ({"fixed": {}}, r"^space\.weighting\.gamma: uniform has no such field"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_in_a_search_is_one_line(tiny: RunConfig, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        planned(tiny, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "ends"), [(even, (5, 1)), (even, (2.0, 1.0)), (log, (0, 3)), (log, (0.0, 1.0)), (one_of, ()),
     (even, (math.nan, 1)), (log, (1, 10**400)), (even, ("1", 2)), (one_of, ({},)), (one_of, ("{gamma",)),
     (together, (3, 4))],
)  # fmt: skip
def test_an_invalid_range_is_refused(build: Callable[..., Any], ends: tuple) -> None:
    with pytest.raises(UserError, match=r"^space: .+\. Correct the range\.$"):
        build(*ends)


def test_an_end_of_a_range_that_would_fail_in_training_is_reported_before(tiny: RunConfig) -> None:
    planned(tiny).check()
    with pytest.raises(
        UserError,
        match=r"^space, train\.batch_size=5000: train\.batch_size: 5000 is more than the 1438 training samples",
    ):
        planned(tiny, spaces={"digits": {"train.batch_size": one_of(16, 5000)}}).check()
    for path in ("train.warmup_steps", "train.snapshot_every"):
        with pytest.raises(UserError, match=rf"^space, {path}=13: {path}: .* (training of 12|last step \(12\))"):
            planned(tiny, spaces={"digits": {path: even(0, 13)}}, fixed={}).check()
    with pytest.raises(UserError, match=r"^metric: straightness measures the flow, .*\. Choose another\.$"):
        planned(tiny, metric="straightness").check()


def test_drawn_numbers_become_settings_with_few_digits() -> None:
    values = settings(
        {"train.learning_rate": 0.0012345678, "1 - train.ema_decay": 0.0012345678, "train.batch_size": 64}
    )
    assert values == {"train.learning_rate": 0.00123, "train.ema_decay": 0.99877, "train.batch_size": 64}
    assert inverse(SPACE, {**values, "train.warmup_steps": 11, "weighting.gamma": 20.0}) == {
        "train.learning_rate": 0.00123, "1 - train.ema_decay": 0.00123, "weighting.gamma": 20.0,
    }  # fmt: skip


def test_values_that_go_together_are_drawn_as_one(tiny: RunConfig) -> None:
    rows = {"train.batch_size, train.steps": together((16, 24), (32, 12))}
    plan = planned(tiny, spaces={"digits": rows}, fixed={}, pruner=None)
    found = [plan.config({"train.batch_size, train.steps": row}).train for row in ("16, 24", "32, 12")]
    assert [(train.batch_size, train.steps) for train in found] == [(16, 24), (32, 12)]
    assert plan.corners().keys() == {"train.batch_size=16, train.steps=24", "train.batch_size=32, train.steps=12"}
    values = {"train.batch_size": 32, "train.steps": 12}
    assert inverse(rows, values) == {"train.batch_size, train.steps": "32, 12"}
    assert inverse(rows, values | {"train.steps": 24}) == {}
    assert inverse(rows, {"train.batch_size": 32}) == {}
    assert (
        inverse(
            {"train.clip_norm": log(0.1, 10.0), "1 - train.ema_decay": log(0.1, 0.2)},
            {"train.clip_norm": None, "train.ema_decay": None},
        )
        == {}
    )


def test_a_component_can_be_drawn_with_its_fields(tiny: RunConfig) -> None:
    grids = one_of("uniform", {"name": "log_snr", "low": -7.5})
    plan = planned(tiny, spaces={"digits": {"evaluate.time_grid": grids}}, fixed={})
    first, other = plan.first()
    assert plan.config(first).evaluate == plan.base.evaluate
    assert plan.config(other).evaluate.time_grid == build("time_grid", {"name": "log_snr", "low": -7.5})
    assert plan.corners().keys() == {
        "evaluate.time_grid=uniform",
        "evaluate.time_grid={'name': 'log_snr', 'low': -7.5}",
    }


def test_all_choices_of_a_small_space_are_tried_before_any_repeats(tiny: RunConfig) -> None:
    space = {"weighting.gamma": one_of(1.0, 2.0, 5.0), "train.batch_size": one_of(16, 32)}
    found = drawn(SearchBoard(planned(tiny, spaces={"digits": space}, trials=6)), 6)
    assert len({(values["weighting.gamma"], values["train.batch_size"]) for values in found}) == 6
    assert found[0]["weighting.gamma"] == 5.0  # the scale's setting
    assert len(planned(tiny, spaces={"digits": space}, trials=5).first()) == 1
    others = {"weighting.gamma": one_of(1.0, 2.0, 3.0)}
    assert len(planned(tiny, spaces={"digits": others}, trials=3).first()) == 3, "the scale's own is none of them"
    space = {"weighting.gamma": one_of(1.0, 2.0, 5.0), "train.batch_size": one_of(16, 8)}
    longer = SearchBoard(planned(tiny, spaces={"digits": space}, trials=4))
    first = drawn(longer, 4)
    longer = SearchBoard(planned(tiny, spaces={"digits": space}, trials=10))
    longer.refill()
    again = [trial.system_attrs["fixed_params"] for trial in longer.trials(TrialState.WAITING)]
    assert len({tuple(sorted(values.values())) for values in (*first, *again)}) == 6, (
        "what a longer search lacks is tried before all else"
    )
    assert len(planned(tiny, spaces={"digits": space | {"train.warmup_steps": even(0, 1)}}, trials=50).first()) == 1


def test_a_trial_is_judged_by_as_many_samples_as_the_comparison_has_at_its_nfe(tiny: RunConfig) -> None:
    more = override(tiny, {"evaluate.more_samples": [{"nfe": 2, "num_samples": 100}]})
    assert planned(more).base.evaluate.num_samples == 100
    assert planned(more, nfe=1).base.evaluate.num_samples == tiny.evaluate.num_samples
    assert planned(more, samples=40).base.evaluate.num_samples == 40


@pytest.mark.parametrize("scale", sorted(load_search("tuning").spaces))
def test_the_spaces_of_the_study_fit_their_scales(scale: str) -> None:
    plan = SearchPlan.of(load_search("tuning"), scale, load_scale(scale), None, [])
    if scale == "digits":  # its data are available here
        plan.check()
    assert len(plan.own()) >= 3
    assert all(config.train.warmup_steps < config.train.steps / 2 for config in plan.corners().values())


def test_importances_detect_what_matters(tiny: RunConfig) -> None:
    board = SearchBoard(planned(tiny, trials=30))
    drawn(board, 30, lambda values: 10 ** abs(math.log10(values["weighting.gamma"])))
    shares = history.importances(board)
    assert shares.keys() == settings(dict.fromkeys(SPACE, 0.5)).keys()
    assert shares["weighting.gamma"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_there_are_as_many_panels_as_settings_and_values_that_are_not_positive_have_no_log_axis(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "png", lambda figure: figure)
    space = {path: SPACE[path] for path in ("train.learning_rate", "weighting.gamma")}
    values: dict[str, Callable[[dict[str, Any]], float]] = {"log": lambda _: 1.0, "linear": lambda _: 0.0}
    for seed, (scale, value) in enumerate(values.items(), 1000):
        board = SearchBoard(planned(tiny, spaces={"digits": space}, seed=seed))
        drawn(board, 2, value)
        figure: Any = history.draw_importances(board)
        assert [axes.axison for axes in figure.axes] == [True, True, True, False]
        assert [axes.get_yscale() for axes in figure.axes[1:3]] == [scale, scale]


@pytest.mark.slow
def test_from_the_first_trial_to_the_pictures(
    tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = SearchBoard(planned(tiny))
    work(board, never)
    stamps = {path: path.stat().st_mtime_ns for path in board.folder.parents[1].glob("runs/*/checkpoints/*")}
    work(SearchBoard(board.plan), never)
    assert stamps == {path: path.stat().st_mtime_ns for path in board.folder.parents[1].glob("runs/*/checkpoints/*")}
    said = capsys.readouterr().out
    assert all(f"trial {i}: FID" in said for i in range(4))
    paths = history.write(board, tmp_path, "harness tune toy")
    assert [path.name for path in paths] == [
        "toy-digits-trials.csv", "toy-digits-trials.json", "toy-digits-history.png", "toy-digits-importances.png",
    ]  # fmt: skip
    table = pd.read_csv(paths[0])
    about = read_json(paths[1])
    assert list(table.trial) == [0, 1, 2, 3]
    assert set(table.state) == {"finished"}
    assert table.value.min() == about["best"]["value"] == board.best().value
    assert table["at 3"].notna().all()
    assert (about["search"], about["seed"], about["command"]) == (board.plan.digest, 1000, "harness tune toy")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[2:])
    described = history.describe(board)
    batch = settings(board.best().params)["train.batch_size"]
    assert "the best of 4 trials, 0 of them given up early" in described
    assert (f"it sees {batch / 32:g} times as many samples" in described) == (batch != 32)
