"""The cost of a report grows with the number of runs only by one reading of each file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from three_arms import planned

from harness.ablation.design import plan as design
from harness.ablation.design.plan import Plan
from harness.ablation.report import tables
from harness.ablation.report.looks import decided
from harness.ablation.report.outcomes import collect
from harness.core import files
from harness.core.config import override, to_dict
from harness.core.errors import NoValue
from harness.runs import folder
from harness.runs.config import RunConfig
from harness.runs.folder import Run

SEEDS = 6


@pytest.fixture
def plan(tiny: RunConfig, score: Callable[..., None], isolated: None) -> Plan:
    """A study whose runs are evaluated."""
    plan = planned(tiny, seeds=SEEDS)
    for i, (arm, seed) in enumerate(plan.trials()):
        score(plan.run(arm, seed), plan.protocol(arm), {1: 30.0 + i, 2: 20.0 + i})
    return dataclasses.replace(plan)


def test_a_report_names_each_arm_once_and_reads_each_file_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    named = list[RunConfig]()
    read = Counter[Path]()
    judged = list[RunConfig]()

    def counted(into: Any, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *others: Any) -> Any:
            into.update([first]) if into is read else into.append(first)
            return real(first, *others)

        return call

    for module in (design, folder):
        monkeypatch.setattr(module, "training_digest", counted(named, folder.training_digest))
    monkeypatch.setattr(RunConfig, "protocol", counted(judged, RunConfig.protocol))
    monkeypatch.setattr(files, "bytes_of", counted(read, files.bytes_of))
    tables.report(plan, {})
    evaluations = [path for path in read if path.parent.name == "evaluations"]
    assert len(named) == len(judged) == len(plan.arms)
    assert len(evaluations) == SEEDS * len(plan.arms)
    assert max(read.values()) == 1
    read.clear()
    decided(plan)
    assert not plan.unfinished()
    assert not read


def test_an_evaluation_that_was_written_again_is_read_again(plan: Plan, score: Callable[..., None]) -> None:
    before = collect(plan)
    assert not plan.unfinished()
    arm, seed = plan.trials()[-1]
    run, protocol = plan.run(arm, seed), plan.protocol(arm)
    score(run, protocol, {1: 5.0, 2: 4.0})
    changed = collect(plan)
    assert [*changed.value[changed.value != before.value]] == [5.0, 4.0]
    run.evaluation_file(protocol).unlink()
    assert plan.unfinished() == [(arm, seed)]
    assert collect(plan).value.isna().sum() == 2


def test_an_evaluation_with_a_failure_has_ended_without_being_complete(plan: Plan) -> None:
    arm, seed = plan.trials()[0]
    run, protocol = plan.run(arm, seed), plan.protocol(arm)
    assert (run.evaluated(protocol), run.settled(protocol)) == (True, True)
    known = run.evaluation(protocol)
    for by_nfe in known["values"].values():
        del by_nfe["2"]
    run.write_evaluation(protocol, known)
    assert (run.evaluated(protocol), run.settled(protocol)) == (False, False)
    run.note_failure(protocol, "2", NoValue("the solver gave up"))
    for _ in range(2):
        assert (run.evaluated(protocol), run.settled(protocol)) == (False, True)
        assert str(run.failure(protocol)) == "at NFE 2: the solver gave up"


def test_another_seed_gives_the_configuration_that_would_be_built(tiny: RunConfig) -> None:
    reflowed = override(tiny, {"reflow.rounds": 2, "reflow.number": 64, "coupling": "independent"})
    for config in (tiny, reflowed):
        again = config.seeded(3)
        built = dataclasses.replace(config, seed=3)
        assert again == built
        assert [flow.seed for flow in again.flows] == [3] * len(built.flows)
        assert [Run.of(flow) for flow in again.flows] == [Run.of(flow) for flow in built.flows]
        assert to_dict(again) == to_dict(built)
        assert config.seed == 0
