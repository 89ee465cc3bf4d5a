"""Slurm: the trials of a plan are the tasks of job arrays, named after the plan.

The array's name is all that a command needs to find its trials again. Slurm itself requeues the trials of a lost node
and of a preempted job. The script requeues a trial that saved and ended on a signal: at a preemption, and two minutes
before its time limit. A cancelled job stays cancelled. A trial that is killed alone leaves Slurm, and the command
submits it again.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
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
RESTARTS = 50
"""Number of requeues after which a trial leaves Slurm; the command submits it again if it gets on."""
OWN = (
    "--array", "-a", "--job-name", "-J", "--wrap", "--clusters", "-M", "--test-only", "--no-requeue", "--hold", "-H",
)  # fmt: skip
"""Options that would hide trials from the launcher."""
STUCK = ("held", "Held", "BadConstraints", "PartitionTimeLimit", "PartitionNodeLimit", "InvalidAccount", "InvalidQOS")
"""Parts of the reasons for which Slurm lets a job wait until somebody changes it."""

SCRIPT = """#!/bin/bash
number=$((SLURM_ARRAY_TASK_ID + {offset}))
[ -n "$SLURM_CPUS_PER_TASK" ] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --unbuffered {command} "$number" >> {logs}/$number.log 2>&1
code=$?
[ $code = 130 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && scontrol requeue "$SLURM_JOB_ID" && sleep 5
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
        if own := [word for word in self.words if word.startswith(OWN)]:
            raise UserError(f"--on: {own[0]} is set by the launcher, which finds its trials by it. Leave it out.")
        self._groups = {*range(GROUPS)}
        try:
            found = self._queue()
            self._cancelled_before = self._queue("--states=CANCELLED")
        except UserError as error:
            raise UserError(f"--launcher slurm: {error}, so its queue is not known. Try again later.") from None
        self._last = {number for _, number in found}
        self._groups = {number // LARGEST_INDEX for number in self._last}

    def submit(self, numbers: Sequence[int]) -> Collection[int]:
        (self.plan.parent / LOGS).mkdir(exist_ok=True)
        for group, members in itertools.groupby(sorted(numbers), lambda number: number // LARGEST_INDEX):
            self._submit(group, [number % LARGEST_INDEX for number in members])
        return {*numbers} - self._last

    def _submit(self, group: int, indices: list[int]) -> None:
        limit = f"%{self.jobs}" if self.jobs else ""
        logs = self.plan.parent / LOGS
        options = [
            f"--array={','.join(_ranges(indices))}{limit}", f"--job-name={self._job(group)}", "--requeue",
            "--open-mode=append", f"--output={logs}/array.log", f"--signal=USR1@{WARNING_S}",
        ]  # fmt: skip
        script = SCRIPT.format(
            offset=group * LARGEST_INDEX, command=shlex.join(self.command("")[:-1]), logs=shlex.quote(str(logs)),
            restarts=RESTARTS,
        )  # fmt: skip
        done = subprocess.run(["sbatch", *options, *self.words], input=script, capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
            if not self._last:
                raise UserError(
                    f"--launcher slurm: sbatch refuses the trials: {said} Change --on, or ask who runs the cluster."
                )
            return say_once(f"sbatch refuses further trials now ({said}). They are submitted when others have ended.")
        self._groups.add(group)
        self._last |= {group * LARGEST_INDEX + index for index in indices}

    def alive(self) -> set[int]:
        """Return the trials in Slurm's queue; those of the last answer while Slurm does not answer."""
        if (found := self._answer()) is not None:
            self._last = {number for _, number in found}
        return {*self._last}

    def given_up(self) -> Mapping[int, str]:
        """Return the trials whose jobs somebody has cancelled since this command began."""
        cancelled = (self._answer("--states=CANCELLED") or set()) - self._cancelled_before
        return dict.fromkeys((number for _, number in cancelled), CANCELLED)

    def _answer(self, *options: str) -> set[tuple[str, int]] | None:
        """Return the queue; None, with a line for the user, if Slurm does not answer."""
        try:
            return self._queue(*options)
        except UserError as error:
            say_once(f"{error}. The trials go on without it.")
            return None

    def _queue(self, *options: str) -> set[tuple[str, int]]:
        """Return (job, number of the trial) of the tasks in the queue; `UserError` if Slurm does not answer."""
        if not self._groups:
            return set()
        names = {self._job(group): group for group in sorted(self._groups)}
        asked = ["squeue", "--noheader", "--array", f"--name={','.join(names)}", "--format=%F %K %j %r", *options]
        own = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
        done = subprocess.run(asked, env=own, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"Slurm does not answer ({' '.join(done.stderr.split())})")
        rows = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.strip()]
        for reason in {row[3] for row in rows if len(row) > 3 and any(word in row[3] for word in STUCK)}:
            say_once(f"Slurm holds trials back: {reason}. Change --on, or ask who runs the cluster.")
        return {(job, int(index) + names[name] * LARGEST_INDEX) for job, index, name, *_ in rows}

    def cancel(self) -> None:
        for name in sorted({self._job(number // LARGEST_INDEX) for number in self.alive()}):
            subprocess.run(["scancel", f"--name={name}"], capture_output=True)

    def _job(self, group: int) -> str:
        """Return the name of the jobs of `LARGEST_INDEX` trials."""
        return f"{self.name}-{group}" if group else self.name


def _ranges(indices: Sequence[int]) -> Iterator[str]:
    """Yield sorted indices as Slurm writes them: 1, 4-7."""
    for _, run in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        yield str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"
