"""A search against a cost: its front, the comparison that follows, and the costs of trials."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_search
from optuna.trial import TrialState, create_trial

from harness.ablation.design.costs import COSTS, fewest, knee
from harness.ablation.design.plan import Plan
from harness.ablation.design.search import BASELINE, BEST, CHEAPEST, KNEE
from harness.ablation.design.search_plan import SearchPlan, compared
from harness.ablation.design.space import log, one_of
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.execute.worker import work
from harness.ablation.report import history
from harness.core.appending import Lines
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.files import read_json, write_json
from harness.runs.config import RunConfig
from harness.runs.folder import Run

pytestmark = pytest.mark.usefixtures("unmeasured")
SPACES = {"digits": {"train.learning_rate": log(1e-4, 1e-1), "evaluate.solver": one_of("euler", "ab2")}}


def planned(tiny: RunConfig, **changes: Any) -> SearchPlan:
    own = {"spaces": SPACES, "fixed": {}, "against": "calls", "pruner": None}
    return test_search.planned(tiny, **{**own, **changes})


def board_of(plan: SearchPlan, values: Any) -> SearchBoard:
    """Return a board with finished trials of these values, [quality, cost] or None, at rising learning rates."""
    board = SearchBoard(plan)
    for i, ended in enumerate(values):
        drawn = {"train.learning_rate": (i + 1) / 10_000, "evaluate.solver": "euler"}
        board.study.add_trial(
            create_trial(
                params=drawn, distributions=dict(plan.space), values=ended, user_attrs={"run": "none"},
                state=TrialState.PRUNED if ended is None else TrialState.COMPLETE,
            )
        )  # fmt: skip
    return board


@pytest.mark.parametrize("metric", ["fid", "precision"])
def test_the_front_has_every_trial_that_no_other_beats(tiny: RunConfig, metric: str) -> None:
    """By definition, no trial is at least as good in both and better in one. Of equal trials, the first stays."""
    sign = 1 if metric == "fid" else -1
    rng = np.random.default_rng(0)
    points = [None if rng.uniform() < 0.1 else [*map(float, rng.integers(1, 9, 2))] for _ in range(30)]
    points += 2 * ([[0.5, 9.0], [9.0, 1.0]] if metric == "fid" else [[9.0, 9.0]])
    board = board_of(dataclasses.replace(planned(tiny), metric=metric), points)
    ended = [(sign * point[0], point[1], i) for i, point in enumerate(points) if point]
    beaten = {i for (v, c, i), (w, d, _) in itertools.product(ended, ended) if w <= v and d <= c and (w, d) != (v, c)}
    first = {(v, c): i for v, c, i in reversed(ended) if i not in beaten}
    assert [trial.number for trial in board.front()] == [first[point] for point in sorted(first)]
    assert board.best() == board.front()[0]
    table = history.frame(board)
    assert set(table.trial[table["on the front"]]) == {i for _, _, i in ended if i not in beaten}


def test_the_knee_is_the_farthest_from_the_line_through_the_ends() -> None:
    """The distance of a point from a line, on logarithmic scales from end to end."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        costs = np.sort(rng.uniform(0, 5, 7))[::-1]
        qualities = np.sort(rng.uniform(0, 5, 7))
        x = (costs - costs[-1]) / (costs[0] - costs[-1])
        y = (qualities - qualities[0]) / (qualities[-1] - qualities[0])
        away = (1 - x - y) / math.sqrt(2)  # below the line from (1, 0) to (0, 1)
        front = list(zip(np.exp(qualities), np.exp(costs), strict=True))
        assert knee(front) == 1 + int(np.argmax(away[1:-1]))
    assert knee([(0.0, 9), (0.1, 2), (5.0, 1)]) == 1, "a quality of 0 has no logarithm"


def test_the_ends_and_the_knee_are_compared_on_seeds_that_the_search_never_saw(tiny: RunConfig) -> None:
    plan = planned(tiny)
    points = [[1.0, 16.0], [1.1, 4.0], [5.0, 3.0], [9.0, 2.0]]
    for number, arms in enumerate([{BEST: 0}, {BEST: 0, CHEAPEST: 1}, {BEST: 0, KNEE: 1, CHEAPEST: 2}], 1):
        board = board_of(dataclasses.replace(plan, trials=100 + number, nfe=number), points[:number])
        assert {arm: trial.number for arm, trial in board.winners().items()} == arms
    search = test_search.searched(spaces=SPACES, fixed={"weighting": "min_snr"}, against="calls", pruner=None)
    pair = compared(search, "digits", tiny, {}, None, [], board.tuned())
    assert 1000 not in pair.seeds
    assert pair.arms == {
        BASELINE: tiny,
        **{
            arm: override(tiny, {"weighting": "min_snr", "train.learning_rate": (i + 1) / 10_000})
            for i, arm in enumerate((BEST, KNEE, CHEAPEST))
        },
    }


def judged(run: Run, values: dict[int, float], seconds: dict[int, float]) -> None:
    """Write the files that training and judging a run would write."""
    protocol = run.config.protocol()
    known = {"values": {"fid": values}, "sampling_seconds": seconds, "time": dict.fromkeys(values, 1.0)}
    known = json.loads(json.dumps(known))  # turns the keys into text
    run.write_evaluation(protocol, run.evaluation(protocol) | known)
    environment = {"commits": [], "parameters": 1, "weight_mean": 1.0, "machine": {}}
    write_json(
        run.folder / "environment.json", environment | {"device_use": {"flops_per_sample": 7.0, "peak_flops": 1.0}}
    )
    with Lines(run.folder / "metrics.jsonl") as lines:
        for step, rate in ((6, 10.0), (12, 20.0)):
            lines.add({"step": step, "time": 1.0, "samples_per_second": rate})


