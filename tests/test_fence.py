"""Of several attempts at a trial, only the newest writes: claims, refused writes, and two attempts side by side."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute.trial import carry_out
from harness.core import fence
from harness.core.appending import Lines
from harness.core.checkpoint import checkpoints, set_aside, write_checkpoint
from harness.core.errors import Diverged, Stopped, Superseded, UserError
from harness.core.fence import attempt, fenced, held, hold, lost, require_held
from harness.core.files import LEFT_S, read_json, read_lines, remove_leftovers, write_atomic, write_json
from harness.evaluation.kept import KeptRows
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.pairs import PairSet
from harness.runs.stored import folders

TAKEN = "another attempt at this trial (job 8_3 on host far) has taken over: this one leaves, and writes no more."


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    return tmp_path / "run" / "owner.json"


def claim(owner: Path) -> None:
    """Claim a trial as an attempt on another host does."""
    fence._put(owner, json.dumps({"job": "job 8_3", "host": "far", "token": "1"}).encode(), "1")


@contextlib.contextmanager
def superseded(owner: Path) -> Iterator[None]:
    """Hold a claim; its loss must end the block."""
    with pytest.raises(Superseded) as error, hold(owner, {}):
        yield
    assert str(error.value) == TAKEN
    assert not fenced()


# Claims


def test_the_newest_claim_holds_until_its_block_ends(owner: Path) -> None:
    assert (fenced(), held(), lost()) == (False, True, False)
    with hold(owner, {"job": "by hand"}):
        assert (fenced(), held(), lost()) == (True, True, False)
        about = read_json(owner)
        assert (about["job"], about["host"], about["process"]) == ("by hand", os.uname().nodename, os.getpid())
        assert time.time() - 600 < about["time"] <= time.time()
        claim(owner)
        assert not held()
    assert (fenced(), held()) == (False, True)
    require_held()
    assert [path.name for path in owner.parent.iterdir()] == ["owner.json"]


def test_a_worker_claims_one_trial_after_another(owner: Path, tmp_path: Path) -> None:
    with hold(owner, {}):
        with hold(tmp_path / "other.json", {}):
            claim(owner)
            assert held()
        assert not held()


def test_a_loss_is_named_and_lasts(owner: Path) -> None:
    """Also if the file is removed later, as with a run directory."""
    with superseded(owner):
        owner.unlink()
        require_held()
        claim(owner)
        for _ in range(2):
            with pytest.raises(Superseded):
                require_held()
            owner.unlink(missing_ok=True)
        require_held()


def test_a_loss_to_an_attempt_without_a_name_is_a_loss_too(owner: Path) -> None:
    with hold(owner, {}):
        fence._put(owner, b"{}", "1")
        with pytest.raises(Superseded, match=r"\(unknown on host unknown\)"):
            require_held()


def test_equal_processes_of_two_hosts_are_two_attempts(owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: Mock(nodename="node"))
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    with hold(owner, {"job": "1"}):
        first = fence._own
        with hold(owner, {"job": "1"}):
            assert held()
            assert fence._own != first
        assert not held()


def test_a_stop_is_asked_for_at_most_a_few_seconds_after_the_loss(owner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    found = Mock(wraps=fence._found)
    monkeypatch.setattr(fence, "_found", found)
    with superseded(owner):
        for moment in (0.0, 1.0, 5.0, 5.1, 6.0, 10.0, 10.2):
            now = moment
            assert not lost()
        assert found.call_count == 2
        claim(owner)
        assert not lost()
        now = 15.3
        assert lost()
        now = 15.4
        assert lost()
        raise Stopped("stopped at step 3")


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), Diverged("nan"), Stopped("stopped")])
def test_what_fails_after_the_loss_ends_as_superseded_and_before_it_as_itself(owner: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, hold(owner, {}):
        raise error
    assert raised.value is error
    with superseded(owner):
        claim(owner)
        raise error


def test_a_file_that_another_host_replaces_during_the_look_is_a_loss(
    owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold(owner, {}):
        monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            held()
        monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.ESTALE, "stale")))
        assert not held()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {"job": "by hand"}),
        ({"HARNESS_ATTEMPT": "worker 3"}, {"job": "worker 3"}),
        ({"SLURM_JOB_ID": "9", "HARNESS_ATTEMPT": "x"}, {"job": "job 9", "restart": "0"}),
        (
            {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"},
            {"job": "job 8_3", "restart": "2"},
        ),
    ],
)
def test_an_attempt_is_named_by_its_environment(
    given: dict[str, str], told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name == "HARNESS_ATTEMPT"]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert attempt() == told


# Refused writes


def _checkpoint(folder: Path) -> None:
    write_checkpoint(folder, 1, {"a": torch.zeros(1)})


WRITES: dict[str, Callable[[Path], object]] = {
    "write_atomic": lambda folder: write_atomic(folder / "old", "new"),
    "a new file": lambda folder: write_json(folder / "new.json", 1),
    "lines": lambda folder: Lines(folder / "old"),
    "checkpoint": _checkpoint,
    "set_aside": lambda folder: set_aside(folder / "000000003-0123456789ab.safetensors"),
    "leftovers": remove_leftovers,
    "a damaged file of rows": KeptRows,
}


@pytest.mark.parametrize("write", WRITES)
def test_after_the_loss_nothing_is_written_and_nothing_is_deleted(owner: Path, tmp_path: Path, write: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("old", "000000003-0123456789ab.safetensors", ".torn.host-1.part"):
        (folder / name).write_text("old")
        os.utime(folder / name, (time.time() - 2 * LEFT_S,) * 2)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    with superseded(owner):
        claim(owner)
        WRITES[write](folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_after_the_loss_kept_rows_and_later_checkpoints_stay(owner: Path, tmp_path: Path) -> None:
    """The loss may come between the write of a checkpoint and the deletions."""
    kept = KeptRows(tmp_path / "rows")
    kept.add({"read": torch.zeros(2, 1)})
    kept.write()
    with superseded(owner):
        claim(owner)
        kept.clear()
    assert checkpoints(tmp_path / "rows")
    write_checkpoint(tmp_path / "of", 9, {"a": torch.zeros(1)})
    with superseded(owner), pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.core.checkpoint.write_atomic", lambda *_: claim(owner))
        _checkpoint(tmp_path / "of")
    assert len(checkpoints(tmp_path / "of")) == 1


STOPPED = """
import os, pathlib, signal, sys
from harness.core import appending
from harness.core.errors import Superseded
from harness.core.fence import hold
check = appending.require_held
def stopped():
    check()
    os.kill(os.getpid(), signal.SIGSTOP)
