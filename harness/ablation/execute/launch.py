"""Run a plan's trials by a launcher: submit them, show their output, mirror them to MLflow, and report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from harness.ablation.execute.board import DEATHS, Board, place_of
from harness.ablation.execute.launchers import Launcher, Logs, Remote, find
from harness.ablation.execute.local import Local
from harness.ablation.execute.placement import Placement
from harness.ablation.execute.trials import Trials
from harness.core.errors import Stopped, UserError
from harness.core.files import locked
from harness.core.provenance import commit
from harness.core.reading import say_once
from harness.core.signals import Stop
from harness.runs.mlflow_mirror import Mirror
from harness.runs.mlflow_pages import Told, View, linked, views
from harness.runs.mlflow_record import Record
from harness.runs.mlflow_store import reason
from harness.runs.progress import Followed, Watch

LOST = f"each was lost {DEATHS} times. If memory ran out, ask for more, or take smaller batches"


def launch(
    trials: Trials, placement: Placement, console: Console, stop: Stop, report: Callable[[], Told],
    experiment: str | None = None,
) -> bool:  # fmt: skip
    """Run every trial, then `report`, and send what it tells to MLflow; another call continues.

    Return whether it is reported: False if the placement only submits the trials. All runs are below one record in the
    MLflow `experiment`, by default the plan's name. Raises `Stopped`. `UserError` if MLflow has no store, if a trial
    raises one, or if trials were left out.
    """
    plan = trials.plan
    with locked(plan.folder / "lock", wait=False) as ours:
        if not ours:
            raise UserError(f"{plan.name}: another process runs it now. Wait for it, or stop it.")
        unended = trials.unended(trials.numbers)
        if unended:
            trials.begin()
        launcher = _launcher(trials, unended, plan.write(), placement, console, stop)
        work = Work(trials, unended, launcher, console)
        if isinstance(placement, Remote) and placement.detach and work.open:
            work.look()
            console.print(work.told(), soft_wrap=True)
            return False
        mirror, above = _connect(trials, experiment or plan.name)  # imports MLflow while workers' imports run
        with _left(launcher, stop):
            work.look()
            status = "FAILED"
            told = Told([])
            try:
                with _follower(trials, mirror, above, console), _left(launcher, stop):
                    work.finish(stop)
                told = report()
                work.require_all()
                status = "FINISHED"
            finally:
                _close(trials, mirror, above, "KILLED" if stop() else status, told)
    return True


def _launcher(
    trials: Trials, unended: Collection[int], plan: Path, placement: Placement, console: Console, stop: Stop
) -> Launcher:
    """Return the launcher of a placement, for the `unended` trials of the plan in the file `plan`."""
    if isinstance(placement, Remote):
        name = f"{trials.plan.name}-{trials.plan.digest}{place_of(trials.plan.folder)}"
        launcher = find(placement.launcher)(plan, name, placement.on, placement.jobs)
        launcher.processes = placement.processes
        return launcher
    assert isinstance(trials, Board)
    return Local(trials, unended, plan, placement, console, stop)


@contextmanager
def _left(launcher: Launcher, stop: Stop) -> Iterator[None]:
    """At the end of the block, however it ends, leave the launcher; a stop cancels its trials."""
    try:
        yield
    finally:
        launcher.leave(stop())


class Work:
    """The trials that have not ended, and their way through a launcher."""

    def __init__(self, trials: Trials, unended: Collection[int], launcher: Launcher, console: Console):
        self.trials = trials
        self.launcher = launcher
        self.console = console
        self.open = {*unended}
        self.left_out: dict[int, str] = {}
        self._logs = Logs(launcher)
        self._tries = Counter[int]()
        self._saved: dict[int, int] = {}
        self._submitted: set[int] = set()
        self._alive: set[int] = set()

    def finish(self, stop: Stop) -> None:
        """Look until every trial has ended or is left out; raises `Stopped`."""
        while self.open:
            time.sleep(self.launcher.LOOK_EVERY_S)
            if stop():
                self.console.print("Stopping: the trials are saved.")
                raise Stopped("stopped")
            self.look()

    def look(self) -> None:
        """Show new output, note which trials have ended, and submit those that are neither alive nor waiting."""
        if not self.open:
            return
        alive = self.launcher.alive()  # before the look at the runs: a trial first ends, then leaves the engine
        self._logs.begin(sorted(alive - self._alive - self._tries.keys()))
        for line in self._logs.new_lines(self.open & (alive | self._alive)):
            self.console.print(line, soft_wrap=True)
        self._alive = alive
        gone = self.open - alive
        lost = self.trials.unended(gone)
        self.open -= gone - lost
        self._leave_out(lost)
        if ready := sorted(self.trials.ready(lost & self.open, self.open)):
            self._submit(ready)

    def _submit(self, numbers: list[int]) -> None:
        for number in numbers:
            saved = self.trials.progress(number)
            if saved > self._saved.get(number, -1):  # it gets on, so it may be tried as often again
                self._tries[number] = 0
            self._saved[number] = saved
            self._tries[number] += 1
            if number in self._submitted:
                title = self.trials.label(number)
                self.console.print(f"{title} was lost, and is handed to the engine again.", soft_wrap=True)
        self._logs.begin(numbers)
        refused = {*(self.launcher.submit(numbers) or ())}
        self._tries.subtract(refused)
        self._submitted |= {*numbers} - refused
        self._alive |= {*numbers} - refused

    def _leave_out(self, lost: set[int]) -> None:
        """Leave out the trials that failed, that the launcher gave up, or that were lost `DEATHS` times."""
        known = {**self.launcher.given_up(), **self._logs.errors} if lost else {}
        for number in lost:
            if reason := known.get(number) or (LOST if self._tries[number] >= DEATHS else ""):
                self.left_out[number] = reason
        self.open -= self.left_out.keys()

    def told(self) -> str:
        """Say how many trials wait or run in the engine, and how many are left for a later command."""
        ended = self.trials.total - len(self.open) - len(self.left_out)
        later = len(self.open - self._alive)
        waiting = f", {later} wait for flows of others: the same command submits them later" if later else ""
        return (
            f"{ended} of {self.trials.total} trials have ended, {len(self.open) - later} are queued or run{waiting}. "
            "The same command without --detach follows and reports them."
        )

    def require_all(self) -> None:
        """Raise `UserError` if trials were left out."""
        if not self.left_out:
            return
        reasons: dict[str, list[str]] = {}
        for number, why in sorted(self.left_out.items()):
            reasons.setdefault(why, []).append(self.trials.label(number))
        said = " ".join(f"{_listed(titles)}: {why.rstrip('.')}." for why, titles in reasons.items())
        raise UserError(
            f"{self.trials.plan.name}: no value of {said} The same command tries again, and keeps the rest."
        )


def _listed(titles: list[str]) -> str:
    """Return titles in a row, or the first of many and their number."""
    return ", ".join(titles) if len(titles) <= 6 else f"{', '.join(titles[:5])} and {len(titles) - 5} more"


def _connect(trials: Trials, experiment: str) -> tuple[Mirror, Callable[[], Record]]:
    """Return the connection to MLflow, and a function that finds or begins the plan's record there."""
    plan = trials.plan
    mirror = Mirror(experiment)
    mirror.close_dead()

    def record() -> Record:
        found = mirror.record(plan.folder, plan.name, plan.facts, {"commit": commit(), "plan": plan.digest})
        found.set_status("RUNNING")
        mirror.save_views(_views(trials))
        if mirror.experiment == plan.name:
            mirror.begin_description(f"**{plan.question}**\n\nNo result yet: it stands here when the command ends.")
        return found

    return mirror, record


def _views(trials: Trials) -> list[View]:
    """The saved views of a plan's runs."""
    plan = trials.plan
    return views(plan.name, plan.digest, plan.metric, plan.nfe, trials.columns)


def _close(trials: Trials, mirror: Mirror, above: Callable[[], Record], status: str, told: Told) -> None:
    """Send the report and the status of a plan's record; if the store does not answer, only print a line."""
    try:
        record = above()
        if told.note:
            told = linked(told, mirror.experiment_id, record.run_id, _views(trials))
            if mirror.experiment == trials.plan.name:  # else the experiment has other plans too
                mirror.describe(told.note)
        record.tell(told)
        record.set_status(status)
    except Exception as error:  # each store raises its own
        say_once(f"MLflow did not take the record ({reason(error)}); the same command sends it again.")


def _follower(trials: Trials, mirror: Mirror, above: Callable[[], Record], console: Console) -> Watch:
    tags = {"study": trials.plan.name, "plan": trials.plan.digest}

    def begun(known: Container[str]) -> list[Followed]:
        followed = trials.followed(known)
        for one in followed:
            one.tags |= tags
        return followed

    return Watch(trials.plan.name, begun(()), mirror, console, trials.total, begun, above)
