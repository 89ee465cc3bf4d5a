"""The part of the Ray launcher that runs on the cluster. It imports nothing else of the harness, so it starts fast."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

RETRIES = 3
"""Times that Ray starts a task again whose node or worker process was lost."""
LOOK_S = 0.2
"""Seconds between two looks whether a trial has ended."""


class Owner:
    """Actor that owns the tasks of a plan: they go on without the command that submitted them."""

    def __init__(self) -> None:
        import ray

        self._ray: Any = ray
        self._jobs: int | None = None
        self._ended = asyncio.Condition()
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._running: dict[int, Any] = {}

    async def submit(
        self, trials: Mapping[int, tuple[Sequence[str], str]], options: Mapping[str, Any], jobs: int | None,
        folder: str, environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Begin the trials, {number: (command, log)}, as tasks with these options of Ray, `jobs` at a time."""
        task = self._ray.remote(max_retries=RETRIES, **options)(carry_out)
        self._jobs = jobs
        for number, (command, log) in trials.items():
            if number not in self._waiting:
                follow = self._follow(number, task, command, log, folder, environment)
                self._waiting[number] = asyncio.create_task(follow)

    async def _follow(self, number: int, task: Any, *given: Any) -> None:
        try:
            async with self._ended:
                await self._ended.wait_for(lambda: not self._jobs or len(self._running) < self._jobs)
            self._running[number] = task.remote(*given)
            with contextlib.suppress(Exception):  # the run directory and the log say how a trial ended
                await self._running[number]
        finally:
            self._waiting.pop(number, None)
            self._running.pop(number, None)
            async with self._ended:
                self._ended.notify()

    async def alive(self) -> set[int]:
        """Return the numbers of the trials that have not ended."""
        return {*self._waiting}

    async def cancel(self) -> None:
        """Ask the running trials to save and end; the others do not begin."""
        for number, waiting in [*self._waiting.items()]:
            if number in self._running:
                self._ray.cancel(self._running[number])
            else:
                waiting.cancel()


def carry_out(command: Sequence[str], log: str, folder: str, environment: Mapping[str, str]) -> int:
    """Run a trial and return its exit code; `ray.cancel`, which interrupts this process, lets it save."""
    import ray.util

    task = ray.get_runtime_context().get_task_id()
    attempt = {"HARNESS_ATTEMPT": f"Ray task {task}", "HARNESS_NODE": ray.util.get_node_ip_address()}
    attempt |= {"HARNESS_ENDS_WITH_PARENT": "1"}
    with open(log, "ab") as out:
        trial = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            env={**os.environ, **environment, **attempt}, start_new_session=True,
        )  # fmt: skip
        try:
            while trial.poll() is None:  # `ray.cancel` does not interrupt a call of the system
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            trial.terminate()
        return trial.wait()
