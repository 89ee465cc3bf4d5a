"""Standard output and error that end no work: what they cannot take is replaced or dropped, and the work goes on.

A process makes its own so once, at its start.
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
"""Nobody reads any more: a pipe, a connection, or a terminal that was closed."""


class Outlet(io.FileIO):
    """A file descriptor to write to. What it does not take is dropped; later content is tried again."""

    refused: OSError | None = None
    """Why content was dropped though somebody may read it, like a full disk."""

    def write(self, content: ReadableBuffer) -> int:
        """Write what can be written, and take the rest for written; wait where others made the file non-blocking."""
        try:
            while (taken := super().write(content)) is None:
                select.select((), (self,), ())
        except OSError as error:
            if error.errno not in GONE:
                self.refused = error
            return memoryview(content).nbytes
        return taken

    def require_whole(self) -> None:
        """`OSError` where content was dropped though somebody may read it."""
        sys.stdout.flush()
        if error := self.refused:
            raise OSError(error.errno, error.strerror, "standard output") from error


def steady() -> Outlet:
    """Make standard output and error of this process so; gives that of the output.

    Streams that were closed at the start lead nowhere: else the next file that is opened would take their place.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    output, error = (Outlet(number, "wb", closefd=False) for number in (1, 2))
    sys.stdout = _text(output, sys.stdout, "replace")
    sys.stderr = _text(error, sys.stderr, "backslashreplace")
    return output


def _text(outlet: Outlet, before: Any, errors: str) -> io.TextIOWrapper:
    """A stream of text into an outlet, encoded and buffered as the one before it, if there was one."""
    unbuffered = getattr(before, "write_through", False)
    return io.TextIOWrapper(
        outlet if unbuffered else io.BufferedWriter(outlet),
        encoding=getattr(before, "encoding", "utf-8"), errors=errors,
        line_buffering=getattr(before, "line_buffering", False), write_through=unbuffered,
    )  # fmt: skip
