"""A fault that only Ray has: the raylet of a node is killed, while its trial's process lives on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.services import RayCluster
from cluster.studies import LONG, Lab, environment_of

RAY = ("--launcher", "ray", "--on=num_cpus=3")
"""A trial needs more than half of a node, so each node takes one."""
UP_AGAIN_S = 40.0
"""Seconds within which Ray must notice a lost raylet and start its trial elsewhere."""


@pytest.fixture
def lab(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "there", environment_of(ray_cluster), {**LONG, "steps": 2500})
    yield made
    for process in made.trials().values():
        process.kill()
    ray_cluster.start_node()


def test_a_lost_raylets_trial_starts_elsewhere_and_the_orphan_leaves(
    lab: Lab, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    here = Lab(tmp_path / "here", {}, {**LONG, "steps": 2500})
    here.run("--workers", "2")
    command = lab.start(*RAY)
    lab.wait_for("both trials train", lambda: len(lab.trials()) == 2 and len(lab.saved()) >= 4)
    nodes = {number: process.environ()["HARNESS_NODE"] for number, process in lab.trials().items()}
    (number,) = [number for number, node in nodes.items() if node != ray_cluster.addresses[0]]
    orphan = lab.trials()[number]
    ray_cluster.kill_node(ray_cluster.addresses.index(nodes[number]))

    def back() -> Any:
        found = lab.trials().get(number)
        return found and found.pid != orphan.pid

    lab.wait_for("the trial is back", back, UP_AGAIN_S)
    lab.wait_for("the orphan leaves", lambda: not orphan.is_running() or orphan.status() == "zombie", 15)
    lab.end(command)
    lab.require_whole(here.outcome())
