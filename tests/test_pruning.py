"""The pruning of a search's trials equals Optuna's Hyperband, also if workers die."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import test_search
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.execute import tuner
from harness.ablation.execute.pruning import REDUCTION, Hyperband
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.execute.worker import work
from harness.core.config import override
from harness.core.errors import UserError
from harness.runs.config import RunConfig
from harness.runs.folder import Run

pytestmark = pytest.mark.usefixtures("unmeasured")
FIRST, RUNGS = 3, 8


def decisions(pruner: BasePruner, values: np.ndarray) -> list[list[bool]]:
    """Return whether each trial is pruned at each of its rungs; two trials run at a time."""
    study = optuna.create_study(study_name="toy", pruner=pruner, sampler=RandomSampler())
    found: list[list[bool]] = [[] for _ in values]
    for first in range(0, len(values), 2):
        trials = {i: study.ask() for i in (first, first + 1)}
        for rung in range(values.shape[1]):
            for i in [i for i in trials if True not in found[i]]:
                trials[i].report(values[i, rung], FIRST * 2**rung)
                found[i].append(trials[i].should_prune())
        for i, trial in trials.items():
            study.tell(trial, values[i, -1])
    return found


def test_its_decisions_are_those_of_optunas_pruner_while_no_worker_dies() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    own = decisions(Hyperband(FIRST, RUNGS), values)
    assert own == decisions(HyperbandPruner(FIRST, RUNGS * FIRST, REDUCTION), values)
    ends = [one.index(True) if True in one else None for one in own]
    assert set(ends) == {None, 0, 1, 2}, "trials end at every rung, and at none"
    assert 10 < ends.count(None) < 30


def hyperband(tiny: RunConfig, trials: int = 16) -> SearchPlan:
    return test_search.planned(tiny, pruner="hyperband", trials=trials)


def test_rungs_end_before_the_training_does(tiny: RunConfig) -> None:
    """Also if the number of steps is not a multiple of the rungs."""
    longer = override(tiny, {"train.steps": 14})
    for pruner, steps in (("median", [3, 6, 9]), ("hyperband", [3, 6])):
        plan = test_search.planned(longer, pruner=pruner)
        assert [step for step in range(1, 15) if plan.is_rung(step)] == steps


class Killed(BaseException):
    """The death of a worker."""


class Trainings:
    """Trains and judges nothing: values follow from the settings and fall with the steps."""

    def __init__(self, patch: pytest.MonkeyPatch, killed: dict[int, int]):
        """The worker of trial n dies after step `killed[n]`, the first time."""
        self.killed = killed
        self.begun: list[str] = []
        self.rungs: dict[str, dict[int, dict[str, float]]] = {}
        patch.setattr(tuner, "judge_of", lambda config: SimpleNamespace(protocol=None))
        patch.setattr(tuner, "known_rungs", lambda run, protocol, nfe: self.rungs.get(run.name, {}))
        patch.setattr(tuner, "judge_rung", self.judge)
        patch.setattr(tuner, "ensure", self.ensure)
        patch.setattr(SearchBoard, "values", lambda board, run: [self.value(run, 12)])

    @staticmethod
    def value(run: Run, step: int) -> float:
        noise = np.random.default_rng(int(run.name[:12], 16) + step).normal()
        return 10 + noise - step / 12

    def judge(self, run: Run, trained: Any, step: int, judge: Any, nfe: int) -> dict[str, float]:
        return self.rungs.setdefault(run.name, {}).setdefault(step, {"fid": self.value(run, step)})

    def ensure(self, config: RunConfig, say: Any, stop: Any, look: Callable[[Any, int], None]) -> Run:
        run = Run.of(config)
        if run.name not in self.begun:
            self.begun.append(run.name)
        for step in (3, 6, 9, 12):
            look(None, step)
            number = self.begun.index(run.name)
            if self.killed.get(number) == step:
                del self.killed[number]
                raise Killed(number)
        return run

    def carry_out(self, plan: SearchPlan) -> list[tuple[str, dict[int, float]]]:
        """Return how each trial ended, in the order of the draws, with the values at its rungs."""
        board = SearchBoard(plan)
        while claimed := board.next():
            trial, lease = claimed
            with lease, contextlib.suppress(Killed):
                board.run(trial, test_search.never)
        assert board.finished()
        ended = {tuner.number_of(trial): (trial.state.name, trial.intermediate_values) for trial in board.settled()}
        return [ended[number] for number in sorted(ended)]


def test_a_search_with_dying_workers_prunes_what_an_unbroken_one_prunes(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    plan = hyperband(tiny)
    unbroken = Trainings(monkeypatch, {})
    ends = unbroken.carry_out(plan)
    assert {len(values) for state, values in ends if state == "PRUNED"} == {1, 2}
    assert {step for _, values in ends for step in values} == {3, 6}, "where the number of rungs doubles"
    finished = [number for number, (state, _) in enumerate(ends) if state == "COMPLETE"]
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "broken"))
    broken = Trainings(monkeypatch, dict(zip(finished, (3, 6, 9, 3, 6), strict=False)))
    assert broken.carry_out(plan) == ends
    assert broken.killed == {}, "each of them died"
    states = test_search.states(SearchBoard(plan))
    assert states["FAIL"] == 5
    assert broken.begun == unbroken.begun


def test_a_sampler_learns_from_the_trials_of_every_bracket(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Spy(TPESampler):
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            seen.append(len(study.get_trials(states=(TrialState.COMPLETE,))))
            return super().sample_relative(study, trial, search_space)

    monkeypatch.setattr(tuner, "sampler", lambda seed: Spy(seed=seed))
    test_search.drawn(SearchBoard(hyperband(tiny)), 12)
    assert seen == list(range(12))


def test_without_a_pruner_nothing_is_measured_before_the_end(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = test_search.planned(tiny, pruner=None, trials=2)
    looks: list[Any] = []
    board = SearchBoard(plan)

    def ensure(config: RunConfig, say: Any, stop: Any, look: Any) -> Run:
        looks.append(look)
        return Run.of(config)

    monkeypatch.setattr(tuner, "ensure", ensure)
    monkeypatch.setattr(SearchBoard, "values", lambda board, run: [1.0])
    work(board, test_search.never)
    assert looks == [None, None]
    assert plan.base.train.sample_every == tiny.train.sample_every


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pruner": "median", "rungs": 1}, r"^rungs: 1 is less than 2, .* or write pruner=None\.$"),
        ({"pruner": "hyperband", "rungs": 6}, r"^rungs: 6 is not a power of two, .*\. Take 2, 4, 8 or 16\.$"),
        ({"pruner": None, "rungs": 8}, r"^rungs: they have no effect without a pruner\. Leave them out\.$"),
        ({"pruner": "hyperbnad"}, r"^pruner: 'hyperbnad' is not a choice\. Did you mean 'hyperband'\?$"),
        ({"against": "calls"}, r"^pruner: 'median' needs a single objective, .* Write pruner=None\.$"),
        ({"against": "calls", "pruner": "hyperband"}, r"^pruner: 'hyperband' needs a single objective, "),
        ({"against": "seconds", "pruner": None}, r"^against: 'seconds' is not a choice\. "),
    ],
    ids=str,
)
def test_a_pruner_that_cannot_work_is_refused_in_one_line(tiny: RunConfig, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        test_search.planned(tiny, **change)
