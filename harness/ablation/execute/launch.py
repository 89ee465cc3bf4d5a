"""Run a board's trials with local workers: start them, show their output, and finish with the report."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from harness.ablation.execute import forks
from harness.ablation.execute.board import DEATHS, Board
from harness.ablation.execute.placement import Placement
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

PATIENCE_S = 60.0
"""Seconds that a worker has for saving after a request to stop; then it is killed."""

STOPPED = 130
"""Exit code of a worker that saved and ended on request."""


@dataclass
class Worker:
    """A worker process, its log, and the number of bytes of the log that were shown."""

    process: BaseProcess
    number: int
    log: Path
    shown: int
    error: str | None = None

    def show(self, console: Console) -> None:
        """Print the new lines of its log."""
        whole = self.log.read_bytes()[self.shown :].rpartition(b"\n")[0]
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith("error: "):
                self.error = line.removeprefix("error: ")
            elif not line.startswith("stopped"):
                console.print(line, soft_wrap=True)
        self.shown += len(whole) + 1 if whole else 0


def launch(
    board: Board, placement: Placement, console: Console, stop: Stop, report: Callable[[], Told],
    experiment: str | None = None,
) -> None:  # fmt: skip
    """Run every trial of a board, then `report`, and send what it tells to MLflow; another call continues.

    All runs are below one record in the MLflow `experiment`, by default the plan's name. Raises `Stopped`. `UserError`
    if MLflow has no store, if a worker raises one, or if trials were left out.
    """
    plan = board.plan
    with locked(plan.folder / "lock", wait=False) as ours:
        if not ours:
            raise UserError(f"{plan.name}: another process runs it now. Wait for it, or stop it.")
        path = plan.write()
        board.begin()
        board.refill()
        crew: list[Worker] = []
        if not board.finished():
            forks.prepare()
        mirror, above = _connect(board, experiment or plan.name)  # imports MLflow while the workers' imports run
        with _ended(crew, console):
            for worker in _workers(board, path, placement):
                crew.append(worker)
            deaths = Deaths(board, console, functools.partial(_start, path, placement=placement))
            status = "FAILED"
            told = Told([])
            try:
                with _follower(board, mirror, above, console), _ended(crew, console):
                    _follow(crew, console, stop, deaths)
                if not board.finished():
                    raise UserError(
                        f"a worker was lost before every trial ended. {plan.folder} has the logs; "
                        "the same command continues."
                    )
                told = report()
                _require_all(board)
                status = "FINISHED"
            finally:
                _close(board, mirror, above, "KILLED" if stop() else status, told)


def _workers(board: Board, path: Path, placement: Placement) -> Iterator[Worker]:
    """Start a worker at a time, as many as the open trials can use."""
    left = 0 if board.finished() else board.total - len(board.settled())
    for i in range(min(placement.workers, left)):
        yield _start(path, i, placement)


def _connect(board: Board, experiment: str) -> tuple[Mirror, Callable[[], Record]]:
    """Return the connection to MLflow, and a function that finds or begins the plan's record there."""
    plan = board.plan
    mirror = Mirror(experiment)
    mirror.close_dead()

    def record() -> Record:
        found = mirror.record(plan.folder, plan.name, plan.facts, {"commit": commit(), "plan": plan.digest})
        found.set_status("RUNNING")
        mirror.save_views(_views(board))
        if mirror.experiment == plan.name:
            mirror.begin_description(f"**{plan.question}**\n\nNo result yet: it stands here when the command ends.")
        return found

    return mirror, record


def _views(board: Board) -> list[View]:
    """The saved views of a board's runs."""
    plan = board.plan
    return views(plan.name, plan.digest, plan.metric, plan.nfe, board.columns)


def _close(board: Board, mirror: Mirror, above: Callable[[], Record], status: str, told: Told) -> None:
    """Send the report and the status of a plan's record; if the store does not answer, only print a line."""
    try:
        record = above()
        if told.note:
            told = linked(told, mirror.experiment_id, record.run_id, _views(board))
            if mirror.experiment == board.plan.name:  # else the experiment has other plans too
                mirror.describe(told.note)
        record.tell(told)
        record.set_status(status)
    except Exception as error:  # each store raises its own
        say_once(f"MLflow did not take the record ({reason(error)}); the same command sends it again.")


def _follower(board: Board, mirror: Mirror, above: Callable[[], Record], console: Console) -> Watch:
    tags = {"study": board.plan.name, "plan": board.plan.digest}

    def begun(known: Container[str]) -> list[Followed]:
        trials = board.followed(known)
        for trial in trials:
            trial.tags |= tags
        return trials

    return Watch(board.plan.name, begun(()), mirror, console, board.total, begun, above)


