"""Progress and remaining time of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

from harness.core.signals import Say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

KNOWN_FROM = 0.05
"""Share of the work after which the time left is told."""
TELL_EVERY_S = 30.0

T = TypeVar("T")


def terminal(stderr: bool = False) -> Console:
    """Return a console on standard output, or error, that prints text as it is: rich's markup is off.

    In a notebook it prints plain lines, since a cell would keep every state of a bar.
    """
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False)
    if made.is_jupyter:
        return Console(stderr=stderr, markup=False, highlight=False, force_jupyter=False, force_terminal=False)
    return made


def bar(to: Console, by_itself: bool = True) -> Progress:
    """Return a progress bar with the time left; it is off if `to` is not a terminal.

    With `by_itself` it refreshes ten times a second, otherwise only when the caller refreshes it.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=to, disable=not to.is_terminal, auto_refresh=by_itself, speed_estimate_period=3600,
    )  # fmt: skip


def shown(
    items: Iterable[T], title: str, total: float, to: Console | None = None, weigh: Callable[[T], float] = lambda _: 1
) -> Generator[T, None, None]:
    """Pass items through, and show their share of `total` so far: a bar on a terminal, otherwise lines from `told`.

    Close the generator if work on the items may fail: an open bar hides the cursor.
    """
    to = to or terminal(stderr=True)
    if not to.is_terminal:
        yield from told(items, title, total, lambda line: to.print(line, soft_wrap=True), weigh)
        return
    with bar(to) as drawn:
        task = drawn.add_task(title, total=total)
        for item in items:
            yield item
            drawn.advance(task, weigh(item))


def told(
    items: Iterable[T], title: str, total: float, say: Say, weigh: Callable[[T], float] = lambda _: 1
) -> Generator[T, None, None]:
    """Pass items through, and report their share of `total` so far every `TELL_EVERY_S` seconds."""
    done = 0.0
    began = time.monotonic()
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(TELL_EVERY_S):
            left = (time.monotonic() - began) * (total / done - 1) if done else None
            say(ahead(title, done / total, left))

    threading.Thread(target=tell, daemon=True).start()
    try:
        for item in items:
            yield item
            done += weigh(item)
    finally:
        ended.set()


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes, hours or days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} days"


def ahead(title: str, share: float, seconds: float | None) -> str:
    """Return a progress line for a log. `share` is in [0, 1]; `seconds` is the time left, None if unknown.

    The time left is not told before `KNOWN_FROM`: start-up counts in it like work, so the first values are too high.
    """
    left = "time left unknown" if seconds is None or share < KNOWN_FROM else f"about {seconds / 60:.1f} min left"
    return f"{title}: {share:.0%}, {left}"
