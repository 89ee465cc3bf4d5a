"""Launchers: what is submitted, found again, tried again and left out; Slurm's script; a user's own launcher."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute import launch, node
from harness.ablation.execute.launchers import Launcher, Logs, Remote, find
from harness.ablation.execute.node import on_nodes, placed, settle
from harness.ablation.execute.on_ray import _options, _require_node, _resources
from harness.ablation.execute.slurm import Slurm
from harness.ablation.execute.trials import RemoteTrials
from harness.cli import main
from harness.core.checkpoint import write_checkpoint
from harness.core.config import override
from harness.core.errors import Diverged, UserError
from harness.core.files import read_json, results_folder, write_json
from harness.runs.config import RunConfig
from harness.runs.mlflow_pages import Told


class Recorded(Launcher, name="recorded"):
    """Keeps what it was asked; the test decides what is alive and what a trial writes."""

    LOOK_EVERY_S = 0.0

    def __init__(self, plan: Path, name: str, on: str = "", jobs: int | None = None):
        super().__init__(plan, name, on, jobs)
        self.submitted: list[list[int]] = []
        self.queue: set[int] = set()

    def submit(self, numbers: Sequence[int]) -> None:
        assert not self.queue & {*numbers}
        self.submitted.append([*numbers])
        self.queue |= {*numbers}

    def alive(self) -> set[int]:
        return {*self.queue}

    def cancel(self) -> None:
        self.queue.clear()


class Listed(RemoteTrials):
    """Four trials, which end when the test says so."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.ended: set[int] = set()

    def unended(self, among: Collection[int]) -> set[int]:
        return {*among} - self.ended


def planned(tiny: RunConfig, arms: Mapping[str, Any] | None = None, seeds: int = 2) -> Plan:
    arms = arms or {"a": {}, "b": {"weighting": "snr"}}
    study = Study(name="toy", question="Which?", baseline="a", nfe=2, looks=(3,), arms=arms)
    return Plan.of(study, "digits", tiny, {}, seeds, [])


@pytest.fixture
def work(tiny: RunConfig) -> launch.Work:
    plan = planned(tiny)
    trials = Listed(plan)
    launcher = Recorded(plan.write(), plan.name)
    return launch.Work(trials, trials.unended(trials.numbers), launcher, Console(file=io.StringIO(), width=200))


def ended(work: launch.Work, *numbers: int) -> None:
    work.trials.ended |= {*numbers}  # type: ignore[attr-defined]


def test_trials_that_are_alive_are_not_submitted_again(work: launch.Work) -> None:
    launcher: Any = work.launcher
    launcher.queue = {1}
    ended(work, 3)
    work.look()
    assert launcher.submitted == [[0, 2]]
    assert work.told().startswith("1 of 4 trials have ended, 3 are queued or run.")
    ended(work, 0, 1, 2)
    launcher.queue = set()
    work.look()
    assert not work.open
    assert len(launcher.submitted) == 1
    work.require_all()


def test_a_lost_trial_is_submitted_again_and_left_out_after_three_losses(work: launch.Work) -> None:
    launcher: Any = work.launcher
    ended(work, 0, 2, 3)
    for _ in range(3):
        work.look()
        launcher.queue = set()
    assert launcher.submitted == [[1], [1], [1]]
    work.look()
    assert not work.open
    assert work.told().startswith("3 of 4 trials have ended, 0 are queued or run.")
    with pytest.raises(UserError, match=r"toy-digits: no value of b seed 0: each was lost 3 times\."):
        work.require_all()


def test_a_lost_trial_that_gets_on_is_tried_again_and_again(work: launch.Work, monkeypatch: Any) -> None:
    """A cluster may end a trial every few hours; it has saved each time."""
    launcher: Any = work.launcher
    ended(work, 0, 2, 3)
    steps = iter([0, 100, 200, 300, 300, 300])
    monkeypatch.setattr(work.trials, "progress", lambda number: next(steps))
    while work.open:
        work.look()
        launcher.queue = set()
    assert launcher.submitted == [[1]] * 6