path = pathlib.Path(sys.argv[1])
try:
    with hold(path.with_name("owner.json"), {}), appending.Lines(path) as lines:
        lines.add({"step": 1})
        appending.require_held = stopped
        lines.add({"step": "from the dead"})
        print("written")
        appending.require_held = check
        lines.add({"step": 3})
except Superseded as error:
    print(error)
"""


def test_a_line_of_an_attempt_that_slept_between_check_and_write_lands_nowhere(owner: Path) -> None:
    path = owner.with_name("metrics.jsonl")
    command = [sys.executable, "-c", STOPPED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as old:
        assert os.WIFSTOPPED(os.waitpid(old.pid, os.WUNTRACED)[1])
        claim(owner)
        with Lines(path) as lines:
            old.send_signal(signal.SIGCONT)
            said, _ = old.communicate()
            lines.add({"step": 2})
    assert said.splitlines() == ["written", TAKEN]
    assert read_lines(path) == [{"step": 1}, {"step": 2}]


def batch(start: int) -> dict[str, np.ndarray]:
    values = np.arange(start, start + 4, dtype=np.float32).reshape(2, 2)
    return {"x0": values, "x1": -values}


def test_a_batch_of_an_attempt_that_slept_between_check_and_write_lands_nowhere(
    tmp_path: Path, owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = PairSet(tmp_path / "pairs", 4, (2,), labelled=False)
    with superseded(owner), pairs.writer(2) as old:
        old.add(batch(0))
        with pytest.MonkeyPatch.context() as patch, pairs.writer(2) as new:
            patch.setattr("harness.core.appending.require_held", lambda: None)
            old.add(batch(9))
            new.add(batch(4))
            new.finish({"calls": 1})
            claim(owner)
        old.add(batch(9))
    about = json.loads((pairs.folder / "pairs.json").read_text())["files"]
    for name, array in pairs.arrays.items():
        np.testing.assert_array_equal(np.load(array.path), np.concatenate([batch(0)[name], batch(4)[name]]))
        assert hashlib.sha256(array.path.read_bytes()).hexdigest() == about[name]["sha256"]
    assert {path.name for path in pairs.folder.iterdir()} == {"x0.npy", "x1.npy", "pairs.json"}


def test_a_claim_is_no_run(tiny: RunConfig) -> None:
    run = Run.of(tiny)
    with hold(run.folder / "owner.json", {}):
        assert folders() == []
        assert (run.steps_done, run.metrics(), run.environment) == (0, [], {})
        assert not run.described
        assert not run.finished
        assert run.missing(run.config.protocol()) == [1, 2]
        with pytest.raises(UserError, match=r"no such run\..* `harness runs` lists them\.$"):
            Run.find(f"{run.name}1")


# Two attempts

ATTEMPT = """
import os, pathlib, runpy, sys, time
locks, owner, turn = sys.argv[1:4]
del sys.argv[1:4]
if locks == "idle":
    import fcntl
    fcntl.flock = lambda *_: None
