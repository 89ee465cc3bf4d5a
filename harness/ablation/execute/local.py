"""Local workers: processes of this machine that take the trials from a board."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from harness.ablation.execute import forks
from harness.ablation.execute.board import DEATHS, Board
from harness.ablation.execute.launchers import LOCAL, Launcher
from harness.ablation.execute.placement import Placement
from harness.core.errors import UserError
from harness.core.signals import Stop

PATIENCE_S = 60.0
"""Seconds that a worker has for saving after a request to stop; then it is killed."""

STOPPED = 130
"""Exit code of a worker that saved and ended on request."""

LEFT_OUT = f"{DEATHS} workers were killed in each. If memory ran out, take fewer workers or smaller batches"


class Local(Launcher, name=LOCAL):
    """The launcher of this machine: its workers end with the command."""

    LOOK_EVERY_S = 0.2

    def __init__(
        self, board: Board, unended: Collection[int], plan: Path, placement: Placement, console: Console, stop: Stop
    ):
        if unended:
            board.refill()
            forks.prepare()
        self.board = board
        self.plan = plan
        self.placement = placement
        self.console = console
        self.stop = stop
        self.crew: list[Worker] = []
        self._at_work: list[Worker] = []
        self._submitted: set[int] = set()
        self._deaths = Deaths(board, console, functools.partial(_start, plan, placement=placement))

    def submit(self, numbers: Sequence[int]) -> None:
        """Start as many workers as these trials can use. The board says which trial a worker takes."""
        self._submitted = {*numbers}
        for i in range(min(self.placement.workers, len(numbers))):
            self.crew.append(_start(self.plan, i, self.placement))
            self._at_work.append(self.crew[-1])

    def alive(self) -> set[int]:
        """Show the workers' output, and replace killed workers; return no trial once all workers have ended.

        `UserError` if a worker failed, or was lost before every trial ended.
        """
        for worker in list(self._at_work):
            worker.show(self.console)
            if worker.process.is_alive():
                continue
            self._at_work.remove(worker)
            _check(worker, self.console)
            if worker.process.exitcode and not self.stop() and (another := self._deaths.replaced(worker)):
                self._at_work.append(another)
                self.crew[self.crew.index(worker)] = another  # they share a log
        if self.crew and not self._at_work and not self.board.finished():
            raise UserError(
                f"a worker was lost before every trial ended. {self.plan.parent} has the logs; "
                "the same command continues."
            )
        return self._submitted if self._at_work else set()

    def given_up(self) -> Mapping[int, str]:
        """Return the trials in which too many workers were killed."""
        left_out = self.board.left_out()
        return {i: LEFT_OUT for i in range(self.board.total if left_out else 0) if self.board.label(i) in left_out}

    def cancel(self) -> None:
        _end(self.crew, self.console)

    def leave(self, stopped: bool) -> None:
        self.cancel()


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


def _start(plan_path: Path, number: int, placement: Placement, again: bool = False) -> Worker:
    """Start a worker; with `again`, it appends to the log of the worker that it replaces."""
    log = plan_path.with_name(f"worker-{number}.log")
    if not again:
        log.write_bytes(b"")
    shown = log.stat().st_size
    return Worker(forks.start(plan_path, log, placement.environment(number)), number, log, shown)


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


def _end(crew: list[Worker], console: Console) -> None:
    """Ask the workers to save and end, and wait until they have."""
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
