"""The trials that workers share, in Optuna's journal: which are waiting, running and finished.

A trial's worker holds a lease, a lock that its death releases. A running trial without one is told FAIL and put in
again, and its run continues from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Container
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from harness.ablation.design.shared import SharedPlan
from harness.core.errors import Stopped, UserError
from harness.core.files import drop_torn_line, locked, require_log
from harness.core.reading import shaped
from harness.core.registry import find
from harness.core.signals import Stop
from harness.runs.folder import Run
from harness.runs.progress import Followed

optuna.logging.set_verbosity(optuna.logging.ERROR)
DEATHS = 3
"""After so many deaths of workers in a trial it is left out until the command is given again."""


class Board(ABC):
    """Trials in a journal; a subclass says which there should be and what is done for one."""

    def __init__(self, plan: SharedPlan, pruner: BasePruner | None = None, minimized: int = 0):
        """`minimized` is how many values a trial has beside the metric, each of which is better the lower it is."""
        self.plan: SharedPlan = plan
        self.folder = plan.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{error.filename}: is no folder, where a study's journal lies. Move it away.") from error
        metric: Any = find("metric", plan.metric)
        directions: Any = ["minimize" if metric.lower_is_better else "maximize", *["minimize"] * minimized]
        journal = self.folder / "journal.log"
        if journal.exists():
            require_log(journal)
        try:
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_KernelLock(journal)))
            name = f"{plan.name}-{plan.digest}"
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, pruner=pruner, load_if_exists=True
            )  # fmt: skip
            for trial in self.trials():
                shaped(self._told(trial), self.TOLD)
        except Exception as error:  # of a damaged journal, whatever Optuna meets first
            if isinstance(error, (MemoryError, Stopped, UserError)):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{journal}: Optuna cannot use it ({reason}). Remove it: finished runs are kept and found again."
            ) from error

    TOLD: ClassVar[Any]
    """The shape of what a board puts into the journal with a trial."""

    @abstractmethod
    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        """What the journal says of a trial beside Optuna's own."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many trials there will be."""

    @abstractmethod
    def run(self, trial: optuna.Trial, stop: Stop) -> None:
        """Do a trial and tell how it ended; `Stopped` leaves it to be continued."""

    @abstractmethod
    def followed(self, known: Container[str]) -> list[Followed]:
        """The runs that there are to follow, without those whose titles are `known`."""

    @abstractmethod
    def settled(self) -> list[FrozenTrial]:
        """The trials that have ended for good."""

    @abstractmethod
    def title(self, trial: FrozenTrial) -> str:
        """What a trial is called; the attempts at it share it."""

    @abstractmethod
    def run_of(self, trial: FrozenTrial) -> Run:
        """The run that a trial trains."""

    @abstractmethod
    def _ask(self) -> optuna.Trial:
        """The next trial with its parameters."""

    @abstractmethod
    def _put_in(self) -> None:
        """Put in the trials that should be there and are not, those of dead workers included."""

    def _any_left(self) -> bool:
        return bool(self.trials(TrialState.WAITING))

    def begin(self) -> None:
        """Note that a command begins to run the trials: deaths of workers before it do not count."""
        self.study.set_user_attr("since", datetime.now().isoformat())

    def deaths(self, title: str) -> int:
        """How many workers have died in a trial since the command began."""
        return [self.title(trial) for trial in self._died()].count(title)

    def left_out(self) -> list[str]:
        """The titles of trials in which too many workers have died since the command began."""
        died = [self.title(trial) for trial in self._died()]
        ended = {self.title(trial) for trial in self.settled()} if died else set()
        return [title for title in dict.fromkeys(died) if died.count(title) >= DEATHS and title not in ended]

    def left_by(self, process: int) -> FrozenTrial | None:
        """The trial in which a worker died; None where it had none."""
        last = [trial for trial in self.trials() if trial.user_attrs.get("worker") == process][-1:]
        return next((trial for trial in self._died() if trial in last), None)

    def _died(self) -> list[FrozenTrial]:
        """The attempts that ended by their worker's death since the command began."""
        if not (since := self.study.user_attrs.get("since")):
            return []
        failed = [trial for trial in self.trials(TrialState.FAIL) if "reason" not in trial.user_attrs]
        return [trial for trial in failed if trial.datetime_start and trial.datetime_start.isoformat() >= since]

    def refill(self) -> None:
        """Fail the trials whose worker died, and put in those that should be there."""
        with self._claim():
            self._refill()

    def next(self) -> tuple[optuna.Trial, contextlib.ExitStack] | None:
        """A trial that is now ours, with its lease to be closed; None when all that is left is at work elsewhere."""
        with self._claim():
            self._refill()
            if not self._any_left():
                return None
            trial = self._ask()
            trial.set_user_attr("worker", os.getpid())
            lease = contextlib.ExitStack()
            lease.enter_context(locked(self._lease(trial.number)))
            return trial, lease

    def finished(self) -> bool:
        """Whether every trial has ended or is left out."""
        return len(self.settled()) + len(self.left_out()) >= self.total

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, or all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def busy(self) -> bool:
        """Whether a trial is under way or waits for a worker."""
        return bool(self.trials(TrialState.RUNNING, TrialState.WAITING))

    def _refill(self) -> None:
        for trial in self.trials(TrialState.RUNNING):
            with locked(self._lease(trial.number), wait=False) as dead:
                if dead and trial.number in {t.number for t in self.trials(TrialState.RUNNING)}:
                    self.study.tell(trial.number, state=TrialState.FAIL)
        self._put_in()

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
