"""Services that start for the first test that asks for them, and end after the last test: Slurm, Ray and PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.services import Postgres, RayCluster, Slurm
from cluster.studies import LONG, Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that none is left out by a forgotten line."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Slurm with two nodes of four slots. A test that ends a node starts it again."""
    with Slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """Ray with two nodes of four slots. Its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, RayCluster(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server. Its user cannot enter the folders of pytest."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, Postgres(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of the long study by local workers."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), {}, LONG)
    lab.run("--workers", "2")
    return lab.outcome()
