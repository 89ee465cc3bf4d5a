"""The output of `harness plan` before a study trains: looks, arms, effects and warnings."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Collection
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import preregister
from harness.ablation.design.study import Study
from harness.ablation.execute.forecast import Forecast
from harness.ablation.execute.placement import Placement
from harness.ablation.report.outlook import UNKNOWN, Effects, Outlook
from harness.ablation.report.spent import Parts
from harness.cli import advice, main
from harness.cli import plan as command
from harness.cli.plan import memory_needed, remarks, status, trainings_alone
from harness.core.config import override
from harness.core.files import results_folder
from harness.core.memory import size
from harness.core.progress import duration
from harness.runs.config import RunConfig
from harness.runs.estimate import Spent
from harness.runs.explain import Explained
from harness.runs.identity import training_digest
from harness.runs.room import memory_of

ARMS: dict[str, dict[str, Any]] = {
    "a": {},
    "b": {"weighting": "inverse_snr"},
    "solver": {"evaluate.solver": "midpoint", "evaluate.nfe": [2]},
}
STUDY = Study(
    name="toy", question="Which end?", baseline="a", arms=ARMS, nfe=2, smallest_difference=0.1, looks=(3, 5, 8)
)
LEVELS = {"a": 10.0, "b": 5.0, "solver": 10.2}


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    return Plan.of(STUDY, "digits", tiny, {}, 8, [])


@pytest.fixture
def ended(score: Any) -> Callable[[Plan], None]:
    """Ends the trials of a plan: b is far better than a, and the solver is near it."""

    def end(plan: Plan) -> None:
        for arm, seed in plan.unfinished():
            off = 1 + (0.2 if seed % 2 else -0.2) * (arm == "solver") + 0.01 * (arm == "b") * seed
            score(plan.run(arm, seed), plan.protocol(arm), {1: 20.0, 2: LEVELS[arm] * off})

    return end


def parts(plan: Plan) -> Parts:
    """One training for a and the solver, another for b."""
    of_a, of_b = (training_digest(plan.arms[arm]) for arm in "ab")
    evaluations = {"a": Spent(60, 1e6), "b": Spent(120, 1e6), "solver": Spent(180, 2e6)}
    return Parts({of_a: Spent(600, 10e6), of_b: Spent(1200, 30e6)}, evaluations)


NONE = Parts({}, {})


def test_each_look_reports_its_trials_level_time_and_disk(plan: Plan) -> None:
    """The level is .05 over two arms, by the share of the 8 seeds that a look adds; 1,800 + 360 s and
    44 MB per seed.
    """
    grid = Outlook(plan, 2, NONE, parts(plan)).looks()
    assert grid.header == ["look", "seeds", "trials", "ended", "left", "level", "time", "disk"]
    assert grid.rows == [
        ["1 of 3", "3", "9", "0", "9", "0.94 %", "54.0 min", "132 MB"],
        ["2 of 3", "5", "15", "0", "15", "0.62 %", "90.0 min", "220 MB"],
        ["3 of 3", "8", "24", "0", "24", "0.94 %", "2.4 h", "352 MB"],
    ]
    alone = dataclasses.replace(plan, looks=dataclasses.replace(plan.looks, seeds=(8,))).up_to(8)
    assert Outlook(alone, 1, NONE, parts(plan)).looks().rows == [
        ["1 of 1", "8", "24", "0", "24", "2.5 %", "4.8 h", "352 MB"]
    ]
    between = Outlook(plan.up_to(4), 2, NONE, parts(plan)).looks().rows
    assert [row[:6] for row in between] == [
        ["1 of 3", "3", "9", "0", "9", "0.94 %"], ["none", "4", "12", "0", "12", ""]
    ]  # fmt: skip


def test_ended_trials_and_decided_arms_do_not_count_as_open(plan: Plan, ended: Callable[[Plan], None]) -> None:
    """After the first look b is decided, so each further seed takes two trials: 600 + 240 s, two at a time."""
    ended(plan.up_to(3))
    rows = Outlook(plan, 2, NONE, parts(plan)).looks().rows
    assert [row[2:5] + row[6:] for row in rows] == [
        ["9", "9", "0", "0 s", "0 MB"],
        ["15", "9", "4", "14.0 min", "26 MB"],
        ["24", "9", "10", "35.0 min", "65 MB"],
    ]


def test_unknown_costs_are_reported_as_unknown(plan: Plan) -> None:
    outlook = Outlook(plan, 2, NONE, NONE)
    assert {tuple(row[6:]) for row in outlook.looks().rows} == {(UNKNOWN, UNKNOWN)}
    assert {tuple(row[3:]) for row in outlook.arms(dict.fromkeys(ARMS, 1.0)).rows} == {(UNKNOWN,) * 3}


def test_each_arm_shows_its_share_and_the_cost_of_its_trial(plan: Plan) -> None:
    shares = {arm: Explained.of(config).effective_share() for arm, config in plan.arms.items()}
    known = parts(plan)
    trained = Parts(dict([*known.trainings.items()][:1]), {"a": known.evaluations["a"]})
    grid = Outlook(plan, 2, trained, known).arms(shares)
    assert grid.rows == [
        ["a", "100 %", "10.0 min", "60 s", "11 MB", "finished trials"],
        ["b", "0.3 %", "20.0 min", "2.0 min", "31 MB", "small trial"],
        ["solver", "100 %", "shared with a", "3.0 min", "2 MB", "finished trainings, small evaluation"],
    ]


def test_a_flow_that_only_teaches_has_a_separate_row(tiny: RunConfig) -> None:
    arms = {"two": {"reflow.rounds": 1}, "three": {"reflow.rounds": 2}}
    plan = Plan.of(dataclasses.replace(STUDY, arms=arms, baseline="two"), "digits", tiny, {}, 3, [])
    (teacher,) = (training_digest(flow) for flow in plan.arms["two"].flows[:-1])
    rows = Outlook(plan, 1, NONE, Parts({teacher: Spent(60, 1e6)}, {})).arms(dict.fromkeys(arms, 1.0)).rows
    assert rows[2] == ["1-rectified, for two", "", "60 s", "", "1 MB", "small trial"]
    assert [row[0] for row in rows[:2]] == ["two", "three"]


def test_what_a_look_can_show_and_how_many_trials_to_expect(plan: Plan) -> None:
    effects = Effects.of(plan)
    assert effects.unknown == ["b", "solver"]
    grid = effects.grid()
    assert grid.header == ["sd", "3 seeds", "5 seeds", "8 seeds", "at 0 %", "at 10 %"]
    assert [row[0] for row in grid.rows] == ["0.05", "0.1", "0.2"]
    shown = math.expm1(stats.t.isf(0.025 * 3 / 8 / 2, 7) * 0.05 / math.sqrt(8))
    assert grid.rows[0][3] == f"{100 * shown:.2g} %"
    expected = [[float(row[4]), float(row[5])] for row in grid.rows]
    assert all(9 <= trials <= 24 for row in expected for trials in row)
    assert expected[0][1] < expected[2][1] <= 24, "less noise, fewer trials"
    assert "0.05, 0.1, 0.2 are examples" in effects.words()[-1]


def test_the_sd_of_trials_that_have_ended_is_the_arms_own(plan: Plan, ended: Callable[[Plan], None]) -> None:
    ended(plan.up_to(3))
    effects = Effects.of(plan)
    logs = [math.log(LEVELS["solver"] * off / 10) for off in (0.8, 1.2, 0.8)]
    assert effects.sds["solver"] == pytest.approx(float(stats.tstd(logs)))
    assert effects.unknown == []
    rows = effects.grid().rows
    assert [row[0] for row in rows] == [
        f"{effects.sds['b']:.3g}, b",
        f"{effects.sds['solver']:.3g}, solver",
        "all arms",
    ]
    assert (rows[2][1:4], rows[0][4:]) == (["", "", ""], ["", ""])
    assert len(effects.words()) == 2


def test_the_status_says_whether_a_plan_is_stored(plan: Plan, ended: Callable[[Plan], None]) -> None:
    first = f"3 arms at the scale digits; plan {plan.digest}"
    assert status(plan) == [f"{first}, not stored yet: `harness ablate` stores it before its first run."]
    ended(plan.up_to(3))
    assert status(plan)[1:] == ["- 9 trials ended before the plan was stored. Its tables will say so."]
    preregister(plan)
    stored, *unplanned = status(plan)
    assert stored.startswith(f"{first}, stored 20")
    assert unplanned[0].startswith("- Not planned from the start: 9 trials had ended when this plan was stored")
    assert status(plan.up_to(4))[-1].startswith("- Not planned: no look is at 4 seeds")


def test_remarks_name_guesses_and_failures(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Forecast({}, {"a": Spent(1, 1)}, {"b": "training diverged."})
    outlook = Outlook(plan, 2, NONE, parts(plan))
    lines = remarks(outlook, Placement(2, 1), found)
    assert "b: its small trial gave no times: training diverged." in lines
    held = {arm: memory_of(config) for arm, config in plan.arms.items()}
    largest = max(held, key=held.__getitem__)
    assert memory_needed(plan).startswith(f"A trial of {largest} holds about {size(held[largest])} of memory")
    larger = override(plan.arms["a"], {"backbone.channels": 256})
    assert memory_of(larger) > held["a"]
    assert not any("linear growth" in line or "disk" in line.partition(",")[0] for line in lines[1:])
    train = plan.arms[plan.baseline].train
    work = 2 * len(plan.seeds) * train.steps * train.batch_size  # a and "solver" share their trainings
    alone = f"If all train as fast as {plan.baseline}, the trainings alone take at most {duration(work / 50)}."
    assert trainings_alone(plan, 50) == alone
    many = {arm: override(config, {"evaluate.num_samples": 501}) for arm, config in plan.arms.items()}
    large = dataclasses.replace(outlook, plan=dataclasses.replace(plan, arms=many))
    (line,) = (line for line in remarks(large, Placement(2, 1), found) if "linear growth" in line)
    assert line.startswith("The metrics of a were timed on fewer samples than the study takes.")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 351e6}))
    (line,) = (line for line in remarks(outlook, Placement(2, 1), found) if line.startswith("warning"))
    assert line.startswith("warning: the study needs 352 MB, but the disk of ")
    assert line.endswith(" has only 351 MB free.")


def test_an_arm_that_wastes_its_batches_is_warned_of(plan: Plan) -> None:
    explained = {arm: Explained.of(config) for arm, config in plan.arms.items()}
    (line,) = advice.wasteful(explained)
    assert line.startswith("warning for b: the effective share of a batch is 0.3 %.")
    assert "that of 1 of 32 samples" in line
    advice.warn(plan, Console(file=(log := io.StringIO()), width=400))
    assert f"- {line}" in log.getvalue().splitlines()
    assert not any(Explained.of(config).effective_share() < advice.WASTED for config in (plan.arms["a"],))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arms of each call for small trials; all trials take the same time."""
    asked: list[list[str]] = []

    def fake(plan: Plan, placement: Placement, arms: Collection[str]) -> Forecast:
        asked.append([*arms])
        digests = {training_digest(flow) for arm in arms for flow in plan.arms[arm].flows}
        return Forecast(dict.fromkeys(digests, Spent(60, 1e6)), dict.fromkeys(arms, Spent(30, 0)))

    monkeypatch.setattr(command, "forecast", fake)
    return asked


