"""What a plan and a search have in common: a name, a digest and a folder, from which every worker reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import TypedDict

from harness.core.files import results_folder, write_json


class Written(TypedDict):
    """What every reader of a plan's file looks for first."""

    plugins: list[str]


class SharedPlan(ABC):
    """What is carried out by workers that may die at any time, and is continued by the same command."""

    FILE: ClassVar[str]
    """Name of the file that workers read."""
    question: str
    metric: str
    """The primary one."""
    plugins: tuple[str, ...]
    """Paths of the files whose components take part."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What its tables are called."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """12 hex digits over what its values depend on: another digest is another Optuna study and folder."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a reader of the record should know."""

    @abstractmethod
    def _plain(self, digested: bool) -> dict[str, Any]:
        """As JSON holds it, with or without what says only how it is carried out."""

    @property
    def folder(self) -> Path:
        """Where its journal, leases and workers' logs are."""
        return results_folder() / "local" / "studies" / f"{self.name}-{self.digest}"

    def write(self, folder: Path | None = None) -> Path:
        """Store it for the workers, in its own folder unless another is given."""
        path = (folder or self.folder) / self.FILE
        write_json(path, self._plain(digested=False))
        return path
