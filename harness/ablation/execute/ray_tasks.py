"""The part of the Ray launcher that runs on the cluster. It imports nothing else of the harness, so it starts fast."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

RETRIES = 3
"""Times that Ray starts a task again whose node or worker process was lost."""


class Owner:
    """Actor that owns the tasks of a plan: they go on without the command that submitted them."""

    def __init__(self, options: Mapping[str, Any], jobs: int | None):
        import ray

        self._task: Any = ray.remote(max_retries=RETRIES, **options)(carry_out)
        self._cancel: Any = ray.cancel
        self._turns = asyncio.Semaphore(jobs) if jobs else contextlib.nullcontext()
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, Any] = {}

    async def submit(
        self, trials: Mapping[int, tuple[Sequence[str], str]], folder: str, environment: Mapping[str, str]
    ) -> None:
        """Begin the trials, {number: (command, log)}."""
        for number, (command, log) in trials.items():
            if number not in self._waiting:
                follow = self._follow(number, command, log, folder, environment)
                self._waiting[number] = asyncio.create_task(follow)

    async def _follow(self, number: int, *given: Any) -> None:
        try:
            async with self._turns:
                self._running[number] = self._task.remote(*given)
                with contextlib.suppress(Exception):  # the run directory and the log say how a trial ended
                    await self._running[number]
        finally:
            self._waiting.pop(number, None)
            self._running.pop(number, None)

    async def alive(self) -> set[int]:
        """Return the numbers of the trials that have not ended."""
        return {*self._waiting}

    async def cancel(self) -> None:
        """Ask the running trials to save and end; the others do not begin."""
        for number, waiting in [*self._waiting.items()]:
            if number in self._running:
                self._cancel(self._running[number])
            else:
                waiting.cancel()


def carry_out(command: Sequence[str], log: str, folder: str, environment: Mapping[str, str]) -> int:
    """Run a trial and return its exit code; `ray.cancel`, which interrupts this process, lets it save."""
    import ray

    attempt = {"HARNESS_ATTEMPT": f"Ray task {ray.get_runtime_context().get_task_id()}"}
    with open(log, "ab") as out:
        trial = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            env={**os.environ, **environment, **attempt}, start_new_session=True,
        )  # fmt: skip
        try:
            return trial.wait()
        except KeyboardInterrupt:
            trial.terminate()
            return trial.wait()
