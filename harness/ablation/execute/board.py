"""Board of the trials that workers share, in Optuna's journal: waiting, running and finished ones.

The worker of a trial holds a lease, a lock that its death releases. The board marks a running trial without a lease as
FAIL and enqueues it again; its run then continues from its checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import os
from abc import abstractmethod
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import optuna
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from harness.ablation.design.shared import SharedPlan
from harness.ablation.execute.trials import Trials
from harness.core.errors import Stopped, UserError, redacted
from harness.core.files import drop_torn_line, locked, require_log, short_hash
from harness.core.reading import shaped
from harness.core.registry import find
from harness.core.signals import Stop
from harness.runs.folder import Run

optuna.logging.set_verbosity(optuna.logging.ERROR)
DEATHS = 3
"""After this number of worker deaths in a trial, the trial is left out until the command is run again."""


class Board(Trials):
    """Trials in a journal; a subclass defines which trials there are and how to run one."""

    def __init__(self, plan: SharedPlan, pruner: BasePruner | None = None, minimized: int = 0, store: str = ""):
        """`minimized` is the number of further values of a trial, where lower is better.

        With a `store`, the address of a database, the trials are there instead. `UserError` if the folder cannot be
        used.
        """
        self.plan = plan
        self.folder = plan.folder
        self.pruner = pruner
        self.minimized = minimized
        self.store = store
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{error.filename}: is not a folder, but a study needs one there. Move it away.") from error

    @functools.cached_property
    def study(self) -> optuna.Study:
        """Optuna's study, opened or created when it is first needed: a plan that has ended needs none.

        `UserError` if the journal or the database cannot be used.
        """
        metric: Any = find("metric", self.plan.metric)
        directions: Any = ["minimize" if metric.lower_is_better else "maximize", *["minimize"] * self.minimized]
        place = redacted(self.store) if self.store else str(self.folder / "journal.log")
        try:
            storage = _remote(self.store) if self.store else journal_of(self.folder / "journal.log")
            name = f"{self.plan.name}-{self.plan.digest}{place_of(self.folder) if self.store else ''}"
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, pruner=self.pruner, load_if_exists=True
            )  # fmt: skip
            for trial in study.get_trials(deepcopy=False):
                shaped(self._told(trial), self.TOLD)
            return study
        except Exception as error:  # Optuna may raise anything on a damaged journal
            if isinstance(error, (MemoryError, Stopped, UserError)):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            advice = "Start the database, or correct --store" if self.store else "Remove it"
            raise UserError(
                f"{place}: Optuna cannot use it ({reason}). {advice}: finished runs are kept and found again."
            ) from error

    TOLD: ClassVar[Any]
    """Type of the attributes that the board writes to the journal for a trial."""

    @abstractmethod
    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the board's attributes of a trial; `Damaged` if they do not fit the plan."""

    @abstractmethod
    def run(self, trial: optuna.Trial, stop: Stop) -> None:
        """Run a trial and record how it ended; on `Stopped`, the trial can be continued."""

    @abstractmethod
    def settled(self) -> list[FrozenTrial]:
        """Return the trials that have ended for good."""

    @abstractmethod
    def title(self, trial: FrozenTrial) -> str:
        """Return the title of a trial, which all attempts at it share."""

    @abstractmethod
    def run_of(self, trial: FrozenTrial) -> Run:
        """Return the run that a trial trains."""

    @abstractmethod
    def _ask(self) -> optuna.Trial:
        """Return the next trial with its parameters."""

    @abstractmethod
    def _put_in(self) -> None:
        """Enqueue missing trials, including those whose worker died."""

    def _any_left(self) -> bool:
        return bool(self.trials(TrialState.WAITING))

    def begin(self) -> None:
        """Record that a command begins to run the trials; worker deaths before it do not count."""
        self.study.set_user_attr("since", datetime.now().isoformat())

    def deaths(self, title: str) -> int:
        """Return the number of workers that died in a trial since the command began."""
        return [self.title(trial) for trial in self._died()].count(title)

    def left_out(self) -> list[str]:
        """Return the titles of trials in which `DEATHS` workers or more died since the command began."""
        died = [self.title(trial) for trial in self._died()]
        ended = {self.title(trial) for trial in self.settled()} if died else set()
        return [title for title in dict.fromkeys(died) if died.count(title) >= DEATHS and title not in ended]

    def left_by(self, process: int | None) -> FrozenTrial | None:
        """Return the trial in which the worker with this process id died; None if it had no trial."""
        last = [trial for trial in self.trials() if trial.user_attrs.get("worker") == process][-1:]
        return next((trial for trial in self._died() if trial in last), None)

    def _died(self) -> list[FrozenTrial]:
        """Return the attempts that ended with their worker's death since the command began."""
        if not (since := self.study.user_attrs.get("since")):
            return []
        failed = [trial for trial in self.trials(TrialState.FAIL) if "reason" not in trial.user_attrs]
        return [trial for trial in failed if trial.datetime_start and trial.datetime_start.isoformat() >= since]

    def refill(self) -> None:
        """Mark the trials of dead workers as FAIL, and enqueue missing trials."""
        with self._claim():
            self._refill()

    def next(self) -> tuple[optuna.Trial, contextlib.ExitStack] | None:
        """Claim a trial; return it and its lease, which the caller closes. None if other workers have all the rest."""
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
        """Return the trials in these states, or all trials if none is given."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def busy(self) -> bool:
        """Whether a trial is running or waiting for a worker."""
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


def place_of(folder: Path) -> str:
    """Return a short hash of a plan's folder: in a database, the same search in another folder is another search."""
    return f"-{short_hash(str(folder.resolve()).encode())[:6]}"


def journal_of(journal: Path) -> JournalStorage:
    """Return the storage of trials in a file of this machine."""
    if journal.exists():
        require_log(journal)
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=_KernelLock(journal)))


def _remote(store: str) -> RDBStorage:
    return RDBStorage(store, engine_kwargs={"pool_pre_ping": True})  # a connection may have been lost since


class _KernelLock(JournalFileSymlinkLock):
    """Kernel lock on the journal: unlike Optuna's lock files, it ends with its process and not up to 30 s later.

    The next holder removes a line that a killed process left unfinished.
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
