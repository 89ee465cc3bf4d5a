"""Slurm: the trials of a plan are the tasks of job arrays, named after the plan.

The array's name is all that a command needs to find its trials again. Slurm itself requeues the trials of a lost node
and of a preempted job. The script requeues a trial that saved and ended on a signal: at a preemption, and two minutes
before its time limit. A cancelled job stays cancelled. A trial that is killed alone leaves Slurm, and the command
submits it again.
"""

from __future__ import annotations

import itertools
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.ablation.execute.launchers import LOGS, Launcher
from harness.core.errors import UserError
from harness.core.reading import say_once

LARGEST_INDEX = 1000
"""Largest index of an array in Slurm's default configuration; larger numbers go to further arrays."""
GROUPS = 100
"""Largest number of arrays of a plan."""
CANCELLED = "cancelled in Slurm"
WARNING_S = 120
"""Seconds before the time limit at which Slurm asks a trial to save."""
PATIENCE_S = 120.0
"""Seconds to wait for cancelled trials."""

SCRIPT = """#!/bin/bash
number=$((SLURM_ARRAY_TASK_ID + {offset}))
[ -n "$SLURM_CPUS_PER_TASK" ] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --unbuffered {command} >> {logs}/$number.log 2>&1
code=$?
[ $code = 130 ] && scontrol requeue "$SLURM_JOB_ID" && sleep 5
exit $code
"""


class Slurm(Launcher, name="slurm"):
    """Job arrays by sbatch; `on` are options of sbatch, like `--partition=gpu --gres=gpu:1 --time=240`."""

    LOOK_EVERY_S = 5.0

    def __init__(self, plan: Path, name: str, on: str, jobs: int | None):
        super().__init__(plan, name, on, jobs)
        if missing := [program for program in ("sbatch", "squeue", "scancel") if not shutil.which(program)]:
            raise UserError(f"--launcher slurm: {missing[0]} is not on this machine. Run the command on a login node.")
        try:
            self.words = shlex.split(on)
        except ValueError as error:
            raise UserError(f"--on: {on!r} is not a list of options ({error}). Close the quotes.") from None
        self._last: set[int] = set()
        self._groups = {*range(GROUPS)}
        self._cancelled_before = self._cancelled()
        self._groups = {number // LARGEST_INDEX for number in self.alive()}

    def submit(self, numbers: Sequence[int]) -> None:
        (self.plan.parent / LOGS).mkdir(exist_ok=True)
        for group, members in itertools.groupby(sorted(numbers), lambda number: number // LARGEST_INDEX):
            self._groups.add(group)
            self._submit(group, [number % LARGEST_INDEX for number in members])

    def _submit(self, group: int, indices: list[int]) -> None:
        limit = f"%{self.jobs}" if self.jobs else ""
        logs = self.plan.parent / LOGS
        options = [
            f"--array={','.join(_ranges(indices))}{limit}", f"--job-name={self._job(group)}", "--requeue",
            "--open-mode=append", f"--output={logs}/array.log", f"--signal=USR1@{WARNING_S}",
        ]  # fmt: skip
        unit = shlex.join(self.command("NUMBER")).replace("NUMBER", '"$number"')
        script = SCRIPT.format(offset=group * LARGEST_INDEX, command=unit, logs=shlex.quote(str(logs)))
        done = subprocess.run(["sbatch", *options, *self.words], input=script, capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
            raise UserError(f"--launcher slurm: sbatch refuses the trials: {said} Change --on, or ask Slurm's keepers.")

    def alive(self) -> set[int]:
        """Return the trials in Slurm's queue; those of the last answer while Slurm does not answer."""
        if (found := self._queue()) is not None:
            self._last = {number for _, number in found}
        return self._last

    def given_up(self) -> Mapping[int, str]:
        """Return the trials whose jobs somebody has cancelled since this command began."""
        return dict.fromkeys((number for _, number in self._cancelled() - self._cancelled_before), CANCELLED)

    def _cancelled(self) -> set[tuple[str, int]]:
        return self._queue("--states=CANCELLED") or set()

    def _queue(self, *options: str) -> set[tuple[str, int]] | None:
        """Return (job, number of the trial) of the tasks in the queue; None if Slurm does not answer."""
        if not self._groups:
            return set()
        names = {self._job(group): group for group in sorted(self._groups)}
        asked = ["squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%F %K %j", *options]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode:
            say_once(f"Slurm does not answer ({' '.join(done.stderr.split())}). The trials go on without it.")
            return None
        rows = (line.split(maxsplit=2) for line in done.stdout.splitlines() if line.strip())
        return {(job, int(index) + names[name.strip()] * LARGEST_INDEX) for job, index, name in rows}

    def cancel(self) -> None:
        names = [self._job(number // LARGEST_INDEX) for number in self.alive()]
        for name in sorted({*names}):
            subprocess.run(["scancel", f"--name={name}"], capture_output=True)
        deadline = time.monotonic() + PATIENCE_S
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.5)

    def _job(self, group: int) -> str:
        """Return the name of the jobs of `LARGEST_INDEX` trials."""
        return f"{self.name}-{group}" if group else self.name


def _ranges(indices: Sequence[int]) -> Iterator[str]:
    """Yield sorted indices as Slurm writes them: 1, 4-7."""
    for _, run in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        yield str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"