@pytest.fixture
def small(tmp_path: Any) -> list[str]:
    """The words of a command about a study of two arms in a file."""
    path = tmp_path / "two.py"
    path.write_text(
        "from harness.ablation.design.study import Study\n\n"
        "STUDY = Study(question='Which?', baseline='a', arms={'a': {}, 'b': {'weighting': 'inverse_snr'}},\n"
        "              nfe=2, looks=(3, 5))\n"
    )
    return ["plan", str(path), "--workers", "2", "--set", "evaluate.nfe=[2]", "--set", "evaluate.num_samples=32"]


def test_the_command_prints_all_looks_or_the_requested_ones(
    tried: list[list[str]], small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small) == 0
    said = capsys.readouterr().out
    for text in (
        "Which?",
        "not stored yet",
        "1 of 2",
        "2 of 2",
        "100 %",
        "0.3 %",
        "warning for b",
        "small trials of a, b",
    ):
        assert text in said, text
    assert tried == [["a", "b"]]
    assert not (results_folder() / "local" / "runs").exists()
    assert not (results_folder() / "local" / "plans").exists()
    assert main([*small, "--seeds", "3"]) == 0
    assert "2 of 2" not in capsys.readouterr().out


def test_only_unmeasured_trials_are_tried(
    tried: list[list[str]], small: list[str], score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arm a has a finished trial; its other seeds and arm b have none."""

    def finished(plan: Plan) -> Plan:
        run = plan.run("a", 0)
        if not run.folder.exists():
            score(run, plan.protocol("a"), {2: 5.0})
            steps = run.config.train.steps
            line = f'{{"step": {steps}, "time": 0.0, "samples_per_second": 100.0}}\n'
            (run.folder / "metrics.jsonl").write_text(line)
        return plan

    whole = command.plan_of
    monkeypatch.setattr(command, "plan_of", lambda options, found: finished(whole(options, found)))
    assert main(small) == 0
    assert tried == [["b"]]
