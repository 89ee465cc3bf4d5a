"""Copies of this checkout, in which tests run in parallel against changed source."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mutations import Mutation
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parent.parent
COPIED = ("harness", "studies", "tests", "results/tables", "pyproject.toml", "README.md", "Makefile")


class Outcome(NamedTuple):
    """How a run of tests ended."""

    caught: str
    """The test that failed, or another reason; empty if all passed."""
    seconds: float


@dataclass(frozen=True)
class Checkout:
    """A copy of this checkout for one mutation at a time."""

    folder: Path

    @classmethod
    def of_this_one(cls, folder: Path) -> Checkout:
        """Copy the files that the tests need."""
        for name in COPIED:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, target)
        return cls(folder)

    @contextlib.contextmanager
    def with_line_of(self, mutation: Mutation) -> Iterator[None]:
        """Apply a mutation, and restore the line at the end."""
        path = self.folder / mutation.path
        source = path.read_text()
        path.write_text(mutation.apply(source))
        try:
            yield
        finally:
            path.write_text(source)

    def run(self, tests: Sequence[str], limit: float, at_work: set[int]) -> Outcome:
        """Run the tests in this copy for at most `limit` seconds.

        `at_work` contains the process group during the run.
        """
        options = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--color=no")
        command = (sys.executable, "-m", "pytest", *options, *(f"tests/test_{name}.py" for name in tests))
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )
            at_work.add(process.pid)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                return Outcome("the time limit", limit)
            finally:
                end(process.pid)
                process.wait()
                at_work.discard(process.pid)
            said.seek(0)
            return Outcome(failure(said.read()) if process.returncode else "", time.monotonic() - started)


Job = Callable[[Checkout, set[int]], Outcome]


def end(group: int) -> None:
    """Kill the remaining processes of a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def failure(said: str) -> str:
    """Return the failed test from pytest's output, or the last line if there is no test."""
    lines = [line for line in said.splitlines() if line]
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "E  "))]
    summary = [line for line in named if not line.startswith("E  ")]
    return (summary or named or lines or ["no word"])[-1].removeprefix("FAILED ").partition(" - ")[0].strip()


class Crew:
    """Runs jobs in parallel, one in each copy at a time, and shows the progress."""

    def __init__(self, folder: Path, workers: int, console: Console):
        self.workers = workers
        self.console = console
        self.at_work: set[int] = set()
        self.free: queue.Queue[Checkout] = queue.Queue()
        for i in range(workers):
            self.free.put(Checkout.of_this_one(folder / str(i)))

    def run(self, title: str, jobs: Sequence[Job]) -> Iterator[tuple[int, Outcome]]:
        """Yield (number of the job, outcome) in the order in which the jobs end."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        pool = ThreadPoolExecutor(self.workers)
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console) as progress:
            bar = progress.add_task(title, total=len(jobs))
            waiting = {pool.submit(self._in_a_copy, job): i for i, job in enumerate(jobs)}
            try:
                for future in as_completed(waiting):
                    progress.advance(bar)
                    yield waiting[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for group in [*self.at_work]:
                    end(group)

    def _in_a_copy(self, job: Job) -> Outcome:
        copy = self.free.get()
        try:
            return job(copy, self.at_work)
        finally:
            self.free.put(copy)