def test_costs_are_read_from_the_run_directory(tiny: RunConfig) -> None:
    run = Run.of(override(tiny, {"evaluate.nfe": [1, 2, 4, 8]}))
    judged(run, {1: 4.0, 2: 1.04, 3: 0.5, 4: 1.0, 8: 1.2}, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 8: 8.0})
    protocol = run.config.protocol()
    found = {name: cost.of(run, protocol, "fid") for name, cost in COSTS.items()}
    assert found == {
        "calls": 2,  # within 5 % of the value at 4; NFE 3 was not measured
        "sampling_seconds": 2.0 / 64,
        "training_flops": 7.0 * 32 * 12,
        "training_seconds": 6 * 32 / 10 + 6 * 32 / 20,
    }
    assert fewest([(1, 0.9), (2, 0.96), (4, 1.0)], 1.0, lower=False) == 2, "more may be better"


def test_a_journal_that_is_lost_is_made_again_from_the_runs(tiny: RunConfig) -> None:
    """Costs, seconds included, are the same, without training; trials may use different samplers."""
    plan = planned(tiny, against="sampling_seconds", trials=3)
    work(SearchBoard(plan), test_search.never)
    board = SearchBoard(plan)
    values = [trial.values for trial in board.trials()]
    assert all(cost > 0 for _, cost in values)
    assert {line["solver"]["name"] for line in protocols(board)} == {"euler", "ab2"}
    stamps = {path: path.stat().st_mtime_ns for path in board.folder.parents[1].glob("runs/*/*/*")}
    shutil.rmtree(board.folder)
    work(SearchBoard(plan), test_search.never)
    assert [trial.values for trial in SearchBoard(plan).trials()] == values
    assert stamps == {path: path.stat().st_mtime_ns for path in board.folder.parents[1].glob("runs/*/*/*")}


def protocols(board: SearchBoard) -> list[dict[str, Any]]:
    """Return the protocols of trials from the run directories."""
    runs = [board.run_of(trial) for trial in board.settled()]
    return [read_json(path)["protocol"] for run in runs for path in run.folder.glob("evaluations/*.json")]


def test_an_unknown_cost_of_a_run_is_one_line(tiny: RunConfig) -> None:
    plan = planned(tiny, against="training_seconds")
    run = Run.of(plan.config({"train.learning_rate": 1e-3, "evaluate.solver": "euler"}))
    judged(run, {2: 1.0}, {2: 1.0})
    (run.folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"^.*: has no value of training_seconds\. Remove it, then search again\.$"):
        SearchBoard(plan).values(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spaces": {"digits": {"evaluate.num_samples": one_of(100, 200)}}}, r"^space\.evaluate\.num_samples: values"),
        ({"spaces": {"digits": {"seed": one_of(1, 2)}}}, r"^space\.seed: values of trials that differ in it"),
        ({"fixed": {"evaluate.nfe": [2]}}, r"^against: calls are read from a curve over NFE, but evaluate\.nfe has "),
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_comparison_is_refused_in_one_line(tiny: RunConfig, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        planned(tiny, **change).check()
    assert "\n" not in str(caught.value)


def comparison(board: SearchBoard, tiny: RunConfig) -> Plan:
    """The comparison of the board's winners on two seeds, already judged."""
    search = test_search.searched(spaces=SPACES, fixed={}, against="calls", pruner=None, looks=(3,))
    plan = compared(search, "digits", tiny, {}, 2, [], board.tuned())
    for i, (arm, seed) in enumerate(plan.trials()):
        judged(plan.run(arm, seed), {1: 4.0 + i, 2: 2.0 + i}, {1: 1.0, 2: 2.0})
    return plan


def test_the_files_contain_the_front_and_its_values_on_other_seeds(tiny: RunConfig, tmp_path: Path) -> None:
    points = [[1.0, 16.0], [1.1, 4.0], [9.0, 2.0], None, [9.0, 8.0]]
    board = board_of(planned(tiny), points)
    paths = history.write(board, tmp_path, "harness tune toy", plan := comparison(board, tiny))
    assert [path.name for path in paths[2:]] == [f"toy-digits-{w}.png" for w in ("history", "importances", "front")]
    about = json.loads(paths[1].read_text())
    assert [(one["trial"], one["value"], one["calls"], one["arm"]) for one in about["front"]] == [
        (0, 1.0, 16.0, BEST), (1, 1.1, 4.0, KNEE), (2, 9.0, 2.0, CHEAPEST),
    ]  # fmt: skip
    again = about["on other seeds"]
    assert list(again) == list(plan.arms) == [BASELINE, BEST, KNEE, CHEAPEST]
    seeds = [[2.0 + i for i, (of, _) in enumerate(plan.trials()) if of == arm] for arm in plan.arms]
    assert [one["value"] for one in again.values()] == [sum(own) / 2 for own in seeds]
    assert {(one["seeds"], one["calls"]) for one in again.values()} == {(2, 2.0)}
    assert (about["pruner"], about["against"]["cost"]) == ("none", "calls")
    said = history.describe(board)
    assert "best (trial 0, 1 at 16): train.learning_rate 0.0001, evaluate.solver euler; knee (trial 1, " in said
    assert "Of 5 trials, 1 of them given up early, none are better and cheaper than these 3 on seed 1000" in said
    assert "Seconds were measured on" not in said
    assert "\n" not in said
