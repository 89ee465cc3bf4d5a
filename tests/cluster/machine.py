"""What the services of the cluster tests share: Debian's packages, free ports, processes, logs, and starts and ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

POLICY = Path("/usr/sbin/policy-rc.d")
"""While this program refuses, Debian's packages start no server of their own."""
FOLDERS = (os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin")
_given: set[int] = set()


class ServiceError(RuntimeError):
    """A service of the tests that cannot be installed, does not start, or refuses a command."""


def program(name: str, *folders: Path) -> str | None:
    """Return the path of a program, also where users do not search."""
    return shutil.which(name, path=os.pathsep.join([*map(str, folders), *FOLDERS]))


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return what a command printed; raise an error with the end of its messages if it fails or needs five minutes."""
    try:
        made = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{' '.join(command)}: {error}") from error
    if made.returncode:
        said = "\n".join((made.stdout + made.stderr).splitlines()[-20:])
        raise ServiceError(f"{' '.join(command)} ended with exit code {made.returncode}:\n{said}")
    return made.stdout


def install_packages(*packages: str) -> None:
    """Install packages of Debian, without starting a server. Another run may install at the same time."""
    names = " ".join(packages)
    if os.geteuid() != 0 or not program("apt-get"):
        raise ServiceError(f"The cluster tests need {names}: install them, or run as root on Debian")
    try:
        POLICY.touch(0o755, exist_ok=False)
        refusing = True
    except FileExistsError:
        refusing = False
    try:
        if refusing:
            POLICY.write_text("#!/bin/sh\nexit 101\n")
        run(["apt-get", "-qq", "update"])
        options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=240"]
        run(["apt-get", *options, "install", *packages], {"DEBIAN_FRONTEND": "noninteractive"})
    except ServiceError as error:
        raise ServiceError(
            f"The packages {names}, which the cluster tests need, cannot be installed. {error}"
        ) from None
    finally:
        if refusing:
            POLICY.unlink()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, below those that the system gives to outgoing connections.

    Ray's workers take theirs between 10000 and 20000.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


def ends(folder: Path, lines: int = 12) -> str:
    """Return the last lines of every log in a folder."""
    texts = {path: path.read_text(errors="replace").splitlines() for path in sorted(folder.glob("*.log"))}
    return "\n".join(f"--- {path.name}\n" + "\n".join(text[-lines:]) for path, text in texts.items())


def wait_until(what: str, true: Callable[[], bool], logs: Path, seconds: float = 30) -> None:
    """Ask every 0.1 s until it is true; after `seconds`, raise an error with the ends of the logs."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise ServiceError(f"{what}: not after {seconds:g} s. The ends of the logs in {logs}:\n{ends(logs)}")
        time.sleep(0.1)


def processes(*marks: str) -> list[psutil.Process]:
    """Return the processes that tell all these texts: in the command line, the environment, or the paths of open files.

    Ray's processes overwrite the first two by their titles. This process and its parents are left out.
    """
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *(f"{name}={value}" for name, value in process.environ().items())]
            told += [file.path for file in process.open_files()]
        except (psutil.Error, OSError):
            continue
        if process.pid not in spared and all(any(mark in text for text in told) for mark in marks):
            found.append(process)
    return found


def kill(ended: Iterable[psutil.Process]) -> None:
    """End processes by SIGKILL, and wait until they have ended."""
    known = list(ended)
    for process in known:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(known, timeout=10)


def kill_all(mark: str) -> None:
    """End all processes that tell this text, also those that start meanwhile."""
    for _ in range(20):
        if not (found := processes(mark)):
            return
        kill(found)
    raise ServiceError(f"Processes of {mark} do not end: {found}")


class Service:
    """What `with` needs: a service starts at its beginning, and ends at its end or when the start fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Install what is missing, start all processes, and return when the service answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all processes of the service."""
        kill_all(str(self.folder))
