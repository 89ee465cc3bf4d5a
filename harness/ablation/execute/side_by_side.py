"""Run measuring processes side by side, as the trials of a study will run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from harness.core.errors import Stopped

PAUSE_S = 0.02


def side_by_side(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> list[str]:
    """Run the command once per environment, all at the same time; return the standard output of each process.

    `subprocess.CalledProcessError` with the error output as soon as one process fails. All processes have ended on
    return, also after an error.
    """
    with contextlib.ExitStack() as stack:
        outputs, errors = ([stack.enter_context(_file()) for _ in environments] for _ in range(2))
        crew = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=error, env=environment)
            for output, error, environment in zip(outputs, errors, environments, strict=True)
        ]
        stack.callback(_end, crew)
        codes = [process.poll() for process in crew]
        while None in codes and not any(codes):
            time.sleep(PAUSE_S)
            codes = [process.poll() for process in crew]
        for code, error in zip(codes, errors, strict=True):
            if code:
                raise subprocess.CalledProcessError(code, command, stderr=_content(error))
        return [_content(output) for output in outputs]


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _end(crew: Sequence[subprocess.Popen]) -> None:
    for process in crew:
        process.kill()
        process.wait()


def wait_for_all(folder: Path, number: int, place: str = "") -> None:
    """Wait until `number` processes have called this with the same `place`; `Stopped` if the parent has ended."""
    parent = os.getppid()
    (folder / f"ready-{place}-{os.getpid()}").touch()
    while len(list(folder.glob(f"ready-{place}-*"))) < number:
        if os.getppid() != parent:
            raise Stopped("stopped: the parent process has ended")
        time.sleep(0.002)
