"""What a long work is given: how it is stopped, and how it speaks.

Ctrl-C and SIGTERM ask for an orderly end: the work at hand is saved, then `Stopped` is raised.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

Stop = Callable[[], bool]
"""Says whether to stop."""
Say = Callable[[str], None]
"""Tells the user a line."""


class StopSignal:
    """Installed once a process; called, it says whether to stop. A second Ctrl-C ends the process at once."""

    def __init__(self, also: Stop = lambda: False):
        self._asked = False
        self._also = also
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or self._also()
