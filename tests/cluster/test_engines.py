"""The same study on this machine, on Slurm and on Ray; faults on either engine, and what must hold after them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.services import RayCluster, Slurm
from cluster.studies import LONG, QUICK, Lab, environment_of, kill

UP_AGAIN_S = 40.0
"""Seconds within which a lost trial is taken up again."""
Begin = Callable[..., tuple[Lab, list[str]]]


@pytest.fixture(params=["slurm", "ray"])
def begin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Begin]:
    """`begin(length, study)` returns a lab, and the options for the engine; what is left at the end is stopped."""
    labs: list[Lab] = []

    def start(length: dict[str, int] = LONG, study: str = "") -> tuple[Lab, list[str]]:
        engine = request.getfixturevalue("slurm" if request.param == "slurm" else "ray_cluster")
        labs.append(lab := Lab(tmp_path, environment_of(engine), length, study))
        return lab, ["--launcher", request.param]

    yield start
    for lab in labs:
        for process in lab.trials().values():
            process.kill()


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lab = Lab(tmp_path_factory.mktemp("quick"), {}, QUICK, "weighting")
    lab.run("--workers", "2")
    return lab.outcome()


def test_a_study_has_the_same_values_on_every_engine(begin: Begin, quick: dict[str, Any]) -> None:
    """On both nodes: the table is the same to the byte, the weights to the bit."""
    lab, on = begin(QUICK, "weighting")
    lab.run(*on)
    lab.require_whole(quick)
    assert len({owner["host"] for owner in lab.owners()}) == 2


def test_a_killed_trial_is_taken_up_again(begin: Begin, undisturbed: dict[str, Any]) -> None:
    lab, on = begin()
    command = lab.start(*on)
    kill(lab.at_work(0))
    lab.wait_for("the trial is back", lambda: 0 in lab.trials(), UP_AGAIN_S)
    assert "a seed 0 was lost, and is handed to the engine again." in lab.end(command)
    lab.require_whole(undisturbed)


def test_ctrl_c_saves_the_trials_and_cancels_them(begin: Begin, undisturbed: dict[str, Any]) -> None:
    lab, on = begin()
    command = lab.start(*on)
    lab.at_work(0)
    command.send_signal(signal.SIGINT)
    assert "the same command continues" in lab.end(command, code=130)
    assert not lab.trials()
    assert lab.statuses() == {"KILLED"}
    steps = {run.name: len((run / "metrics.jsonl").read_text().splitlines()) for run in lab.runs}
    time.sleep(8)
    assert not lab.trials(), "nothing was requeued"
    assert steps == {run.name: len((run / "metrics.jsonl").read_text().splitlines()) for run in lab.runs}
    lab.run(*on)
    lab.require_whole(undisturbed)
    assert lab.statuses() == {"FINISHED"}


def test_trials_go_on_without_the_command_and_the_same_command_finds_them(
    begin: Begin, undisturbed: dict[str, Any]
) -> None:
    lab, on = begin()
    command = lab.start(*on)
    first = lab.at_work(0)
    command.kill()
    command.communicate()
    time.sleep(3)
    assert first.is_running()
    said = lab.run(*on)
    assert "handed to the engine again" not in said
    lab.require_whole(undisturbed)


def test_a_detached_command_ends_and_the_same_command_reports(begin: Begin, undisturbed: dict[str, Any]) -> None:
    lab, on = begin()
    said = lab.run(*on, "--detach", seconds=60)
    assert "0 of 2 trials have ended, 2 are queued or run." in said
    assert "2 are queued or run." in lab.run(*on, "--detach", seconds=60)
    lab.run(*on)
    lab.require_whole(undisturbed)


NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None\n"


def test_two_people_start_one_study_where_locks_do_nothing(
    begin: Begin, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Both commands submit every trial; the newest attempt at each goes on, and no write fails."""
    lab, on = begin()
    (idle := tmp_path / "idle").mkdir()
    (idle / "sitecustomize.py").write_text(NO_LOCKS)
    lab.environment["PYTHONPATH"] = str(idle)
    commands = [lab.start(*on, store=f"mlflow-{person}.db") for person in range(2)]
    for command in commands:
        lab.end(command)
    lab.require_whole(undisturbed)


def test_two_people_start_one_study_on_one_machine(begin: Begin) -> None:
    """The second command says so and leaves."""
    lab, on = begin(QUICK)
    commands: list[subprocess.Popen[str]] = [lab.start(*on) for _ in range(2)]
    said = [command.communicate(timeout=200)[0] for command in commands]
    assert sorted(command.returncode for command in commands) == [0, 2], said
    assert any("another process runs it now" in text for text in said)


TRIVIAL = """
import os, sys, time
folder, number = sys.argv[-2].rpartition("/")[0], sys.argv[-1]
with open(f"{folder}/began", "a") as file:
    file.write(f"{number}\\n")
time.sleep(1)
place = f"{folder}/ended-{number}"
with open(f"{place}.{os.getpid()}", "w") as file:
    file.write(number)
try:
    os.link(file.name, place)
except FileExistsError:
    open(f"{place}.twice", "w").close()
"""
MANY = """
import io, sys
from pathlib import Path
from rich.console import Console
from harness.ablation.execute.launch import Work
from harness.ablation.execute.launchers import Launcher, find
from harness.ablation.execute.trials import Trials

folder, name, on = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

class Many(Trials):
    plan = columns = None
    total = 200
    def unended(self, among): return {n for n in among if not (folder / f"ended-{n}").exists()}
    def label(self, number): return f"trial {number}"
    def followed(self, known): return []

Launcher.command = lambda self, number: [sys.executable, "-S", str(folder / "trivial.py"), str(self.plan), str(number)]
launcher = find(name)(folder / "plan.json", folder.name, on, None)
work = Work(Many(), range(200), launcher, Console())
work.look()
work.finish(lambda: False)
work.require_all()
launcher.leave(False)
"""


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_no_trial_of_many_is_lost_or_done_twice(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """200 trials on eight slots, two of them killed every ten seconds."""
    cluster: Slurm | RayCluster = request.getfixturevalue("slurm" if engine == "slurm" else "ray_cluster")
    lab = Lab(tmp_path / "many", environment_of(cluster), QUICK)
    (lab.folder / "trivial.py").write_text(TRIVIAL)
    (lab.folder / "many.py").write_text(MANY)
    on = "--cpus-per-task=1" if engine == "slurm" else "num_cpus=1"
    words = [sys.executable, str(lab.folder / "many.py"), str(lab.folder), engine, on]
    command = subprocess.Popen(words, env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed = 0
    last = time.monotonic()
    while command.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - last > 10:
            last = time.monotonic()
            killed += _killed(lab.folder / "trivial.py")
        assert time.monotonic() - last < 60
    said, _ = command.communicate()
    assert command.returncode == 0, said
    assert killed >= 2
    ended = [path.name for path in lab.folder.glob("ended-*")]
    assert {int(name.split("-")[1].split(".")[0]) for name in ended} == {*range(200)}
    assert not [name for name in ended if name.endswith(".twice")]


def _killed(program: Path) -> int:
    """Kill two trivial trials; return how many were there."""
    import psutil

    found = [
        process for process in psutil.process_iter(["cmdline", "name"])
        if str(program) in (process.info["cmdline"] or []) and process.info["name"].startswith("python")
    ][:2]  # fmt: skip
    for process in found:
        process.kill()
    return len(found)
