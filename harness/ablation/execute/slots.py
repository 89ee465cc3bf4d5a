"""Trials of a search on the nodes of an engine, in a database: each slot of the engine draws one trial and keeps it.

The database is Optuna's RDB storage, like PostgreSQL, which many nodes can use at once. A trial whose job is lost goes
on in the same slot, from its run's last checkpoint. While the database is away, training goes on, and the value waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Container
from datetime import datetime
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.execute.board import journal_of
from harness.ablation.execute.node import on_nodes
from harness.ablation.execute.tuner import SearchBoard, sampler
from harness.core.errors import Stopped, UserError
from harness.core.fence import OWNER, attempt, hold, require_held
from harness.core.reading import say_once
from harness.core.rng import stream_seed
from harness.core.signals import Stop, asked_to_stop
from harness.runs.folder import Run
from harness.runs.progress import Followed

STORE = "HARNESS_STORE"
"""Environment variable with the address of the database: a command line would show its password to every user."""
RETRY_S = 5.0
"""Seconds between two attempts to reach the database."""
LOST_S = 60.0
"""Age of a trial without a slot at which its job was lost while it drew the trial."""
T = TypeVar("T")


class Slots(SearchBoard):
    """The trials of a search in a database."""

    def __init__(self, plan: SearchPlan, store: str):
        super().__init__(plan, store)
        self.store = store

    def unended(self, among: Collection[int]) -> set[int]:
        self.plan = on_nodes(self.plan)
        settled = self._in_store(self.settled, later=True) or ()
        return {*among} - {trial.user_attrs.get("slot", -1) for trial in settled}

    def label(self, number: int) -> str:
        return f"slot {number}"

    def followed(self, known: Container[str]) -> list[Followed]:
        return self._in_store(lambda: super(Slots, self).followed(known), later=True) or []

    def refill(self) -> None:
        """Put in the first draws, and again the trials whose job was lost before they had a slot; the driver does."""
        now = datetime.now()
        for trial in self.trials(TrialState.RUNNING):
            begun = trial.datetime_start or now
            if "slot" not in trial.user_attrs and (now - begun).total_seconds() > LOST_S:
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._put_in()

    def carry_out(self, slot: int, stop: Stop) -> None:
        """Run the trial of a slot, unless it has ended; raises `Stopped`."""
        if slot not in self.unended([slot]):
            return
        trial = self._in_store(lambda: self._trial(slot))
        assert trial
        with hold(Run.of(self.plan.config(trial.params)).folder / OWNER, attempt()):
            self.run(trial, stop)

    def _trial(self, slot: int) -> optuna.Trial:
        """Return the trial of a slot, drawn now if it has none; its draw depends on the seed and its number."""
        own = [trial for trial in self.trials(TrialState.RUNNING) if trial.user_attrs.get("slot") == slot]
        trial = optuna.Trial(self.study, own[-1]._trial_id) if own else self.study.ask()
        if not own:
            trial.set_user_attr("slot", slot)
        self.study.sampler = sampler(stream_seed(self.plan.base.seed, "search", trial.number) % 2**32)
        trial = optuna.Trial(self.study, trial._trial_id)  # with this sampler
        for name, distribution in self.plan.space.items():
            _suggest(trial, name, distribution)
        return trial

    def _in_store(self, act: Callable[[], T], later: bool = False) -> T | None:
        while True:
            require_held()
            try:
                return act()
            except StorageInternalError:
                say_once("the database of the search does not answer: training goes on, and values wait.")
                if later:
                    return None
                if asked_to_stop():
                    raise Stopped("stopped while the database of the search did not answer") from None
                time.sleep(RETRY_S)

    def kept(self) -> SearchBoard:
        """Return the board with a copy of the trials in the folder of the plan, where all reports look for them."""
        journal = self.folder / "journal.log"
        journal.unlink(missing_ok=True)
        name = f"{self.plan.name}-{self.plan.digest}"
        optuna.copy_study(
            from_study_name=name, from_storage=self.study._storage, to_storage=journal_of(journal), to_study_name=name
        )
        return SearchBoard(self.plan)


def opened(plan: SearchPlan, store: str) -> Slots:
    """Return the trials of a search, once the database answers; raises `Stopped`."""
    while True:
        try:
            return Slots(plan, store)
        except UserError as error:
            if not isinstance(error.__cause__, (StorageInternalError, OperationalError)):
                raise
            say_once(f"{error} The trial waits for it.")
        if asked_to_stop():
            raise Stopped("stopped while the database of the search did not answer")
        time.sleep(RETRY_S)


def store_of(given: str | None = None) -> str:
    """Return the address of the database, as given or in the environment; `UserError` if nodes cannot share it."""
    store = given or os.environ.get(STORE, "")
    if not store or store.startswith("sqlite"):
        reason = "several nodes cannot share a SQLite file" if store else "a search on several nodes needs a database"
        raise UserError(f"--store: {reason}. Give a server's address, like postgresql+psycopg://user@host/searches.")
    return store


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Draw a value, or return the drawn one."""
    match distribution:
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(distribution)
