"""Base of study plans and search plans: a name, a digest, and a folder from which every worker reads the plan."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from typing_extensions import TypedDict

from harness.core.files import read_json, results_folder, write_json
from harness.training.config import TrainConfig


class Written(TypedDict):
    """The part of a plan's file that every reader needs first."""

    plugins: list[str]
    """Paths from the folder of the plan: another machine may see both at another place."""


def plugins_in(path: Path) -> list[str]:
    """Return the absolute paths of the plugins of the plan in the file `path`."""
    written = read_json(path, Written, "Give a study's plan.json.")["plugins"]
    return [os.path.normpath(path.absolute().parent / plugin) for plugin in written]


class SharedPlan(ABC):
    """Plan that workers carry out; they may die at any time, and the same command continues."""

    FILE: ClassVar[str]
    """Name of the file that workers read."""
    question: str
    metric: str
    """Name of the primary metric."""
    nfe: int
    """The NFE at which runs are compared."""
    plugins: tuple[str, ...]
    """Paths of plugin files that define components of the plan."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the plan and of its tables."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """12 hex digits over everything that its values depend on; each digest has its own Optuna study and folder."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Facts about the plan for a reader of its record, as JSON values."""

    @abstractmethod
    def _plain(self, digested: bool) -> dict[str, Any]:
        """Return a JSON object of the plan; `digested` leaves out settings that do not change results."""

    @property
    @abstractmethod
    def trains(self) -> TrainConfig:
        """The training settings of the baseline."""

    @abstractmethod
    def on(self, device: str) -> Self:
        """Return the plan with this device in every configuration; its digest and its folder stay."""

    @property
    def folder(self) -> Path:
        """Folder of its journal, leases and workers' logs."""
        return results_folder() / "local" / "studies" / f"{self.name}-{self.digest}"

    def write(self, folder: Path | None = None) -> Path:
        """Write the plan for the workers, by default to its own folder; return the path of the file."""
        path = (folder or self.folder) / self.FILE
        plugins = [os.path.relpath(plugin, path.parent) for plugin in self.plugins]
        write_json(path, {**self._plain(digested=False), "plugins": plugins})
        return path
