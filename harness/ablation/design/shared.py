"""Base of study plans and search plans: a name, a digest, and a folder from which every worker reads the plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import TypedDict

from harness.core.files import results_folder, write_json


class Written(TypedDict):
    """The part of a plan's file that every reader needs first."""

    plugins: list[str]


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
    def folder(self) -> Path:
        """Folder of its journal, leases and workers' logs."""
        return results_folder() / "local" / "studies" / f"{self.name}-{self.digest}"

    def write(self, folder: Path | None = None) -> Path:
        """Write the plan for the workers, by default to its own folder; return the path of the file."""
        path = (folder or self.folder) / self.FILE
        write_json(path, self._plain(digested=False))
        return path
