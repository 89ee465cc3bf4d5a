"""An NFE with more samples than the others: the evaluation, the verdicts, and comparisons over NFEs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.search import load_search
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.study import Study, load_scale
from harness.ablation.report import grids, tables
from harness.ablation.report.findings import Report
from harness.cli import evaluate as command
from harness.cli import plans
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.core.files import read_json, write_json
from harness.evaluation.protocol import EvaluateConfig, digest_of
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.mlflow_points import values
from harness.runs.sample import restore, samples
from harness.runs.validate import refuse_idle

MORE = {"evaluate.more_samples": [{"nfe": 2, "num_samples": 128}]}


def judged(run: Run, changes: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Return a finished run judged with changes."""
    run = Run(override(run.config, changes), run.folder)
    judge = judge_of(run.config)
    evaluate(run, restore(run), judge, lambda: False)
    return run, run.evaluation(judge.protocol)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [{"nfe": 2, "num_samples": 65}, {"nfe": 2, "num_samples": 66}],
            r"^more_samples\[1\]\.nfe: 2 is named twice\.",
        ),
        ([{"nfe": 2}], r"^more_samples\[0\]\.num_samples: is needed\."),
        ([{"nfe": 2, "number": 65}], r"^more_samples\[0\]\.number: is not a known field\."),
    ],
)
def test_invalid_more_samples_are_refused(more: list[dict[str, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(EvaluateConfig(num_samples=64), {"more_samples": more})


def test_no_more_samples_are_refused_where_they_are_asked_for(tiny: RunConfig) -> None:
    """In other places, a scale's setting gives way to a larger number, and the protocol is that of a
    scale without it.
    """
    raised = override(tiny, {"evaluate.more_samples": [{"nfe": 2, "num_samples": 128}], "evaluate.num_samples": 128})
    with pytest.raises(ConfigError, match=r"^evaluate\.more_samples\[0\]\.num_samples: 128 must be above num_samples"):
        refuse_idle({"evaluate.more_samples": ""}, [raised])
    refuse_idle({"evaluate.num_samples": 128}, [raised])
    assert raised.evaluate.every_number == (128,)
    assert raised.protocol() == override(tiny, {"evaluate.num_samples": 128}).protocol()


def test_more_samples_at_an_nfe_that_is_not_evaluated_are_refused(tiny: RunConfig) -> None:
    config = override(tiny, {"evaluate.more_samples": [{"nfe": 16, "num_samples": 128}]})
    with pytest.raises(
        ConfigError, match=r"^evaluate\.more_samples\[0\]\.nfe: no run is judged at NFE 16\. .*: 1, 2\.$"
    ):
        refuse_idle({"evaluate.more_samples": ""}, [config])
    refuse_idle({"train.steps": 1}, [config])
    refuse_idle({"evaluate.more_samples": ""}, [config, override(tiny, {"evaluate.nfe": [16]})])


def test_a_protocol_without_them_is_called_as_before(tiny: RunConfig) -> None:
    """The digest is that of a protocol without this field."""
    before = {name: value for name, value in tiny.protocol().plain.items() if name != "more_samples"}
    assert digest_of(before) == tiny.protocol().digest
    assert override(tiny, MORE).protocol().digest != tiny.protocol().digest


def test_their_value_is_that_of_an_evaluation_by_so_many_and_the_first_are_judged_by_themselves(tiny_run: Run) -> None:
    """The reference is the same for all; nothing changes at the other NFE."""
    same = {"evaluate.num_reference": 500}
    many = judged(tiny_run, {**same, "evaluate.num_samples": 128, "evaluate.nfe": [2]})[1]
    few = judged(tiny_run, same)[1]
    run, known = judged(tiny_run, {**same, **MORE})
    assert known["values"] == few["values"]
    assert known["precise"] == {"fid": {"2": {"samples": 128, "value": many["values"]["fid"]["2"]}}}
    assert run.missing(run.config.protocol()) == []
    assert known["sampling_seconds"]["2"] > 0
    lost = known | {"precise": {}}
    run.write_evaluation(run.config.protocol(), lost)
    assert run.missing(run.config.protocol()) == [2]


def test_the_reference_is_large_compared_with_the_most_samples(tiny: RunConfig) -> None:
    assert tiny.protocol().reference["images"] == 8 * 64
    assert override(tiny, MORE).protocol().reference["images"] == 8 * 128


def test_more_samples_start_with_the_same_ones_and_depend_on_the_sampling_seed(tiny_run: Run) -> None:
    trained = restore(tiny_run)
    few, many = (torch.cat([batch.x for batch in samples(tiny_run, trained, 2, number)]) for number in (64, 128))
    assert torch.equal(many[:64], few)
    again = Run(override(tiny_run.config, {"evaluate.sampling_seed": 1}), tiny_run.folder)
    other = torch.cat([batch.x for batch in samples(again, trained, 2, 64)])
    assert not (other == few).flatten(1).all(1).any()
    assert again.folder == Run.of(again.config).folder
    assert again.config.protocol().digest != tiny_run.config.protocol().digest


def test_samples_start_from_the_noise_of_the_evaluation(tiny_run: Run) -> None:
    """What this noise learns, it learns from the data of the run; the protocol names it."""
    trained = restore(tiny_run)
    config = override(tiny_run.config, {"evaluate.noise": "matched"})
    usual, matched = (
        torch.cat([batch.noise for batch in samples(Run(each, tiny_run.folder), trained, 2, 64)])
        for each in (tiny_run.config, config)
    )
    torch.testing.assert_close(matched, usual * tiny_run.data.some().double().std().float())
    assert config.protocol().noise == {"name": "matched", "per_feature": False}
    assert Run.of(config).name == tiny_run.name


def test_a_noise_of_the_evaluation_that_the_data_do_not_fit_is_refused(tiny: RunConfig) -> None:
    other = {"name": "population", "dataset": {"name": "moons", "number": 64}}
    with pytest.raises(ConfigError, match=r"^evaluate\.noise\.dataset: its samples have shape \[2\], but the data"):
        override(tiny, {"evaluate.noise": other}).protocol()


def planned(tiny: RunConfig) -> Plan:
    arms = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, nfe=2, looks=(4,), expected_nfe={"b": (1, 2)})
    return Plan.of(study, "digits", override(tiny, MORE), {}, None, [])


@pytest.fixture
def reported(tiny: RunConfig, score: Callable[..., None]) -> Report:
    """Two arms that differ only over all samples, not over the first ones."""
    plan = planned(tiny)
    rng = np.random.default_rng(0)
    for arm, seed in plan.trials():
        run, protocol = plan.run(arm, seed), plan.protocol(arm)
        few = 10 * math.exp(rng.normal(0, 0.3))
        score(run, protocol, {1: 1.02 * few, 2: few})
        fid = {"a": 5.0, "b": 4.0}[arm] * math.exp(rng.normal(0, 0.01))
        known = run.evaluation(protocol) | {"precise": {"fid": {"2": {"samples": 128, "value": fid}}}}
        write_json(run.evaluation_file(protocol), known)
    return tables.report(plan, {})


def test_verdicts_use_all_samples_and_curves_the_first(reported: Report) -> None:
    plan = reported.plan
    values = {key: plan.run(*key).evaluation(plan.protocol(key[0])) for key in plan.trials()}
    precise = {arm: [values[arm, seed]["precise"]["fid"]["2"]["value"] for seed in plan.seeds] for arm in "ab"}
    ratios = np.log(precise["b"]) - np.log(precise["a"])
    row: Any = reported.summary.rows.set_index(["arm", "nfe"]).loc[("b", 2)]
    assert row.verdict == "better"
    assert row.difference == pytest.approx(math.expm1(ratios.mean()))
    firsts = [[values["b", seed]["values"]["fid"][nfe] for nfe in "12"] for seed in plan.seeds]
    areas = np.sqrt(np.prod(firsts, axis=1))  # the trapezoid of logs over one octave
    assert reported.readouts["b"].area == pytest.approx(areas.mean())


def test_the_table_reports_where_there_are_more(reported: Report, tmp_path: Path) -> None:
    files = {path.suffix: path for path in tables.write(reported, tmp_path, "harness ablate toy")}
    text = files[".md"].read_text()
    assert "| arm | 1 | 2 (128 samples) |" in text
    assert "- Values at NFE 2 use 128 samples, at other NFE 64. A metric such as FID falls with the number" in text
    for ending in ("toy-digits.csv", "toy-digits-seeds.csv"):
        rows = pd.read_csv(files[".md"].with_name(ending))
        assert {*zip(rows.nfe, rows.samples, strict=True)} == {(1, 64), (2, 128)}, ending
    needed = next(grid for grid in grids.grids(reported) if "expected" in grid.header)
    assert needed.rows[0][2] == "1 (1 to 1)", "each seed's first samples are as good at NFE 1, all at NFE 2 are better"
    assert read_json(files[".json"])["protocols"]["a"]["more_samples"] == {"2": 128}


@pytest.mark.usefixtures("undrawn")
def test_real_samples_are_scored_with_both_numbers(reported: Report, tmp_path: Path) -> None:
    plan = reported.plan
    told = plans.report(plan, judge_of(plan.arms["a"]), tmp_path, "harness ablate toy", Console(file=io.StringIO()))
    about = read_json(next(path for path in told.files if path.suffix == ".json"))
    assert about["references_at_primary"]["held_out"]["fid"] < about["references"]["held_out"]["fid"]
    assert about["floor"]["samples"] == 128
    text = next(path for path in told.files if path.suffix == ".md").read_text()
    few, many = (about[name]["held_out"]["fid"] for name in ("references", "references_at_primary"))
    assert f"of held-out samples, as many as generated samples at other NFE than 2: {few:.4g}." in text
    assert f"of held-out samples, as many as generated samples at NFE 2: {many:.4g}." in text


def test_the_curve_in_the_figure_uses_the_first_samples(
    reported: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(tables.figures, "draw", lambda plan, cells, rows, references: drawn.update(rows=rows) or b"")
    tables.write(reported, tmp_path, "")
    plan = reported.plan
    rows = drawn["rows"].set_index(["arm", "nfe"])
    for arm in plan.arms:
        firsts = [plan.run(arm, seed).evaluation(plan.protocol(arm))["values"]["fid"]["2"] for seed in plan.seeds]
        assert [rows.loc[(arm, 2), "mean"], rows.loc[(arm, 2), "sd"]] == pytest.approx(
            [np.mean(firsts), np.std(firsts, ddof=1)]
        )
    assert rows.drop(columns=["mean", "sd"]).equals(
        reported.summary.rows.set_index(["arm", "nfe"]).drop(columns=["mean", "sd"])
    )


def test_a_record_and_the_command_report_both(tiny: RunConfig) -> None:
    run = Run.of(override(tiny, MORE))
    more = {"samples": 128, "value": 2.5, "interval": [2.0, 3.0]}
    known = run.evaluation(run.config.protocol()) | {"values": {"fid": {"1": 9.5, "2": 4.5}}}
    known |= {"precise": {"fid": {"2": more}}, "time": {"1": 1.0, "2": 1.0}}
    sent = values(run, known, [["fid", "2"], ["fid_128_samples", "2"]])
    assert [(point.key, point.value, point.step) for point in sent] == [("fid", 4.5, 2), ("fid_128_samples", 2.5, 2)]
    judge: Any = type("Judged", (), {"protocol": run.config.protocol()})
    digest = run.config.protocol().digest
    assert command._values(run, judge, known) == [
        f"FID 9.5 at NFE 1, 64 samples, protocol {digest}",
        f"FID 4.5 at NFE 2, 64 samples, protocol {digest}",
        f"FID 2.5 (2 to 3) at NFE 2, 128 samples, for verdicts, protocol {digest}",
    ]


def test_a_search_uses_the_number_at_its_nfe() -> None:
    base = load_scale("digits")
    plan = SearchPlan.of(load_search("tuning"), "digits", base, None, [])
    assert base.evaluate.samples_at(32) > base.evaluate.num_samples
    assert plan.base.evaluate.samples_at(32) == plan.base.evaluate.num_samples == base.evaluate.samples_at(32)