def test_trials_beyond_a_limit_of_the_engine_wait(work: launch.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher: Any = work.launcher

    def one_at_a_time(numbers: Sequence[int]) -> set[int]:
        launcher.queue |= set() if launcher.queue else {numbers[0]}
        return {*numbers} - launcher.queue

    monkeypatch.setattr(launcher, "submit", one_at_a_time)
    for number in range(4):
        for _ in range(5):
            work.look()
        assert launcher.queue == {number}
        ended(work, number)
        launcher.queue = set()
    work.look()
    assert not work.open
    work.require_all()


def test_an_error_leaves_its_trial_out_and_the_others_go_on(work: launch.Work) -> None:
    launcher: Any = work.launcher
    (log := launcher.log(1)).parent.mkdir()
    log.write_text("error: an old mistake\n")
    work.look()
    with open(log, "a") as file:
        file.write("b seed 0: it begins\nerror: dataset.path: no such file. Give another.\n")
    launcher.queue -= {1}
    work.look()
    assert launcher.submitted == [[0, 1, 2, 3]]
    assert work.open == {0, 2, 3}
    assert work.console.file.getvalue() == "b seed 0: it begins\n"  # type: ignore[attr-defined]
    ended(work, 0, 2, 3)
    launcher.queue = set()
    work.look()
    with pytest.raises(UserError, match=r"b seed 0: dataset\.path: no such file\. Give another\."):
        work.require_all()


def begun(trials: RemoteTrials) -> None:
    """Let the first trial have begun on this machine's type of node."""
    settle(trials.plan, trials.plan.folder)


def checkpointed(plan: Plan, arm: str, seed: int = 0) -> None:
    folder = plan.run(arm, seed).folder / "checkpoints"
    write_checkpoint(folder, plan.arms[arm].train.steps, {"weights": torch.zeros(1)})


def test_of_trials_that_need_a_flow_or_its_pairs_the_first_makes_it(tiny: RunConfig) -> None:
    """The next begin when it is made; those that share a run begin one after another, as they write to one folder."""
    rounds = {"reflow.rounds": 1, "reflow.number": 64}
    one_step = {"reflow.distil": True, "evaluate.nfe": [1], "reflow.number": 64}
    again = {"evaluate.batch_size": 16}
    arms: dict[str, Any] = {"a": {}, "second": rounds, "again": again, "one": one_step, "other": {"weighting": "snr"}}
    study = Study(name="toy", question="Which?", baseline="a", nfe=1, looks=(3,), arms=arms)
    plan = Plan.of(study, "digits", tiny, {}, 1, [])
    trials = RemoteTrials(plan)
    begun(trials)
    a, second, third, one, other = range(5)
    everything = {*range(5)}
    assert trials.ready(everything, everything) == {a, other}
    assert trials.ready({second, one}, everything) == set()
    checkpointed(plan, "a")
    assert trials.ready(everything, everything) == {a, second, other}, "the pairs are the second's to make"
    assert trials.ready({third}, everything) == set(), "it would write beside the first"
    assert trials.ready({third}, everything - {a}) == {third}
    pairs = plan.run("second", 0).pairs
    assert pairs.name == plan.run("one", 0).pairs.name
    pairs.folder.mkdir(parents=True)
    pairs.fail(Diverged("a loss was not finite."))
    assert trials.ready({one}, everything) == {one}
    assert trials.progress(a) == plan.arms["a"].train.steps
    assert trials.progress(other) == 0


def test_a_flow_whose_trial_was_left_out_is_made_by_the_next(tiny: RunConfig) -> None:
    """Nothing waits without end: what the first did not make is the next one's to make."""
    arms = {"a": {}, "second": {"reflow.rounds": 1, "reflow.number": 64}}
    trials = RemoteTrials(planned(tiny, arms, 1))
    begun(trials)
    assert trials.ready({1}, {0, 1}) == set()
    assert trials.ready({1}, {1}) == {1}


def test_numbers_stay_when_seeds_are_added(tiny: RunConfig) -> None:
    """Also where the arms share a training, whose trials run arm by arm on one machine."""
    arms = {"a": {}, "b": {"evaluate.batch_size": 16}}
    two, three = (planned(tiny, arms, seeds) for seeds in (2, 3))
    assert two.trials() == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert two.numbered() == {0: ("a", 0), 1: ("b", 0), 2: ("a", 1), 3: ("b", 1)}
    assert two.numbered().items() <= three.numbered().items()
    decided = dataclasses.replace(three, closed={"b": 1})
    assert decided.numbered() == {0: ("a", 0), 1: ("b", 0), 2: ("a", 1), 4: ("a", 2)}
    assert RemoteTrials(decided).numbers == {0, 1, 2, 4}


def test_the_first_node_fixes_the_device_and_another_type_refuses(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has no GPU: before the first trial begins, it takes no run for finished."""
    plan = planned(override(tiny, {"train.device": "auto"}))
    trials = RemoteTrials(plan)
    assert placed(plan) is None
    assert trials.unended([0]) == {0}
    assert trials.followed(()) == []
    write_json(plan.folder / node.FILE, {"device": "cuda", "hardware": "NVIDIA H100", "host": "n1"})
    assert trials.unended([0]) == {0}
    assert trials.plan.arms["a"].train.resolved() == {"device": "cuda", "precision": "bf16", "compile": "off"}
    assert trials.plan.digest == plan.digest
    assert on_nodes(plan).run("a", 0).name != plan.run("a", 0).name
    with pytest.raises(UserError, match=r"but the study began on NVIDIA H100 \(n1\), and its arms are compared"):
        settle(plan, plan.folder)
    (plan.folder / node.FILE).unlink()
    assert settle(plan, plan.folder).arms["a"].train.device == "cpu"
    assert read_json(plan.folder / node.FILE, node.Node)["device"] == "cpu"
    monkeypatch.setattr(node, "usable_cores", lambda: 2)
    with pytest.raises(UserError, match=r"train\.threads: 4 is more than the 2 cores .*--cpus-per-task=4"):
        settle(plan.threaded(4), plan.folder)


PROGRAMS = {
    "sbatch": 'printf "%s\\n" "$@" >> $STATE/options; cat >> $STATE/script; [ ! -f $STATE/refused ] || '
    '{ echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1; }',
    "squeue": '[ ! -f $STATE/away ] || { echo "squeue: error: no answer" >&2; exit 1; }; '
    'case "$*" in *CANCELLED*) cat $STATE/cancelled-jobs;; *) cat $STATE/queue;; esac',
    "scancel": 'printf "%s\\n" "$@" >> $STATE/cancelled; : > $STATE/queue',
    "srun": 'shift; echo "$@"; exit $(cat $STATE/code)',
    "scontrol": 'echo "$@" >> $STATE/requeued',
    "sleep": "exit 0",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that answer like Slurm's; returns the folder of what they were asked."""
    (programs := tmp_path / "bin").mkdir()
    (state := tmp_path / "state").mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)
    (state / "queue").touch()
    (state / "cancelled-jobs").touch()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", str(state))
    return state


def test_slurm_gets_arrays_by_the_plans_name(slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Slurm(tmp_path / "plan.json", "toy-abc", "--partition=gpu --comment='two words'", 40)
    launcher.submit([0, 1, 2, 7, 999, 1000, 1003])
    asked = (slurm / "options").read_text().splitlines()
    assert [line for line in asked if line.startswith(("--array", "--job-name"))] == [
        "--array=0-2,7,999%40", "--job-name=toy-abc", "--array=0,3%40", "--job-name=toy-abc-1",
    ]  # fmt: skip
    assert asked.count("--partition=gpu") == asked.count("--comment=two words") == 2
    assert asked.count("--requeue") == asked.count("--signal=USR1@120") == 2
    (slurm / "queue").write_text("5 7 toy-abc\n6 3 toy-abc-1\n")
    assert launcher.alive() == {7, 1003}
    (slurm / "away").touch()
    assert launcher.alive() == {7, 1003}, "an answer that is missing is none"
    launcher.submit([8])
    assert launcher.alive() == {7, 8, 1003}, "what was submitted meanwhile is alive"
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^--launcher slurm: Slurm does not answer \(.*\), so its queue is not known"):
        Slurm(tmp_path / "plan.json", "toy-abc", "", None)
    assert capsys.readouterr().err == "", "no trial goes on"
    (slurm / "away").unlink()
    launcher.cancel()
    assert (slurm / "cancelled").read_text().splitlines() == ["--name=toy-abc", "--name=toy-abc-1"]
    (slurm / "refused").touch()
    assert launcher.alive() == set()
    with pytest.raises(UserError, match=r"^--launcher slurm: sbatch refuses the trials: invalid partition"):
        launcher.submit([0])
    (slurm / "queue").write_text("5 7 toy-abc None\n")
    assert launcher.alive() == {7}
    assert launcher.submit([0, 1]) == {0, 1}, "a limit of the cluster: they wait until others have ended"


def test_jobs_that_slurm_holds_back_are_told(slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Slurm(tmp_path / "plan.json", "toy-held", "", None)
    launcher.submit([0, 1])
    (slurm / "queue").write_text("5 0 toy-held (Priority)\n5 1 toy-held (launch failed requeued held)\n")
    assert launcher.alive() == {0, 1}
    assert "Slurm holds trials back: (launch failed requeued held). Change --on" in capsys.readouterr().err


def test_cancelled_jobs_are_given_up(slurm: Path, tmp_path: Path) -> None:
    """Not those that were cancelled before the command began."""
    (slurm / "cancelled-jobs").write_text("4 2 toy-abc None\n")
    launcher = Slurm(tmp_path / "plan.json", "toy-abc", "", None)
    launcher.submit([1, 2])
    assert launcher.given_up() == {}
    (slurm / "cancelled-jobs").write_text("4 2 toy-abc None\n9 1 toy-abc None\n")
    assert launcher.given_up() == {1: "cancelled in Slurm"}


@pytest.mark.parametrize("option", ["--array=0-3", "-J mine", "--job-name=mine", "--wrap=x", "-Mother", "--test-only"])
def test_options_that_would_hide_trials_are_refused(slurm: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"^--on: {option.split()[0]} is set by the launcher"):
        Slurm(tmp_path / "plan.json", "toy", f"--partition=gpu {option}", None)


@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (2, ""), (137, ""), (130, "requeue 17\n")])
def test_slurms_script_requeues_a_trial_that_saved_on_a_signal(
    slurm: Path, tmp_path: Path, code: int, requeued: str
) -> None:
    launcher = Slurm(tmp_path / "a b NUMBER" / "plan.json", "toy-abc", "", None)
    launcher.plan.parent.mkdir()
    launcher.submit([1004])
    (slurm / "code").write_text(str(code))
    job = {**os.environ, "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "8"}
    script = (slurm / "script").read_text()
    assert subprocess.run(["bash"], input=script, text=True, env=job).returncode == code
    said = launcher.log(1004).read_text()
    assert said == f"{sys.executable} -P -m harness.ablation.execute.trial {launcher.plan} 1004\n"
    place = slurm / "requeued"
    assert (place.read_text() if place.exists() else "") == requeued
    place.unlink(missing_ok=True)
    often = {**job, "SLURM_RESTART_COUNT": "50"}
    assert subprocess.run(["bash"], input=script, text=True, env=often).returncode == code
    assert not place.exists(), "the command submits it again if it gets on"


def test_slurm_is_looked_for_before_anything_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch is not on this machine\. Run the command on a login node"):
        Slurm(tmp_path / "plan.json", "toy", "", None)


def test_resources_that_no_node_has_are_refused() -> None:
    """Ray itself would wait for them in silence."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "big": 1.0}},
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    for on in ("num_gpus=0.5 num_cpus=4", "num_cpus=64", "big=1", ""):
        _require_node(_resources(on), nodes)
    assert _options(_resources("num_gpus=0.5 big=1")) == {"num_gpus": 0.5, "resources": {"big": 1.0}}
    for on in ("num_gpus=2", "num_gpus=1 num_cpus=8", "tpu=1"):
        with pytest.raises(UserError, match=f"^--on: no node of the Ray cluster has {on}"):
            _require_node(_resources(on), nodes)
    with pytest.raises(UserError, match="'num_gpus' is not a resource with an amount"):
        _resources("num_gpus")


def test_logs_begin_where_they_were(tmp_path: Path) -> None:
    launcher = Recorded(tmp_path / "plan.json", "toy")
    launcher.log(3).parent.mkdir()
    launcher.log(3).write_text("old\n")
    logs = Logs(launcher)
    logs.begin([3])
    with open(launcher.log(3), "a") as file:
        file.write(
            "srun: noise\nerror: a rank was killed by SIGKILL.\nnew\nstopped at step 3. What was done is kept.\nha"
        )
    assert logs.new_lines([2, 3]) == ["new"]
    with open(launcher.log(3), "a") as file:
        file.write("lf\n")
    assert logs.new_lines([2, 3]) == ["half"]
    assert not logs.errors, "a lost rank is no mistake of the user"


PAGE = Path(__file__).parent.parent / "docs" / "clusters.md"
STUDY = """
from harness.ablation.design.study import Study
STUDY = Study(
    question="Which?", baseline="a", nfe=2, looks=(3,),
    arms={
        "a": {}, "b": {"weighting": "snr"}, "c": {"evaluate.solver": "midpoint"}, "d": {"evaluate.solver": "heun"},
        "e": {"reflow.rounds": 1, "reflow.number": 64},
    },
)
"""


@pytest.mark.slow
def test_the_launcher_of_the_page_gives_the_same_table_as_local_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (plugin := tmp_path / "own.py").write_text(found)
    (study := tmp_path / "toy.py").write_text(STUDY)
    changes = [
        "train.steps=12",
        "evaluate.num_samples=64",
        "evaluate.nfe=[2,4]",
        "train.threads=1",
        "backbone.channels=8",
    ]
    words = ["ablate", str(study), "--seeds", "1", *(word for each in changes for word in ("--set", each))]
    tables = []
    for own in ([], ["--launcher", "processes", "--plugin", str(plugin)]):
        monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / f"results{len(own)}"))
        assert main([*words, *own]) == 0, capsys.readouterr().err
        (table,) = [*(results_folder() / "local" / "tables").glob("toy-digits-*[0-9a-f].csv")]
        tables.append(table.read_bytes())
    said = capsys.readouterr()
    assert tables[0] == tables[1]
    assert "a seed 0: FID" in said.out
    assert "was lost" not in said.out, "a, c and d share a run, and e learns from it: they wait for each other"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--launcher slrum", "--launcher: there is no 'slrum'. Did you mean 'slurm'?"),
        ("--jobs 4", "--jobs: does nothing on this machine. Add --launcher slurm or ray, or leave it out."),
        ("--detach", "--detach: does nothing on this machine."),
        ("--launcher slurm --workers 2", "--workers: is for this machine. Use --jobs with --launcher slurm."),
        ("--launcher slurm --store postgresql://x/y", "--store: only a search on an engine's nodes uses it."),
    ],
)
def test_idle_options_are_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "weighting", *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert not results_folder().exists()


def test_a_search_on_nodes_needs_a_database(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_STORE", raising=False)
    for words, said in ((), "needs a database"), (("--store", "sqlite:///a.db"), "cannot share a SQLite file"):
        assert main(["tune", "tuning", "--launcher", "slurm", *words]) == 2
        assert re.search(f"^error: --store: .*{said}", capsys.readouterr().err)


def test_a_detached_command_submits_and_ends(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recorded] = []

    class Kept(Recorded, name="kept"):
        def __init__(self, *given: Any):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(launch, "_connect", lambda *_: pytest.fail("it mirrors"))
    console = Console(file=(said := io.StringIO()), width=300)
    placement = Remote(2, 1, 0, "kept", detach=True)
    reported: list[bool] = []
    trials = RemoteTrials(plan := planned(tiny))

    def report() -> Told:
        reported.append(True)
        return Told([])

    assert not launch.launch(trials, placement, console, lambda: False, report)
    assert made[0].submitted == [[0, 1, 2, 3]]
    assert re.fullmatch(f"{plan.name}-{plan.digest}-[0-9a-f]{{6}}", made[0].name)
    assert not reported
    assert "0 of 4 trials have ended, 4 are queued or run." in said.getvalue()
    assert find("kept") is Kept
