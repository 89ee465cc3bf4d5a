"""Faults that only Slurm has: lost nodes, orphans, preemption, time limits, and jobs that somebody cancels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.services import Slurm
from cluster.studies import LONG, Lab, restarts

SLURM = ("--launcher", "slurm")
LOST_S = 40.0
"""Seconds within which Slurm must notice a lost node and start its trial elsewhere."""
LONGER = {**LONG, "steps": 3600, "checkpoint_every": 300}
LEAVES_S = 10.0
"""Seconds within which an older attempt leaves after the newer has begun."""


@pytest.fixture
def lab(slurm: Slurm, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, slurm.environment, LONG)
    yield made
    for process in made.trials().values():
        process.kill()
    for node in slurm.nodes:
        if slurm.states().get(node, "down") not in ("idle", "mixed", "allocated", "completing"):
            slurm.start_node(node)


def node_of(lab: Lab, number: int) -> str:
    """Return the node that a trial runs on."""
    return lab.trials()[number].environ()["SLURMD_NODENAME"]


def test_a_lost_nodes_trial_starts_elsewhere(lab: Lab, slurm: Slurm, undisturbed: dict[str, Any]) -> None:
    command = lab.start(*SLURM)
    lab.at_work(0)
    lost = node_of(lab, 0)
    slurm.kill_node(lost, with_jobs=True)
    lab.wait_for("the trial is back", lambda: 0 in lab.trials(), LOST_S)
    assert node_of(lab, 0) != lost
    lab.end(command)
    lab.require_whole(undisturbed)
    assert restarts(lab) == 1


def test_an_orphan_leaves_once_its_replacement_begins(lab: Lab, slurm: Slurm, undisturbed: dict[str, Any]) -> None:
    """Only slurmd is killed: the trial runs on beside its replacement, and both would write."""
    command = lab.start(*SLURM)
    orphan = lab.at_work(0)
    slurm.kill_node(node_of(lab, 0), with_jobs=False)
    orphan.suspend()  # it would end before Slurm notices
    lab.wait_for("Slurm starts the trial again", lambda: restarts(lab) >= 1, LOST_S)
    orphan.resume()
    lab.wait_for("the orphan leaves", lambda: not orphan.is_running() or orphan.status() == "zombie", LEAVES_S)
    lab.end(command)
    lab.require_whole(undisturbed)


def test_a_preempted_trial_saves_and_goes_on(lab: Lab, slurm: Slurm, undisturbed: dict[str, Any]) -> None:
    command = lab.start(*SLURM)
    lab.at_work(0)
    slots = len(slurm.nodes) * slurm.cpus
    slurm.run("sbatch", "-p", "high", "-n", str(slots), "-o", "/dev/null", "--wrap", "sleep 5")
    lab.wait_for("the trials are saved", lambda: "stopped at step" in lab.logs(), 60)
    lab.end(command)
    lab.require_whole(undisturbed)
    assert restarts(lab) >= 1


def test_a_trial_saves_before_its_time_limit_and_goes_on(slurm: Slurm, tmp_path: Path) -> None:
    """Slurm looks at time limits, and sends their signals, about every 30 s: these trials take longer."""
    here = Lab(tmp_path / "here", {}, LONGER)
    lab = Lab(tmp_path / "there", slurm.environment, LONGER)
    here.run("--workers", "2")
    lab.run(*SLURM, "--on=--time=2 --signal=USR1@115")
    lab.require_whole(here.outcome())
    assert restarts(lab) >= 1
    assert "stopped at step" in lab.logs()


def test_cancelled_jobs_stay_cancelled(lab: Lab, slurm: Slurm, undisturbed: dict[str, Any]) -> None:
    """Somebody else cancels them: the command says so, and leaves them out until it is run again."""
    command = lab.start(*SLURM)
    lab.at_work(0)
    jobs = {line.split("_")[0] for line in slurm.run("squeue", "-h", "-o", "%i").splitlines()}
    slurm.run("scancel", *sorted(jobs))
    said = lab.end(command, code=2)
    assert "a seed 0, b seed 0: cancelled in Slurm" in said
    assert lab.statuses() == {"KILLED"}
    time.sleep(8)
    assert not lab.trials()
    lab.run(*SLURM)
    lab.require_whole(undisturbed)
