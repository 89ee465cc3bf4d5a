"""The stored plan before the first run, and a table's notes about unplanned parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from three_arms import ARMS, STUDY, measure, planned

from harness.ablation.design.preregistration import preregister, stored, unplanned
from harness.ablation.report import tables
from harness.ablation.report.looks import decided
from harness.core.errors import UserError
from harness.core.files import results_folder
from harness.runs.config import RunConfig


def test_a_plan_is_stored_once_before_its_first_run(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    preregister(plan)
    (first,) = stored(plan)
    assert (first["plan"], first["ended"], first["design"]["looks"]) == (plan.digest, 0, [3, 5, 8])
    measure(plan, score)
    for later in (plan, plan.up_to(5), decided(plan.up_to(8))):
        preregister(later)
        assert (stored(later), unplanned(later)[:1]) == ([first], [] if len(later.seeds) in later.looks.seeds else [""])


def test_a_plan_that_changes_after_runs_have_ended_says_so(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    preregister(plan)
    measure(plan, score)
    arms = {**ARMS, "b": {"weighting": "snr"}, "d": {"train.steps": 9}}
    del arms["c"]
    changed = planned(tiny, dataclasses.replace(STUDY, looks=(3, 20), smallest_difference=0.05, arms=arms))
    preregister(changed)
    (line,) = unplanned(changed)
    now = stored(changed)[-1]
    assert line == (
        f"Not planned from the start: 3 trials had ended when this plan was stored ({now['stored']} UTC): smallest "
        "difference 0.1 became 0.05; looks [3, 5, 8] became [3, 20]; new: d; gone: c; changed: b."
    )
    assert unplanned(plan) == []


def test_a_plan_that_changes_before_it_is_only_reported_says_so(tiny: RunConfig, score: Any) -> None:
    """`harness table` and `harness publish` store no plan."""
    plan = planned(tiny)
    changed = planned(tiny, dataclasses.replace(STUDY, smallest_difference=0.2))
    assert unplanned(changed) == []
    preregister(plan)
    measure(plan, score)
    line = (
        f"Not planned: the runs were made for the plan of {stored(plan)[-1]['stored']} UTC. Since then: smallest "
        "difference 0.1 became 0.2."
    )
    assert unplanned(changed) == [line]
    assert line in tables.report(changed, {}).notes


def test_another_question_is_reported(tiny: RunConfig, score: Any) -> None:
    plan = planned(tiny)
    preregister(plan)
    measure(plan, score)
    reworded = planned(tiny, dataclasses.replace(STUDY, question="Which?"))
    preregister(reworded)
    (line,) = unplanned(reworded)
    assert line.endswith(": question Which end? became Which?.")


def test_a_plan_that_changes_before_any_run_was_planned(tiny: RunConfig) -> None:
    preregister(planned(tiny))
    changed = planned(tiny, dataclasses.replace(STUDY, smallest_difference=0.05))
    preregister(changed)
    assert (len(stored(changed)), unplanned(changed)) == (2, [])


@pytest.mark.parametrize(
    ("seeds", "extra"),
    [(2, "2 seeds take"), (3, ""), (4, "seed takes"), (7, "2 seeds take"), (8, ""), (11, "3 seeds take")],
)
def test_seeds_that_are_not_a_look_are_reported(tiny: RunConfig, seeds: int, extra: str) -> None:
    lines = unplanned(planned(tiny, seeds=seeds))
    said = f"Not planned: no look is at {seeds} seeds (looks are at 3, 5, 8); the last {extra} no part in the verdicts."
    assert lines == ([said] if extra else [])


def test_a_damaged_store_of_plans_is_one_line(tiny: RunConfig) -> None:
    plan = planned(tiny)
    preregister(plan)
    (results_folder() / "local" / "plans" / "toy-digits.json").write_text("[3]")
    with pytest.raises(UserError, match=r"toy-digits\.json: cannot be read .* stores the plan again"):
        stored(plan)


def test_a_study_with_changes_has_a_different_name(tiny: RunConfig) -> None:
    """Settings of how a run is carried out are not changes: threads, device, logging interval."""
    plain = planned(tiny)
    assert plain.name == "toy-digits"
    carried_out = {"train.threads": 7, "train.device": "cpu", "train.log_every": 5}
    assert planned(tiny, changes=carried_out).name == "toy-digits"
    names = {planned(tiny, changes={"train.steps": steps}).name for steps in (20, 21)}
    assert len(names) == 2
    assert all(name.startswith("toy-digits-") and len(name) == len("toy-digits-") + 6 for name in names)
    both = planned(tiny, changes={"train.steps": 20, "train.threads": 7})
    assert both.name in names
    assert both.changes == {"train.steps": "20"}


@pytest.mark.usefixtures("undrawn")
def test_the_values_of_every_seed_are_exported_with_the_settings(tiny: RunConfig, score: Any, tmp_path: Path) -> None:
    measure(plan := planned(tiny), score)
    paths = tables.write(tables.report(plan, {}), tmp_path, "harness ablate toy")
    rows = pd.read_csv(next(path for path in paths if path.name == "toy-digits-seeds.csv"))
    assert len(rows) == 3 * 3 * 2
    assert set(rows.state) == {"measured"}
    by_arm = rows.groupby("arm").settings.first()
    assert json.loads(by_arm["b"]) == {"weighting": "data_end", "weighting.power": 2.0}
    assert rows[(rows.arm == "a") & (rows.nfe == 2)].value.tolist() == [10.0] * 3
