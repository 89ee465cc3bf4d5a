"""Worker: it takes trials from the shared board until none is left. All workers are alike and may die at any time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NotRequired

import optuna
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import TypedDict

from harness.ablation.design.plan import Plan
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.shared import plugins_in
from harness.ablation.execute.board import Board
from harness.ablation.execute.trial import carry_out, primary_value
from harness.ablation.execute.trials import PlanTrials, title_of
from harness.ablation.execute.tuner import SearchBoard
from harness.core.errors import NoValue, Stopped
from harness.core.reading import Damaged, short
from harness.core.registry import load_plugins
from harness.core.signals import Stop
from harness.runs.folder import Run


class Trial(TypedDict):
    """Attributes of a trial in the journal."""

    arm: str
    seed: int
    reason: NotRequired[str]
    """Reason why it cannot succeed."""
    worker: NotRequired[int]
    """Process id of its worker."""


class PlanBoard(PlanTrials, Board):
    """Board with the trials of a study: every arm with every seed."""

    TOLD = Trial
    plan: Plan

    def __init__(self, plan: Plan):
        PlanTrials.__init__(self, plan)
        Board.__init__(self, plan)

    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        arm = trial.user_attrs.get("arm", "missing")
        if arm not in self.plan.arms:
            raise Damaged(f"the arm of its trial {trial.number} is {short(arm)}")
        return trial.user_attrs

    def run(self, trial: optuna.Trial, stop: Stop) -> None:
        arm, seed = _key(trial)
        try:
            run = carry_out(self.plan, arm, seed, stop)
        except NoValue as error:
            self.tell_failure(trial, str(error))
        else:
            self.tell(trial, run)

    def title(self, trial: FrozenTrial) -> str:
        return title_of(*_key(trial))

    def run_of(self, trial: FrozenTrial) -> Run:
        return self.plan.run(*_key(trial))

    def settled(self) -> list[FrozenTrial]:
        ended = self.trials(TrialState.COMPLETE, TrialState.FAIL)
        known = {_key(t): t for t in ended if t.state == TrialState.COMPLETE or "reason" in t.user_attrs}
        return [known[key] for key in self.keys.values() if key in known and self._stands(known[key])]

    def _stands(self, trial: FrozenTrial) -> bool:
        """Whether the run directory, which decides, agrees with the journal."""
        run = self.run_of(trial)
        protocol = self.plan.protocol(_key(trial)[0])
        if trial.state == TrialState.COMPLETE:
            return run.evaluated(protocol)
        return run.ended(protocol) and run.failure(protocol) is not None

    def tell(self, trial: optuna.Trial, run: Run) -> None:
        """Report a finished trial and its primary metric, at the primary NFE or else at the largest measured NFE."""
        trial.set_user_attr("run", run.name)
        self.study.tell(trial, primary_value(self.plan, trial.params["arm"], run)[1])

    def tell_failure(self, trial: optuna.Trial, reason: str) -> None:
        """Report a trial that cannot succeed; no worker tries it again."""
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def _ask(self) -> optuna.Trial:
        trial = self.study.ask()
        trial.suggest_categorical("arm", list(self.plan.arms))
        return trial

    def _put_in(self) -> None:
        present = {_key(t) for t in [*self.settled(), *self.trials(TrialState.WAITING, TrialState.RUNNING)]}
        left_out = self.left_out()
        for arm, seed in self.keys.values():
            if (arm, seed) not in present and title_of(arm, seed) not in left_out:
                self.study.enqueue_trial({"arm": arm}, user_attrs={"arm": arm, "seed": seed})


def _key(trial: optuna.Trial | FrozenTrial) -> tuple[str, int]:
    return trial.user_attrs["arm"], trial.user_attrs["seed"]


def work(board: Board, stop: Stop) -> None:
    """Run trials until all have ended; raises `Stopped`."""
    while not board.finished():
        if stop():
            raise Stopped("stopped between two trials")
        if (claimed := board.next()) is None:
            time.sleep(0.5)
            continue
        trial, lease = claimed
        with lease:
            board.run(trial, stop)


def read_board(path: Path) -> Board:
    """Return the board of the study plan or search plan in the file `path`."""
    return SearchBoard(SearchPlan.read(path)) if path.name == SearchPlan.FILE else PlanBoard(Plan.read(path))


def main(path: Path, stop: Stop) -> None:
    """Run trials of the plan in the file `path`."""
    load_plugins(plugins_in(path))
    work(read_board(path), stop)
