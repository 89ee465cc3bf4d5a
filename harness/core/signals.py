"""Stop requests for long work, and the types of its callbacks.

Ctrl-C, SIGTERM, SIGUSR1 (a batch system announces the time limit by it) and SIGHUP (a closed terminal) ask for an
orderly end: the work saves its state, then raises `Stopped`. SIGHUP stays ignored if it was ignored at the start, as
under `nohup`.
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
"""Returns whether to stop."""
Say = Callable[[str], None]
"""Tells the user a line."""
Note = Callable[[str, str], None]
"""Adds a fact, by its name, to the record of a run."""


def interruptible() -> None:
    """Let SIGTERM and SIGHUP interrupt the process as Ctrl-C does, until a `StopSignal` asks for an orderly end."""
    for number in _heard():
        if number != signal.SIGINT or signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, _interrupt)


class StopSignal:
    """Handler of the stop signals, one per process. A call returns whether to stop.

    A second Ctrl-C ends the process once files in progress are written. `also` is another reason to stop.
    """

    def __init__(self, also: Stop = lambda: False):
        global _installed
        self._asked = False
        self._also = also
        _installed = self
        for number in _heard():
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)  # the parent may have blocked them by `held_back`

    def _ask(self, number: int, frame: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or self._also()


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """A program that goes on afterwards, like a notebook, has its own handlers again once the block ends."""
    global _installed
    before = {number: signal.getsignal(number) for number in _heard()}
    own = _installed
    try:
        yield
    finally:
        _installed = own
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block the stop signals in processes that start in this context, until they install a `StopSignal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def asked_to_stop() -> bool:
    """Return whether the `StopSignal` of this process says to stop; False without one.

    For code that waits and has no `Stop` argument.
    """
    return _installed is not None and _installed()


_ALL = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
_installed: StopSignal | None = None


def _heard() -> Iterator[signal.Signals]:
    """Yield the signals that ask to stop."""
    yield from (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


def _interrupt(number: int, frame: types.FrameType | None) -> NoReturn:
    if _is_importing(frame):
        os._exit(stopped())
    raise KeyboardInterrupt


def _is_importing(frame: types.FrameType | None) -> bool:
    """Whether a module is being imported. An exception during an import of compiled code, like torch's, aborts it."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
