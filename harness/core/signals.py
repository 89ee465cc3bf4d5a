"""What a long work is given: how it is stopped, and how it speaks.

Ctrl-C, SIGTERM and SIGHUP (a closed terminal) ask for an orderly end: the work at hand is saved, then `Stopped` is
raised. SIGHUP is left alone where it was ignored at the start, as `nohup` has it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator
from typing import NoReturn

from harness.core.errors import stopped

Stop = Callable[[], bool]
"""Says whether to stop."""
Say = Callable[[str], None]
"""Tells the user a line."""


def interruptible() -> None:
    """Let SIGTERM and SIGHUP interrupt the process as Ctrl-C does, until a `StopSignal` asks for an orderly end."""
    for number in _heard():
        if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, _interrupt)


class StopSignal:
    """Installed once a process; called, it says whether to stop. A second Ctrl-C ends the process at once."""

    def __init__(self, also: Stop = lambda: False):
        global _installed
        self._asked = False
        self._also = also
        _installed = self
        for number in _heard():
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `held_back` by whoever started the process

    def _ask(self, number: int, frame: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or self._also()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started meanwhile hear Ctrl-C once they have a `StopSignal`, and do not end as Python does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def asked_to_stop() -> bool:
    """Whether the `StopSignal` of this process says to stop; for what waits where none is at hand."""
    return _installed is not None and _installed()


_installed: StopSignal | None = None


def _heard() -> Iterator[signal.Signals]:
    """The signals that ask to stop."""
    yield from (signal.SIGINT, signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


def _interrupt(number: int, frame: types.FrameType | None) -> NoReturn:
    if _is_importing(frame):
        os._exit(stopped())
    raise KeyboardInterrupt


def _is_importing(frame: types.FrameType | None) -> bool:
    """Whether a module is being imported: compiled ones, torch's among them, abort where an exception is raised."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
