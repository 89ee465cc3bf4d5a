"""Processes that take turns on one machine, so that a drift of its speed within minutes affects all of them alike."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Self

TURN_S = 1.0


class Contender:
    """A command and all processes that it starts, suspended except in its turns."""

    def __init__(self, command: Sequence[str]):
        self.turns: list[tuple[float, float]] = []
        """Start and end of each turn, by time.perf_counter, the same clock in all processes of a machine."""
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read after the command has ended
        self._process = subprocess.Popen(command, stdout=self._said, start_new_session=True)
        self._send(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._send(signal.SIGKILL)
        self._process.wait()

    def turn(self, seconds: float) -> bool:
        """Run for at most `seconds`; return whether the command has ended. `CalledProcessError` if it failed."""
        started = time.perf_counter()
        self._send(signal.SIGCONT)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._send(signal.SIGSTOP)
            return False
        finally:
            self.turns.append((started, time.perf_counter()))
        if code:
            raise subprocess.CalledProcessError(code, self._process.args)
        return True

    @property
    def seconds(self) -> float:
        """Return the seconds it ran."""
        return sum(end - start for start, end in self.turns)

    def durations(self, marks: Sequence[float]) -> list[float]:
        """Return the seconds it ran between one of its marks and the next; the marks increase."""
        ran = [sum(max(0.0, min(end, mark) - start) for start, end in self.turns) for mark in marks]
        return [later - earlier for earlier, later in itertools.pairwise(ran)]

    def said(self) -> str:
        """Return its printed output."""
        self._said.seek(0)
        return self._said.read()

    def _send(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


def in_turns(commands: Mapping[str, Sequence[str]], seconds: float = TURN_S) -> dict[str, Contender]:
    """Run commands one at a time, for `seconds` each and around again, until all have ended."""
    with contextlib.ExitStack() as stack:
        crew = {name: stack.enter_context(Contender(command)) for name, command in commands.items()}
        left = dict(crew)
        while left:
            left = {name: contender for name, contender in left.items() if not contender.turn(seconds)}
    return crew