from harness.ablation.execute import trial
from harness.core import fence
from harness.training.stepper import Stepper
owner = pathlib.Path(owner)
take = Stepper.__call__
def slowly(self, step, *given):
    if step == 6:
        before = owner.read_bytes()
        while not [*owner.parent.glob("checkpoints/000000006-*")]:
            time.sleep(0.05)
        owner.with_name("there").touch()
        while owner.read_bytes() == before:
            time.sleep(0.05)
        fence.CHECK_S = 0.0
    if step > 6:
        os._exit(3)  # it did not stop
    return take(self, step, *given)
if turn == "older":
    Stepper.__call__ = slowly
while turn == "newer" and not owner.with_name("there").exists():
    time.sleep(0.05)
del sys.modules["harness.ablation.execute.trial"]
runpy.run_module("harness.ablation.execute.trial", run_name="__main__", alter_sys=True)
"""


class Outcome(NamedTuple):
    """What does not depend on the time of a run."""

    lines: list[dict[str, Any]]
    values: dict[str, Any]
    weights: list[str]
    """The names of the checkpoints, which contain the hash of their content."""


def outcome(plan: Plan) -> Outcome:
    run = plan.run("snr", 0)
    timed = ("time", "samples_per_second", "mfu", "coupling_seconds")
    lines = [{name: value for name, value in line.items() if name not in timed} for line in run.metrics()]
    values = run.evaluation(plan.protocol("snr"))["values"]
    return Outcome(lines, values, [path.name for path in checkpoints(run.folder / "checkpoints")])


@pytest.fixture(scope="module")
def plan(tiny: RunConfig) -> Plan:
    arms = {"uniform": {}, "snr": {"weighting": "snr"}}
    study = Study(name="toy", question="?", baseline="uniform", nfe=2, looks=(3,), arms=arms)
    return Plan.of(study, "digits", tiny, {}, None, [])


@pytest.fixture(scope="module")
def undisturbed(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(tmp_path_factory.mktemp("undisturbed")))
        carry_out(plan, "snr", 0, lambda: False)
        return outcome(plan)


@pytest.mark.parametrize("locks", ["idle", "working"])
def test_an_older_attempt_leaves_and_the_newer_ends_as_if_it_were_alone(
    plan: Plan, undisturbed: Outcome, locks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = plan.write(), plan.run("snr", 0)
    monkeypatch.setenv("HARNESS_ATTEMPT", "a text")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ATTEMPT, locks, str(run.folder / "owner.json"), turn, str(path), "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) for turn in ("older", "newer")
    ]  # fmt: skip
    (left, why), (ended, said) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], (why, said)
    assert left.splitlines()[-1] == TAKEN.replace("job 8_3", "a text").replace("far", os.uname().nodename)
    assert why == ""
    assert "snr seed 0: continues from step 6 of 12." in ended.splitlines()
    assert outcome(plan) == undisturbed
    assert [line["step"] for line in undisturbed.lines] == [2, 4, 6, 8, 10, 12]
