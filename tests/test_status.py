"""`harness status`: the states of trials, the best arm so far, the time left; it holds no lock and writes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute import node
from harness.ablation.report import progress
from harness.ablation.report.progress import State, grids, means_so_far, states, told
from harness.cli import main, status
from harness.core.config import override
from harness.core.fence import OWNER
from harness.core.files import last_lines, locked, results_folder, write_json
from harness.runs.config import RunConfig

ARMS = {"a": {}, "b": {"weighting": "snr"}}


def planned(tiny: RunConfig, seeds: int = 3) -> Plan:
    study = Study(name="toy", question="Which?", baseline="a", nfe=2, looks=(3,), arms=ARMS)
    return Plan.of(study, "digits", override(tiny, {"train.steps": 100}), {}, seeds, [])


def lines(folder: Path, *steps: int, pace: float = 0.5, ago: float = 10.0) -> None:
    """Write lines of a training that takes `pace` seconds a step; the last line is `ago` seconds old."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.time() - ago
    text = [json.dumps({"step": step, "time": end - pace * (steps[-1] - step)}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(text) + "\n")


@pytest.fixture
def plan(tiny: RunConfig, score: Any) -> Plan:
    """a: seed 0 has ended, seed 1 is at step 40, seed 2 waits; b: seed 0 has ended, 1 gave up, 2 has only an owner."""
    plan = planned(tiny)
    for arm, value in (("a", 8.0), ("b", 6.0)):
        score(plan.run(arm, 0), plan.protocol(arm), {1: 50.0, 2: value})
    lines(plan.run("a", 1).folder, 0, 20, 40)
    write_json(plan.run("a", 1).folder / OWNER, {"host": "n7", "time": time.time()})
    write_json(plan.run("b", 1).folder / "diverged.json", {"reason": "a loss was not finite."})
    write_json(plan.run("b", 2).folder / OWNER, {"host": "n8", "time": time.time() - 30})
    return plan


def test_each_trial_has_a_state(plan: Plan) -> None:
    found = {(state.arm, state.seed): state for state in states(plan)}
    assert {key: state.word for key, state in found.items()} == {
        ("a", 0): "ended", ("b", 0): "ended", ("a", 1): "begun", ("b", 1): "failed", ("a", 2): "waiting",
        ("b", 2): "begun",
    }  # fmt: skip
    assert (found["a", 0].value, found["b", 0].value) == (8.0, 6.0)
    at_work = found["a", 1]
    assert (at_work.host, at_work.share) == ("n7", pytest.approx(0.85 * 0.4))
    assert at_work.left_s == pytest.approx(60 * 0.5)
    assert at_work.silent_s == pytest.approx(10, abs=5)
    assert (found["b", 2].host, found["b", 2].cell) == ("n8", "0%")


def test_the_tables_and_the_sentence(plan: Plan) -> None:
    summary, by_seed, at_work = grids(plan, found := states(plan))
    assert summary.rows == [["a", "1", "1", "1", "0", "8"], ["b", "1", "1", "0", "1", "6"]]
    assert by_seed.rows == [["a", "8", "34%", "."], ["b", "6", "failed", "0%"]]
    assert [row[:3] for row in at_work.rows] == [["a seed 1", "34%", "n7"], ["b seed 2", "0%", "n8"]]
    said = told(plan, found)
    assert said.startswith("3 of 6 trials have ended. Best so far: b (6), which is no verdict. About ")
    lines(plan.run("a", 1).folder, 0, 20, 40, ago=500)
    late = states(plan)
    assert grids(plan, late)[1].rows[0] == ["a", "8", "34%?", "."]
    assert told(plan, late).endswith("1 gave no sign for 2.0 min: they may have stopped, or evaluate.")


def test_the_time_left_follows_from_the_pace() -> None:
    """A trial at 0.425 of its share has half of its training left: 100 s, so a whole one takes 100 / 0.425 s."""
    moving = State("a", 0, "begun", share=0.425, left_s=100.0, silent_s=1.0)
    waiting = State("a", 1, "waiting")
    whole = 100 / 0.425
    assert progress._left([moving, waiting], [moving]) == pytest.approx(whole * (0.575 + 1))


def test_means_are_of_the_seeds_that_all_arms_have() -> None:
    """A seed that only one arm has would favour the arm with the lucky seed."""
    ended = [("a", 0, 1.0), ("a", 1, 9.0), ("b", 0, 3.0)]
    by_arm = {arm: [State(name, seed, "ended", value) for name, seed, value in ended if name == arm] for arm in "ab"}
    assert means_so_far(by_arm) == {"a": 1.0, "b": 3.0}
    assert means_so_far({**by_arm, "c": [State("c", 7, "ended", 2.0)]}) == {}
    assert means_so_far({**by_arm, "c": [State("c", 0, "failed")]}) == {"a": 1.0, "b": 3.0}


def test_many_seeds_are_counted_only(tiny: RunConfig) -> None:
    plan = planned(tiny, 13)
    (summary,) = grids(plan, states(plan))
    assert summary.rows[0] == ["a", "0", "0", "13", "0", "-"]


def test_a_damaged_evaluation_does_not_stop_the_look(plan: Plan) -> None:
    plan.run("a", 0).evaluation_file(plan.protocol("a")).write_text('{"values": 3')
    assert states(plan)[0].word == "begun"


def test_it_reads_beside_a_command_that_holds_every_lock(
    plan: Plan, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seeds are those of the last command, and the device that of the engine's nodes."""
    monkeypatch.setattr(status, "plan_of", lambda options: plan.up_to(1))
    monkeypatch.setattr(status, "declared_in", lambda *_: False)
    assert main(["status", "toy"]) == 2
    said = capsys.readouterr().err
    assert "toy-digits: no command has begun it. Looked in " in said
    assert said.endswith("Run `harness ablate toy --scale digits` first.\n")
    changed = dataclasses.replace(plan, changes={"train.steps": "3"})
    changed.write()
    dataclasses.replace(plan, smallest_difference=0.2).write()  # of the same name: no other changes
    assert main(["status", "toy"]) == 2
    assert f"Begun with other changes: {changed.name} (--set train.steps=3). Run `harness" in capsys.readouterr().err
    monkeypatch.setattr(status, "plan_of", lambda options: dataclasses.replace(changed, changes={"seed": "9"}))
    plan.write()
    damaged = plan.folder.with_name("toy-digits-0123456789ab") / "plan.json"
    damaged.parent.mkdir()
    damaged.write_text("[")
    assert main(["status", "toy"]) == 2
    assert f"changes: {plan.name} (without --set); {changed.name} (--set" in capsys.readouterr().err
    monkeypatch.setattr(status, "plan_of", lambda options: plan.up_to(1))
    plan.write()
    write_json(plan.folder / node.FILE, {"device": "cpu", "hardware": "x", "host": "n7"})

    def content() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in results_folder().rglob("*")}

    with locked(plan.folder / "lock"), plan.run("a", 1).lock():
        before = content()
        assert main(["status", "toy"]) == 0
        assert content() == before
    assert "3 of 6 trials have ended." in capsys.readouterr().out
    assert main(["status", "toy", "--seeds", "1"]) == 0
    assert "2 of 2 trials have ended." in capsys.readouterr().out


def test_watching_ends_with_the_last_trial(
    plan: Plan, score: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan.up_to(1)
    plan.write()
    monkeypatch.setattr(status, "plan_of", lambda options: plan)
    monkeypatch.setattr(status, "declared_in", lambda *_: False)
    looked: list[float] = []
    plan.run("b", 0).evaluation_file(plan.protocol("b")).unlink()

    def later(seconds: float) -> None:
        looked.append(seconds)
        score(plan.run("b", 0), plan.protocol("b"), {1: 50.0, 2: 6.0})

    monkeypatch.setattr(status.time, "sleep", later)
    assert main(["status", "toy", "--watch"]) == 0
    assert looked == [status.EVERY_S]
    said = capsys.readouterr().out
    assert "1 of 2 trials have ended." in said
    assert "2 of 2 trials have ended." in said


def test_a_search_has_no_arms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tuning"]) == 2
    assert "tuning: is a search, without arms and seeds." in capsys.readouterr().err


def test_last_lines_are_the_ends_of_files(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert last_lines(path, 3) == []
    path.write_text("".join(f'{{"step": {i}, "more": "{"x" * 900}"}}\n' for i in range(30)) + '{"torn')
    assert [line["step"] for line in last_lines(path, 3)] == [27, 28, 29]
    assert [line["step"] for line in last_lines(path, 100)] == [*range(30)]
    with open(path, "a") as file:
        file.write("\n{}\n")
    assert [line.get("step", math.nan) for line in last_lines(path, 4)][:2] == [28, 29]
