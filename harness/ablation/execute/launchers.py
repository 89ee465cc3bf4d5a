"""Launchers: they hand the trials of a plan to an engine, which queues, places and restarts them.

A trial is the command of `harness.ablation.execute.trial`, wherever it runs. `local` are the workers of this machine
(local.py), `slurm` and `ray` the engines of clusters. Another engine is a class in a plugin:

    class Mine(Launcher, name="mine"):
        def submit(self, numbers): ...
        def alive(self): ...
        def cancel(self): ...
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from harness.ablation.execute.placement import Placement
from harness.core import registry
from harness.core.errors import UserError, did_you_mean

LOCAL = "local"
PATIENCE_S = 120.0
"""Seconds to wait for cancelled trials."""
LOST = ("error: a rank was killed", "error: another rank of this training was lost")
"""Beginnings of lines about a trial that another attempt can carry out."""
LOGS = "logs"
"""Folder of trials' logs beside their plan."""


class Launcher(ABC):
    """Hands trials to an engine. Its jobs go on when the command ends; the same command finds them again."""

    LOOK_EVERY_S: ClassVar[float] = 2.0
    """Seconds between two questions for the trials that are alive."""

    def __init__(self, plan: Path, name: str, on: str, jobs: int | None):
        """`plan` is the plan's file, `name` the plan's name with digests of it and of the results folder.

        `on` are the user's options for the engine, and at most `jobs` trials run at a time. `UserError` if the engine
        cannot be reached, or does not understand them.
        """
        self.plan = plan
        self.name = name
        self.on = on
        self.jobs = jobs
        self.processes = 1
        self.program = "harness.ablation.execute.trial"

    def __init_subclass__(cls, name: str, **kwargs: object):
        super().__init_subclass__(**kwargs)
        taken = _KNOWN.setdefault(name, cls)
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(f"launcher '{name}' is already taken. Choose another name.")
        _KNOWN[name] = cls
        registry.DECLARING.add(cls.__module__)

    @abstractmethod
    def submit(self, numbers: Sequence[int]) -> Collection[int] | None:
        """Hand over the trials with these numbers, which are not alive; `UserError` if the engine refuses them.

        Return those that it does not take now, for example beyond a limit: they are handed over again later.
        """

    @abstractmethod
    def alive(self) -> set[int]:
        """Return the numbers of the trials that wait in the engine or run there, whoever submitted them."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask all trials to save and end."""

    def command(self, number: object) -> list[str]:
        """Return the command of a trial; `number` may be a placeholder."""
        ranks = ["harness.training.torchrun", "--standalone", "--nproc-per-node", str(self.processes), "-m"]
        several = ranks if self.processes > 1 else []
        return [sys.executable, "-P", "-m", *several, self.program, str(self.plan), str(number)]

    def log(self, number: int) -> Path:
        """Return the file that receives the output of a trial."""
        return self.plan.parent / LOGS / f"{number}.log"

    def given_up(self) -> Mapping[int, str]:
        """Return {number of a trial that the launcher will not try again: why}."""
        return {}

    def leave(self, stopped: bool) -> None:
        """End the work with the engine at the command's end; `stopped`: whether the user asked for it."""
        if not stopped:
            return
        self.cancel()
        deadline = time.monotonic() + PATIENCE_S
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.5)


_KNOWN: dict[str, type[Launcher]] = {}


@dataclass(frozen=True)
class Remote(Placement):
    """Placement of trials by an engine; `workers` is the number at a time, for forecasts."""

    launcher: str = ""
    on: str = ""
    jobs: int | None = None
    store: str = ""
    """Address of the database of a search."""
    processes: int = 1
    """Processes of one trial, each with a GPU of its own, by torchrun."""
    detach: bool = False
    """Whether the command ends once the trials are submitted."""

    def __str__(self) -> str:
        return f"by {self.launcher}"


def find(name: str) -> type[Launcher]:
    """Return the launcher with this name; `UserError` if there is none."""
    from harness.ablation.execute import local, on_ray, slurm  # noqa: F401  # they register themselves

    if name not in _KNOWN:
        raise UserError(f"--launcher: there is no '{name}'. {did_you_mean(name, _KNOWN)}")
    return _KNOWN[name]


@dataclass
class Logs:
    """Shows the new lines of trials' logs, and remembers their errors."""

    launcher: Launcher
    shown: dict[int, int] = field(default_factory=dict)
    """{number: bytes that were shown}; what stands in a log when its trial is first seen is not shown."""
    errors: dict[int, str] = field(default_factory=dict)

    def begin(self, numbers: Sequence[int]) -> None:
        """Show the lines of these trials from now on, and forget their errors."""
        for number in numbers:
            path = self.launcher.log(number)
            self.shown[number] = path.stat().st_size if path.exists() else 0
            self.errors.pop(number, None)

    def new_lines(self, numbers: Collection[int]) -> list[str]:
        """Return the complete lines that these trials have written since the last call, without errors and stops."""
        folder = self.launcher.plan.parent / LOGS
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if folder.is_dir() else {}
        grown = [n for n in sorted(numbers) if sizes.get(self.launcher.log(n).name, 0) > self.shown.get(n, 0)]
        return [line for number in grown for line in self._read(number)]

    def _read(self, number: int) -> list[str]:
        with open(self.launcher.log(number), "rb") as file:
            file.seek(self.shown.setdefault(number, 0))
            whole = file.read().rpartition(b"\n")[0]
        self.shown[number] += len(whole) + 1 if whole else 0
        lines = whole.decode(errors="replace").splitlines()
        for line in lines:
            if line.startswith("error: ") and not line.startswith(LOST):
                self.errors[number] = line.removeprefix("error: ")
        return [line for line in lines if not line.startswith(("error: ", "stopped", "srun: ", "slurmstepd: "))]
