"""The containers of docs/mlflow-server: who reaches them, where their data are, and where the password comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "docs" / "mlflow-server" / "compose.yaml"
TEXT = PLACE.read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]


def test_only_this_machine_reaches_the_server_and_nobody_the_database() -> None:
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports == {"database": [], "server": ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]}
    assert not any("network_mode" in service for service in SERVICES.values())


def test_the_password_comes_from_the_environment_alone() -> None:
    """Compose refuses to start without it."""
    given = [
        value for service in SERVICES.values() for name, value in service["environment"].items() if "PASSWORD" in name
    ]
    assert len(given) == len(re.findall("PASSWORD: ", TEXT)) == 2
    assert all(re.fullmatch(r"\$\{MLFLOW_DB_PASSWORD:\?[^}]+\}", value) for value in given)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", TEXT)


def test_data_are_in_named_volumes() -> None:
    mounted = [volume.partition(":")[0] for service in SERVICES.values() for volume in service["volumes"]]
    assert sorted(mounted) == sorted(FILE["volumes"])


def test_images_and_packages_are_pinned_to_the_versions_that_the_tests_use() -> None:
    base = re.findall(r"^FROM (.+)$", SERVICES["server"]["build"]["dockerfile_inline"], re.M)
    images = [*base, *(service["image"] for service in SERVICES.values() if "image" in service)]
    assert len(images) == len(SERVICES)
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*", image) for image in images)
    locks = (ROOT / "requirements.lock", ROOT / "tests" / "cluster" / "requirements.lock")
    locked = "\n".join(lock.read_text() for lock in locks)
    packages = re.findall(r"([a-z]+)(?:\[binary\])?==([\d.]+)", SERVICES["server"]["build"]["dockerfile_inline"])
    assert {name for name, _ in packages} == {"mlflow", "psycopg"}
    for name, version in packages:
        assert f"\n{name}=={version}\n" in f"\n{locked}\n", name
