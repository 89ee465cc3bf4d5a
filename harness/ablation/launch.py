"""Runs a plan with local workers: starts them, shows what they say, and ends with the report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from harness.ablation.plan import Plan
from harness.ablation.worker import Board
from harness.data.base import load
from harness.errors import Stopped, UserError
from harness.evaluation.judge import Judge
from harness.runs import check
from harness.signals import StopSignal
from harness.tracking import Mirror
from harness.watch import Trial, Watch

PATIENCE_S = 60.0
"""How long a worker that was asked to stop may take to save before it is killed."""


@dataclass
class Worker:
    """A worker process and how much of what it said was shown."""

    process: subprocess.Popen
    log: Path
    shown: int = 0
    error: str | None = None

    def show(self, console: Console) -> None:
        """Print the lines of its log that are new."""
        whole = self.log.read_bytes()[self.shown :].rpartition(b"\n")[0]
        for line in whole.decode(errors="replace").splitlines():
            if line.startswith("error: "):
                self.error = line.removeprefix("error: ")
            elif not line.startswith("stopped"):
                console.print(line, highlight=False, markup=False)
        self.shown += len(whole) + 1 if whole else 0


def prepare(plan: Plan, console: Console) -> Judge:
    """Refuse what cannot work before anything is trained, and make the reference that all arms share."""
    for name, config in plan.arms.items():
        try:
            check(config)
        except UserError as error:
            raise UserError(f"arm '{name}': {error}") from None
    base = plan.arms[plan.baseline]
    torch.set_num_threads(os.cpu_count() or 1)
    return Judge(
        base.evaluate, load(base.dataset), base.train.resolved_device(),
        lambda batches, total: track(batches, "features of the reference", total, console=console),
    )  # fmt: skip


def launch(plan: Plan, workers: int, mirror: Mirror, parent_run: str, console: Console, stop: StopSignal) -> None:
    """Run every trial of a plan; raises `Stopped` or a worker's `UserError`. Calling again continues."""
    board, path = Board(plan), plan.write()
    board.refill()
    trials = [
        Trial(f"{arm} seed {seed}", plan.run(arm, seed), plan.protocol(arm),
              {"mlflow.parentRunId": parent_run, "study": plan.name, "arm": arm, "plan": plan.digest})
        for arm, seed in plan.trials()
    ]  # fmt: skip
    if board.finished():
        workers = 0
    with Watch(plan.name, trials, mirror, console):
        crew = [_start(path, plan.folder / f"worker-{i}.log") for i in range(workers)]
        try:
            _follow(crew, console, stop)
        finally:
            _end(crew, console)
    if not board.finished():
        raise UserError(f"not every trial ended: a worker was lost. {plan.folder} has their logs; the same command continues.")


def _start(plan_path: Path, log: Path) -> Worker:
    command = [sys.executable, "-m", "harness.ablation.worker", str(plan_path)]
    with open(log, "wb") as file:
        return Worker(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT), log)


def _follow(crew: list[Worker], console: Console, stop: StopSignal) -> None:
    while any(worker.process.poll() is None for worker in crew):
        time.sleep(0.2)
        if stop():
            console.print("Stopping: the workers save their trials.")
            raise Stopped("stopped")
        for worker in crew:
            worker.show(console)
            if worker.process.poll() is not None:
                _check(worker, console)


def _check(worker: Worker, console: Console) -> None:
    """Raise what ended a worker early."""
    worker.show(console)
    code = worker.process.returncode
    if worker.error:
        raise UserError(worker.error)
    if code > 0:
        raise UserError(f"a worker failed with exit code {code}; the end of {worker.log} says why. The same command continues.")


def _end(crew: list[Worker], console: Console) -> None:
    for worker in crew:
        worker.process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for worker in crew:
        try:
            worker.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.show(console)