def _start(plan_path: Path, number: int, placement: Placement, again: bool = False) -> Worker:
    """Start a worker; with `again`, it appends to the log of the worker that it replaces."""
    log = plan_path.with_name(f"worker-{number}.log")
    if not again:
        log.write_bytes(b"")
    shown = log.stat().st_size
    return Worker(forks.start(plan_path, log, placement.environment(number)), number, log, shown)


def _follow(crew: list[Worker], console: Console, stop: Stop, deaths: Deaths) -> None:
    """Show the workers' output until all have ended; replace killed workers in the crew."""
    at_work = list(crew)
    while at_work:
        time.sleep(0.2)
        if stop():
            console.print("Stopping: the workers save their trials.")
            raise Stopped("stopped")
        for worker in list(at_work):
            worker.show(console)
            if worker.process.is_alive():
                continue
            at_work.remove(worker)
            _check(worker, console)
            if worker.process.exitcode and not stop() and (another := deaths.replaced(worker)):
                at_work.append(another)
                crew[crew.index(worker)] = another  # they share a log


@dataclass
class Deaths:
    """Replaces workers that were killed, from outside or by a fault in compiled code."""

    board: Board
    console: Console
    start: Callable[..., Worker]
    ended: int = 0
    in_vain: int = 0
    """Worker deaths outside of trials since the number of `ended` trials last changed."""

    def replaced(self, worker: Worker) -> Worker | None:
        """Print why a worker died; start another one if trials are left, else return None.

        `UserError` if workers die repeatedly outside of trials.
        """
        how = _killed(worker.process.exitcode)
        self.board.refill()
        trial = self.board.left_by(worker.process.pid)
        if trial is None:
            self._require_hope(worker, how)
            where = "outside of a trial"
            then = "Another takes its place."
        else:
            where = f"in {self.board.title(trial)}, run {self.board.run_of(trial).name}"
            died = self.board.deaths(self.board.title(trial))
            then = "Another takes its place, and the run goes on from its last checkpoint."
            if died >= DEATHS:
                then = f"{died} workers have been killed in it: it is left out, and the rest goes on."
        self.console.print(f"worker {worker.number} {how} {where}. {then}", soft_wrap=True)
        return None if self.board.finished() else self.start(number=worker.number, again=True)

    def _require_hope(self, worker: Worker, how: str) -> None:
        """Raise `UserError` at the `DEATHS`-th worker death in a row outside of trials."""
        if (ended := len(self.board.settled())) != self.ended:
            self.ended = ended
            self.in_vain = 0
        self.in_vain += 1
        if self.in_vain >= DEATHS:
            raise UserError(
                f"worker {worker.number} {how} outside of a trial, like {DEATHS - 1} workers before it. "
                f"Its output is in {worker.log}; the same command continues."
            )


def _killed(code: int | None) -> str:
    """Return what ended a worker, from its exit code for a signal."""
    assert code is not None
    if code == STOPPED:
        return "was asked to stop"
    name = signal.Signals(-code).name
    return f"was killed by {name}{' (did memory run out?)' if name == 'SIGKILL' else ''}"


def _check(worker: Worker, console: Console) -> None:
    """Raise `UserError` if a worker failed."""
    worker.show(console)
    code = worker.process.exitcode or 0
    if worker.error:
        raise UserError(worker.error)
    if code == forks.LOST:
        raise UserError(
            "the process from which workers fork was killed (did memory run out?). The same command continues."
        )
    if code > 0 and code != STOPPED:
        raise UserError(
            f"a worker failed with exit code {code}; the end of {worker.log} says why. The same command continues."
        )


def _require_all(board: Board) -> None:
    """Raise `UserError` if trials were left out."""
    if left := board.left_out():
        raise UserError(
            f"{board.plan.name}: no value of {', '.join(left)}: {DEATHS} workers were killed in each. If memory ran "
            "out, take fewer workers or smaller batches; the same command tries again, and keeps the rest."
        )


@contextlib.contextmanager
def _ended(crew: list[Worker], console: Console) -> Iterator[None]:
    """At the end of the block, however it ends, ask the workers to save and stop, and wait until they have ended."""
    try:
        yield
    finally:
        _end(crew, console)


def _end(crew: list[Worker], console: Console) -> None:
    for worker in crew:
        if worker.process.is_alive():
            worker.process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    try:
        for worker in crew:
            worker.process.join(max(0.1, deadline - time.monotonic()))
    finally:  # after a second Ctrl-C too
        for worker in crew:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.show(console)
