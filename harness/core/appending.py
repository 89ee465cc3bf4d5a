"""Files that one attempt alone appends to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from harness.core.fence import require_held
from harness.core.files import complete_lines, placed, replaced, write_all


class OwnFile:
    """A file that is put in place of an earlier one, begins with the given pieces, and stays open for more.

    An earlier attempt, which still has the earlier file open, appends to a file that nobody reads.
    """

    def __init__(self, path: Path, pieces: Iterable[bytes]):
        self.path = path
        self._file = replaced(path, pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, content: bytes | memoryview) -> None:
        """Write at the end of the file."""
        require_held()
        with placed(self.path):
            write_all(self._file, content)

    def sync(self) -> None:
        """Flush the file to disk, so that it survives a power cut."""
        with placed(self.path):
            os.fsync(self._file.fileno())


class Lines(OwnFile):
    """A JSON-lines file with the complete lines of the earlier one."""

    def __init__(self, path: Path):
        super().__init__(path, [complete_lines(path)])

    def add(self, value: Any) -> None:
        """Add a line."""
        self.append((json.dumps(value) + "\n").encode())
