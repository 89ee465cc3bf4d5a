"""A trial by its number, as an engine runs it: exit codes, stops, and the values of a worker's trial."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute.worker import PlanBoard, work
from harness.core.config import override
from harness.core.files import read_lines, results_folder
from harness.runs.config import RunConfig
from harness.runs.folder import Run

STUDY = Study(
    name="toy", question="Which?", baseline="uniform", nfe=2, looks=(3,),
    arms={"uniform": {}, "snr": {"weighting": "snr"}},
)  # fmt: skip


def planned(base: RunConfig, study: Study = STUDY) -> tuple[Plan, Path]:
    plan = Plan.of(study, "digits", base, {}, None, [])
    return plan, plan.write()


def trial(*words: object) -> list[str]:
    return [sys.executable, "-m", "harness.ablation.execute.trial", *map(str, words)]


def ran(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(trial(*words), capture_output=True, text=True)


def files(run: Run) -> dict[str, int]:
    """Return {file: time of its last change, ns} of a run directory."""
    found = (path for path in run.folder.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(run.folder).as_posix(): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_its_values_are_those_of_a_worker_and_a_second_call_changes_nothing(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = planned(tiny)
    assert plan.trials()[2] == ("uniform", 1)
    (tmp_path / "torch.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    ended = ran(path, 2)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("uniform seed 1: FID ")
    run = plan.run("uniform", 1)
    assert [path.name for path in run.folder.parent.iterdir()] == [run.name]
    before = files(run)
    assert ran(path, 2).returncode == 0
    assert files(run) == before
    values = run.evaluation(plan.protocol("uniform"))["values"]
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "other"))
    work(PlanBoard(plan), lambda: False)
    assert plan.run("uniform", 1).folder != run.folder
    assert plan.run("uniform", 1).evaluation(plan.protocol("uniform"))["values"] == values


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_next_call_goes_on(tiny: RunConfig, number: signal.Signals) -> None:
    plan, path = planned(override(tiny, {"train.steps": 10**6, "train.checkpoint_every": 10**6, "train.log_every": 1}))
    run = plan.run("snr", 0)
    process = subprocess.Popen(trial(path, 1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not run.steps_done and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert said.startswith("stopped")
    assert run.steps_done > 0
    (checkpoint,) = (run.folder / "checkpoints").glob("*.safetensors")
    assert int(checkpoint.name[:9]) == len(read_lines(run.folder / "metrics.jsonl", dict))


def test_a_trial_without_a_value_has_ended(tiny: RunConfig) -> None:
    diverging = {"uniform": {"train.learning_rate": 1e9, "train.clip_norm": None}, "snr": {}}
    study = Study(name="bad", question="Which?", baseline="uniform", nfe=2, looks=(3,), arms=diverging)
    plan, path = planned(tiny, study)
    for _ in range(2):
        ended = ran(path, 0)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "uniform seed 0: training diverged" in ended.stdout
    assert plan.run("uniform", 0).ended(plan.protocol("uniform"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: no arguments: give the file of a plan and the number of a trial."),
        (["PLAN"], "give the file of a plan and the number of a trial."),
        (["PLAN", "-1"], "PLAN -1: give the file of a plan"),
        (["PLAN", "6"], "6: toy-digits has no such trial. Its numbers are 0 to 5."),
        (["absent.json", "0"], "absent.json: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(tiny: RunConfig, words: list[str], said: str) -> None:
    _, path = planned(tiny)
    ended = ran(*(str(path) if word == "PLAN" else word for word in words))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert said.replace("PLAN", str(path)) in line
    assert not (results_folder() / "local" / "runs").exists()
