"""Trials of a search on the nodes of an engine, in a database: each slot of the engine draws one trial and keeps it.

The database is Optuna's RDB storage, like PostgreSQL, which many nodes can use at once. A trial whose job is lost goes
on in the same slot, from its run's last checkpoint. While the database is away, training goes on, and the value waits.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Collection, Container, Iterable
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError

from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.execute.board import journal_of
from harness.ablation.execute.node import on_nodes
from harness.ablation.execute.tuner import SearchBoard, sampler
from harness.core.errors import Stopped, UserError
from harness.core.fence import attempt, hold, require_held
from harness.core.reading import say_once
from harness.core.rng import stream_seed
from harness.core.signals import Stop, asked_to_stop
from harness.runs.progress import Followed

STORE = "HARNESS_STORE"
"""Environment variable with the address of the database: a command line would show its password to every user."""
RETRY_S = 5.0
"""Seconds between two attempts to reach the database."""
LOST_S = 60.0
"""Seconds for which the command sees a trial without a slot until it takes its job for lost."""
COPIED = "copied"
"""Attribute of a study in a journal that `kept` wrote."""
REFUSED = re.compile("authentication|password|pg_hba|permission|does not exist")
"""Parts of a server's messages that waiting does not mend."""
T = TypeVar("T")


class Slots(SearchBoard):
    """The trials of a search in a database."""

    def __init__(self, plan: SearchPlan, store: str):
        super().__init__(plan, store)
        self._bare: dict[int, float] = {}

    def unended(self, among: Collection[int]) -> set[int]:
        """Return the slots whose trials have not ended; none counts as ended while the database is away."""
        self.plan = on_nodes(self.plan)
        self._in_store(self._put_in_lost, later=True)
        return self._without(among, self._in_store(self.settled, later=True) or [])

    def _without(self, among: Collection[int], settled: Iterable[FrozenTrial]) -> set[int]:
        return {*among} - {trial.user_attrs.get("slot", -1) for trial in settled}

    def label(self, number: int) -> str:
        return f"slot {number}"

    def followed(self, known: Container[str]) -> list[Followed]:
        return self._in_store(lambda: super(Slots, self).followed(known), later=True) or []

    def begin(self) -> None:
        """Put in the first draws."""
        self._in_store(self._put_in)

    def _put_in_lost(self) -> None:
        """Put in again the trials whose job was lost before they had a slot: those seen for `LOST_S` without one."""
        now = time.monotonic()
        bare = [trial.number for trial in self.trials(TrialState.RUNNING) if "slot" not in trial.user_attrs]
        self._bare = {number: self._bare.get(number, now) for number in bare}
        for number in (number for number, since in self._bare.items() if now - since > LOST_S):
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            self._put_in()

    def carry_out(self, slot: int, stop: Stop) -> None:
        """Run the trial of a slot, unless it has ended; raises `Stopped`, and `Superseded` by a newer attempt."""
        with hold(self.folder / "slots" / f"{slot}.json", attempt()):
            if slot in self._without([slot], self._in_store(self.settled) or []):
                self.run(self._trial(slot), stop)

    def _trial(self, slot: int) -> optuna.Trial:
        """Return the trial of a slot, drawn now if it has none; its draw depends on the seed and its number."""
        running = self._in_store(lambda: self.trials(TrialState.RUNNING)) or []
        own = [trial for trial in running if trial.user_attrs.get("slot") == slot]
        trial = optuna.Trial(self.study, own[-1]._trial_id) if own else self._in_store(self.study.ask)
        assert trial
        self._in_store(lambda: trial.set_user_attr("slot", slot))
        self.study.sampler = sampler(stream_seed(self.plan.base.seed, "search", trial.number) % 2**32)
        drawn = optuna.Trial(self.study, trial._trial_id)  # with this sampler
        for name, distribution in self.plan.space.items():
            self._in_store(functools.partial(_suggest, drawn, name, distribution))
        return drawn

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
        """Return the board with a copy of the trials in the folder of the plan, where all reports look for them.

        `UserError` if a search of this machine has its trials there.
        """
        journal = self.folder / "journal.log"
        if journal.exists() and COPIED not in SearchBoard(self.plan).study.user_attrs:
            raise UserError(f"{journal}: has the trials of a search on this machine. Move it away, then try again.")
        made = journal.with_name("copied.log")
        self._in_store(functools.partial(self._copy, made))
        made.replace(journal)
        return SearchBoard(self.plan)

    def _copy(self, made: Path) -> None:
        made.unlink(missing_ok=True)
        name = f"{self.plan.name}-{self.plan.digest}"
        optuna.copy_study(
            from_study_name=self.study.study_name, from_storage=self.study._storage, to_storage=journal_of(made),
            to_study_name=name,
        )  # fmt: skip
        optuna.load_study(study_name=name, storage=journal_of(made)).set_user_attr(COPIED, True)


def opened(plan: SearchPlan, store: str) -> Slots:
    """Return the trials of a search, once the database answers; raises `Stopped`."""
    while True:
        try:
            board = Slots(plan, store)
            board.trials()
            return board
        except UserError as error:
            away = isinstance(error.__cause__, (StorageInternalError, OperationalError))
            if not away or REFUSED.search(str(error)):
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
