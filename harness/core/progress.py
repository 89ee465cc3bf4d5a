"""How far long work is, and how long it will take: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

from harness.core.signals import Say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

TELL_EVERY_S = 30.0

T = TypeVar("T")


def terminal(stderr: bool = False) -> Console:
    """What prints to standard output, or error: text as it is, without a language of brackets in it."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False)


def bar(to: Console, by_itself: bool = True) -> Progress:
    """A bar with the time left, for a terminal alone; it is drawn `by_itself` ten times a second, or where told to."""
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
    """Pass items through, and show which share of `total` they are so far: a bar on a terminal, else by `told`.

    Where work on the items may fail, close it: an open bar hides the cursor.
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
    """Pass items through, and say every `TELL_EVERY_S` which share of `total` they are so far."""
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
    """As people say it: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def ahead(title: str, share: float, seconds: float | None) -> str:
    """The line that a log gets; `seconds` are those that are left, where that is known."""
    left = "time left unknown" if seconds is None else f"about {seconds / 60:.1f} min left"
    return f"{title}: {share:.0%}, {left}"
