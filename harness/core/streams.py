"""Standard output and error that never end the work: they replace or drop the content that they cannot take.

A process installs them once, at its start, by `steady`. Until it writes anything else, a terminal shows the line that
it `announce`s.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)
"""Errors that mean that the reader is gone: a pipe, a connection or a terminal was closed."""


class Outlet(io.FileIO):
    """A file descriptor for writing. It drops content that cannot be written, and tries again with later content."""

    refused: OSError | None = None
    """Why content was dropped while a reader may still be there, for example a full disk."""

    def write(self, content: ReadableBuffer) -> int:
        """Write and return the number of bytes taken. After an error, all bytes count as taken.

        Wait if another process made the file non-blocking.
        """
        unannounce()
        try:
            while (taken := super().write(content)) is None:
                select.select((), (self,), ())
        except OSError as error:
            if error.errno not in GONE:
                self.refused = error
            return memoryview(content).nbytes
        return taken

    def require_whole(self) -> None:
        """Raise `OSError` if content was dropped while a reader may still be there."""
        sys.stdout.flush()
        if error := self.refused:
            raise OSError(error.errno, error.strerror, "standard output") from error


_screen: Outlet | None = None
_announced = ""


def announce(line: str) -> None:
    """Show a line, shorter than a terminal is wide, on standard error until the process writes anything else.

    Do nothing if standard error is not a terminal or `steady` was not called.
    """
    global _announced
    if _screen is not None and _screen.isatty():
        _screen.write(line.encode())
        _announced = line


def unannounce() -> None:
    """Remove the line that `announce` shows, if there is one."""
    global _announced
    blank = " " * len(_announced)
    _announced = ""
    if blank and _screen is not None:
        _screen.write(f"\r{blank}\r".encode())


def steady() -> Outlet:
    """Replace standard output and error of this process by `Outlet`s; return the one of the output.

    A stream that was closed at the start leads to the null device: otherwise the next opened file would get its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    global _screen
    output, _screen = (Outlet(number, "wb", closefd=False) for number in (1, 2))
    sys.stdout = _text(output, sys.stdout, "replace")
    sys.stderr = _text(_screen, sys.stderr, "backslashreplace")
    return output


def _text(outlet: Outlet, before: Any, errors: str) -> io.TextIOWrapper:
    """Return a text stream into an outlet, with the encoding and buffering of the stream `before`, if there was one."""
    unbuffered = getattr(before, "write_through", False)
    return io.TextIOWrapper(
        outlet if unbuffered else io.BufferedWriter(outlet),
        encoding=getattr(before, "encoding", "utf-8"), errors=errors,
        line_buffering=getattr(before, "line_buffering", False), write_through=unbuffered,
    )  # fmt: skip
