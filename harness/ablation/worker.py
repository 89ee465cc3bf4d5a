"""A worker: asks the shared Optuna study for the next trial until none is left. Workers are alike and may die at any time.

    python -m harness.ablation.worker PLAN

Optuna's journal says which trials are waiting, running and finished. A trial's worker holds a lease, a lock that its
death releases; a running trial without one is told FAIL and put in again, and its run continues from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from harness.ablation.plan import Plan
from harness.errors import Diverged, Stopped, UserError, guarded
from harness.files import drop_torn_line, locked, read_json
from harness.registry import find, load_plugin
from harness.runs import Run, ensure
from harness.signals import StopSignal

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Board:
    """The trials of a plan in Optuna's journal, shared by its workers."""

    def __init__(self, plan: Plan):
        self.plan, self.folder = plan, plan.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        direction: Any = "minimize" if find("metric", plan.metric).lower_is_better else "maximize"  # type: ignore[attr-defined]
        journal = self.folder / "journal.log"
        try:
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_KernelLock(journal)))
            name = f"{plan.name}-{plan.digest}"
            self.study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{journal}: Optuna cannot use it ({error}). Remove it: finished runs are kept and found again.") from error

    def refill(self) -> None:
        """Fail the trials whose worker died, and put in every trial of the plan that is not there."""
        with self._claim():
            self._refill()

    def next(self) -> tuple[optuna.Trial, contextlib.ExitStack] | None:
        """A trial that is now ours, with its lease to be closed; None when all that is left is at work elsewhere."""
        with self._claim():
            self._refill()
            if not self._trials(TrialState.WAITING):
                return None
            trial = self.study.ask()
            trial.suggest_categorical("arm", list(self.plan.arms))
            trial.suggest_categorical("seed", list(self.plan.seeds))
            lease = contextlib.ExitStack()
            lease.enter_context(locked(self._lease(trial.number)))
            return trial, lease

    def finished(self) -> bool:
        """Whether every trial of the plan has ended."""
        return len(self._settled()) == len(self.plan.trials())

    def failures(self) -> dict[tuple[str, int], str]:
        """{(arm, seed): why} of the trials that ended without a value."""
        return {key: trial.user_attrs["reason"] for key, trial in self._settled().items() if trial.state == TrialState.FAIL}

    def tell(self, trial: optuna.Trial, run: Run) -> None:
        """Report a finished trial: its value is the primary metric at the primary NFE, or at the largest NFE measured."""
        values = run.evaluation(self.plan.protocol(trial.params["arm"]))["values"][self.plan.metric]
        nfe = str(self.plan.nfe) if str(self.plan.nfe) in values else max(values, key=int)
        trial.set_user_attr("run", run.name)
        self.study.tell(trial, values[nfe])

    def tell_failure(self, trial: optuna.Trial, reason: str) -> None:
        """Report a trial that cannot succeed; it is not tried again."""
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)

    def _refill(self) -> None:
        for trial in self._trials(TrialState.RUNNING):
            with locked(self._lease(trial.number), wait=False) as dead:
                if dead and trial.number in {t.number for t in self._trials(TrialState.RUNNING)}:
                    self.study.tell(trial.number, state=TrialState.FAIL)
        present = self._settled().keys() | {_key(t) for t in self._trials(TrialState.WAITING, TrialState.RUNNING)}
        for arm, seed in self.plan.trials():
            if (arm, seed) not in present:
                self.study.enqueue_trial({"arm": arm, "seed": seed}, user_attrs={"arm": arm, "seed": seed})

    def _settled(self) -> dict[tuple[str, int], FrozenTrial]:
        ended = self._trials(TrialState.COMPLETE, TrialState.FAIL)
        return {_key(t): t for t in ended if t.state == TrialState.COMPLETE or "reason" in t.user_attrs}

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _claim(self) -> contextlib.AbstractContextManager[bool]:
        return locked(self.folder / "claim.lock")

    def _lease(self, number: int) -> Path:
        return self.folder / "leases" / str(number)


class _KernelLock(JournalFileSymlinkLock):
    """Optuna's own lock files outlive a killed process by 30 s; the kernel's lock does not.

    Its next holder cuts off the line that a killed one left unfinished.
    """

    def __init__(self, journal: Path):
        super().__init__(str(journal))
        self.journal = journal
        self._held: contextlib.ExitStack | None = None

    def acquire(self) -> bool:
        held = contextlib.ExitStack()
        held.enter_context(locked(self.journal.with_suffix(".lock")))
        drop_torn_line(self.journal)
        self._held = held
        return True

    def release(self) -> None:
        assert self._held
        self._held.close()
        self._held = None


def _key(trial: FrozenTrial) -> tuple[str, int]:
    return trial.user_attrs["arm"], trial.user_attrs["seed"]


def work(plan: Plan, stop: StopSignal) -> None:
    """Run trials until all of the plan's have ended."""
    board = Board(plan)
    while not board.finished():
        if stop():
            raise Stopped("stopped between two trials")
        if (claimed := board.next()) is None:
            time.sleep(0.5)
            continue
        trial, lease = claimed
        with lease:
            _run(board, plan, trial, stop)


def _run(board: Board, plan: Plan, trial: optuna.Trial, stop: StopSignal) -> None:
    arm, seed = trial.params["arm"], trial.params["seed"]
    title, started = f"{arm} seed {seed}", time.perf_counter()

    def say(text: str) -> None:
        print(f"{title}: {text}", flush=True)

    try:
        run = ensure(plan.config(arm, seed), say, stop)
    except Diverged as error:
        board.tell_failure(trial, str(error))
        say(str(error))
        return
    board.tell(trial, run)
    values = run.evaluation(plan.protocol(arm))["values"][plan.metric]
    nfe = max(values, key=int)
    say(f"{plan.metric} {values[nfe]:.4g} at NFE {nfe}, {time.perf_counter() - started:.0f} s")


def main() -> None:
    """The worker process; its parent's death stops it like a signal does."""
    parent, path = os.getppid(), Path(sys.argv[1])
    stop = StopSignal(lambda: os.getppid() != parent)
    for plugin in read_json(path)["plugins"]:
        load_plugin(Path(plugin))
    work(Plan.read(path), stop)


if __name__ == "__main__":
    sys.exit(guarded(main))
