"""`harness publish` and its files: only from finished runs, with a correct entry for every arm, and with old tables
marked.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.ablation.design.plan import Plan
from harness.ablation.design.search import load_search
from harness.ablation.design.search_plan import SearchPlan, compared
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report import committed as committed_module
from harness.ablation.report import hours, published
from harness.ablation.report.committed import earlier
from harness.ablation.report.power import Power, sd_of
from harness.cli import main
from harness.core.errors import UserError
from harness.core.files import results_folder, write_json
from harness.runs.folder import Run

ENDINGS = ("-seeds.csv", ".csv", ".json", ".md")
"""Endings of a table's files, in the order of their names."""
STUDY = """
from harness.ablation.design.study import Study

ARMS = {"a": {"weighting": "uniform"}, "b": {"weighting": "data_end"}}
STUDY = Study(question="Which end?", baseline="a", arms=ARMS, looks=(3,))
"""
SEARCH = """
from harness.ablation.design.search import Search
from harness.ablation.design.space import log

SPACES = {"digits": {"train.learning_rate": log(1e-4, 1e-1)}}
SEARCH = Search(question="Which rate?", spaces=SPACES, trials=2, looks=(3,))
"""


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed results folder of a checkout, with an empty list of verdicts."""
    (studies := tmp_path / "checkout" / "studies").mkdir(parents=True)
    (studies / "README.md").write_text("# What they said\n\nRead this first.\n\n## old-digits\n\nGone.\n")
    for module in (published, committed_module):
        monkeypatch.setattr(module, "studies_folder", lambda: studies)
    return tmp_path / "checkout" / "results"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def judged(plan: Plan, score: Any, last: int | None = None) -> None:
    """Write the evaluations of a plan's trials, or of the first `last` ones."""
    for arm, seed in plan.trials()[:last]:
        values = dict.fromkeys(plan.arms[arm].evaluate.nfe, (8 if arm in ("b", "tuned") else 10) * (1 + seed / 100))
        score(plan.run(arm, seed), plan.protocol(arm), values)


def test_a_study_is_published_once_every_trial_has_ended(
    committed: Path, tmp_path: Path, score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "ends.py").write_text(STUDY)
    plan = Plan.of(load_study(str(file)), "digits", load_scale("digits"), {}, None, [])
    changed = dataclasses.replace(plan, changes={"train.steps": "3"})
    changed.write()
    assert main(["publish", str(file)]) == 2
    assert f"A study that was run with --set ({changed.name}) cannot be published" in capsys.readouterr().err
    before = (committed.parent / "studies" / "README.md").read_text()
    judged(plan, score, last=-1)
    assert main(["publish", str(file)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: ends-digits: 1 of 6 trials have not ended, for example b seed 2 ({plan.run('b', 2).folder}). "
        f"Run `harness ablate {file} "
        "--scale digits` first.\n"
    )
    assert (files(committed.parent), (committed.parent / "studies" / "README.md").read_text()) == (
        ["studies/README.md"],
        before,
    )
    judged(plan, score)
    assert main(["publish", str(file)]) == 0
    assert files(committed) == [
        "figures/ends-digits.png",
        *(f"tables/ends-digits{ending}" for ending in ENDINGS),
    ]
    assert not (results_folder() / "tables").exists()
    readme = (committed.parent / "studies" / "README.md").read_text()
    assert readme.startswith("# What they said\n\nRead this first.\n\n## Verdicts at a glance\n\n| study |")
    assert "| ends-digits | `b` -20% |  |  |  |" in readme
    assert "## ends-digits\n\nWhich end?\n\n" in readme
    # 6 NFEs of one second each, 3 seeds of 2 arms; then 5 and 20 seeds
    assert "| ends-digits | 2 | 1 of 1 | 6 | 0.01 | 10 | 0.017 | 40 | 0.067 |" in readme
    assert "- better than the baseline: `b` -20.0%" in readme
    assert "Gone" not in readme
    assert "earlier version" not in readme + (committed / "tables" / "ends-digits.md").read_text()
    assert main(["table", str(file)]) == 0
    assert files(results_folder() / "local" / "tables") == [f"ends-digits{ending}" for ending in ENDINGS]


def test_a_search_is_published_with_its_trials(
    committed: Path, tmp_path: Path, score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "rates.py").write_text(SEARCH)
    search = load_search(str(file))
    base = load_scale("digits")
    assert main(["publish", str(file)]) == 2
    plan = SearchPlan.of(search, "digits", base, None, [])
    looked = f"error: rates-digits: the search has not ended. Looked in {plan.folder}."
    refusal = f"{looked} Run `harness tune {file} --scale digits` first.\n"
    assert capsys.readouterr().err == refusal
    board = SearchBoard(plan)

    def end_trial(board: SearchBoard, value: float) -> None:
        claimed = board.next()
        assert claimed
        trial, lease = claimed
        lease.close()
        trial.set_user_attr("run", Run.of(plan.config(trial.params)).name)
        board.study.tell(trial, value)

    for value in (5.0, 4.0):
        end_trial(board, value)
        if value == 5.0:
            assert main(["publish", str(file)]) == 2, "one trial of two has ended"
            assert capsys.readouterr().err == refusal
    tuned = compared(search, "digits", base, {}, None, [], board.tuned())
    assert main(["publish", str(file)]) == 2, "the comparison has not run"
    said = capsys.readouterr().err
    assert "rates-digits: 6 of 6 trials have not ended, for example default seed 0 (" in said
    assert f"`harness tune {file} --scale digits`" in said
    end_trial(SearchBoard(SearchPlan.of(search, "digits", base, 3, [])), 6.0)
    judged(tuned, score)
    assert main(["publish", str(file)]) == 0
    assert {f"tables/rates-digits{part}" for part in (".md", "-trials.csv", "-trials.json")} < set(files(committed))
    assert (
        json.loads((committed / "tables" / "rates-digits.json").read_text())["command"]
        == f"harness tune {file} --scale digits --trials 3"
    ), "the search was made longer"
    assert (committed.parent / "studies" / "README.md").read_text().count("\n## ") == 3


def test_an_arm_without_a_verdict_is_in_the_summary_too(tmp_path: Path) -> None:
    verdicts = {"a": "baseline", "b": "unstable", "c": "not compared", "d": "tie"}
    differences = {"b": 0.5, "d": 0.01}
    rows = [
        {"arm": arm, "metric": "fid", "nfe": 2, "n": 3, "difference": differences.get(arm), "low": None, "high": None,
         "primary": True, "verdict": verdict}
        for arm, verdict in verdicts.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "s-digits.csv", index=False)
    *_, line = published.glance([tmp_path / "s-digits.csv"]).splitlines()
    assert line == "| s-digits |  | `d` +1% |  |  | `b` unstable; `c` not compared |"


def test_a_training_that_arms_share_counts_once(tmp_path: Path) -> None:
    """Two arms share a training and one has another, with 2 seeds each; the third arm has one finished seed."""
    seconds = {arm: {"trials": 2, "training": 3600.0, "evaluation": 360.0} for arm in "abc"}
    runs = {"a": ["x-s0", "x-s1"], "b": ["x-s0", "x-s1"], "c": ["y-s0"]}
    verdicts = {"b": {"verdict": "undecided"}, "c": {"verdict": "worse"}, "d": {"verdict": "not compared"}}
    verdicts["a"] = {"verdict": "baseline"}
    write_json(tmp_path / "s-digits.json", {"runs": runs, "seconds": seconds, "verdicts": verdicts})
    *_, row = hours.table([tmp_path / "s-digits.csv"], "").splitlines()
    assert row == "| s-digits | 3 | 1 of 2 | 5 | 3.5 | 15 | 12 | 60 | 46 |"


def test_an_unknown_study_is_refused_in_one_line(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, remedy in (("weightin", "Did you mean 'weighting'?"), ("gallery", "Known: "), ("scales", "Known: ")):
        assert main(["publish", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: '{name}' is not a known study. {remedy}"), said
        assert said.count("\n") == 1
    assert files(committed.parent) == ["studies/README.md"]


VERSIONS = {"numerics_version": 3, "evaluation_version": 2}


def test_a_table_is_marked_while_a_version_is_older_than_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_module, "VERSIONS", VERSIONS)
    text = "# Which?\n\nFID:\n\n| a |\n| --- |\n\n> A quotation.\n"
    for numerics, evaluation in itertools.product([None, 1, 2, 3, 4], [None, 1, 2, 3]):
        about = {"numerics_version": numerics, "evaluation_version": evaluation}
        about = {key: version for key, version in about.items() if version is not None}
        old = (numerics or 1) < 3 or (evaluation or 1) < 2
        once = published.marked(text, about)
        assert ("\n\n> An earlier version of the code made this table: " in once) == old, about
        assert published.marked(once, about) == once, about
        assert published.marked(once, VERSIONS) == text, about


def test_a_table_of_several_scales_names_those_of_an_earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed_module, "VERSIONS", VERSIONS)
    old = {**VERSIONS, "evaluation_version": 1}
    assert earlier({"scales": {"digits": VERSIONS, "cells": VERSIONS}}) is None
    one = earlier({"scales": {"digits": VERSIONS, "cells": old, "points": {}}})
    assert (
        one
        == "An earlier version of the code made the rows of cells, points: the same command gives other numbers now."
    )
    every = earlier({"scales": {"cells": old}})
    assert every == "An earlier version of the code made this table: the same command gives other numbers now."


def committed_table(folder: Path, rows: list[dict[str, Any]], **about: Any) -> Path:
    """Write the files of an invented table with NFE 8 as the primary one."""
    usual = {"arm": "a", "metric": "fid", "nfe": 8, "n": 3, "primary": True, "verdict": "baseline"}
    numbers = {"difference": None, "low": None, "high": None}
    frame = pd.DataFrame([{**usual, **numbers}, *({**usual, **numbers, **row} for row in rows)])
    frame.to_csv(folder / "made-up.csv", index=False)
    plain: dict[str, Any] = {
        "question": "Which?",
        "date": "2026-01-01",
        "plan": "abc",
        "commits": ["def"],
        "runs": {"a": ["1", "2", "3"]},
    }
    plain |= {"primary": {"metric": "fid", "nfe": 8}, **about}
    write_json(folder / "made-up.json", plain)
    return folder / "made-up.csv"


def test_the_committed_texts_are_renewed_and_a_damaged_one_is_named(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committed_module, "VERSIONS", VERSIONS)
    (tables := committed / "tables").mkdir(parents=True)
    text = committed_table(tables, []).with_suffix(".md")
    text.write_text("# Which?\n\n| a |\n")
    (verdicts,) = published.renew()
    told = "> An earlier version of the code made this table: the same command gives other numbers now."
    assert text.read_text() == f"# Which?\n\n{told}\n\n| a |\n"
    assert verdicts.read_text().startswith("# What they said\n\nRead this first.\n\n## made-up\n")
    for path in (text, verdicts):
        whole = path.read_bytes()
        path.write_bytes(b"\xff")
        with pytest.raises(UserError, match=rf"^{path}: cannot be read \(.*\)\. Restore it from the repository\.$"):
            published.renew()
        path.write_bytes(whole)


def test_an_arm_without_a_difference_is_not_compared_and_the_reason_follows(tmp_path: Path) -> None:
    adaptive = [
        {"arm": "adaptive", "n": 0, "verdict": "undecided"},
        {"arm": "adaptive", "nfe": 0, "n": 3, "primary": False, "verdict": None},
    ]
    cases: dict[str, tuple[list[dict[str, Any]], str]] = {
        "adaptive": (adaptive, "its solver chooses its calls, so it has no value at NFE 8"),
        "elsewhere": ([{"arm": "elsewhere", "n": 0, "verdict": "undecided"}], "it has no value at NFE 8"),
        "negative": (
            [{"arm": "negative", "verdict": "undecided"}],
            "its values and the baseline's have no ratio, or no seed in common",
        ),
        "told": (
            [{"arm": "told", "n": 0, "verdict": "not compared", "reason": "it shares no NFE"}],
            "it shares no NFE",
        ),
    }
    for arm, (rows, reason) in cases.items():
        assert f"\n- not compared: `{arm}` ({reason})\n" in published.section(committed_table(tmp_path, rows)), arm
    together = published.section(committed_table(tmp_path, [row for rows, _ in cases.values() for row in rows]))
    assert together.count("- not compared: ") == 1
    assert "nan" not in together
    assert "undecided" not in together


def test_a_single_seed_or_another_verdict_leaves_columns_out(tmp_path: Path) -> None:
    rows = [
        {"arm": "one", "difference": 0.25, "verdict": "undecided"},
        {"arm": "lost", "n": 2, "difference": 0.5, "low": 0.4, "high": 0.6, "verdict": "unstable"},
        {"arm": "gone", "n": 0, "verdict": "unstable", "reason": "5 of 5 diverged"},
        {
            "arm": "left",
            "difference": -0.4,
            "low": -0.5,
            "high": -0.3,
            "verdict": "not compared",
            "reason": "the baseline lost seeds",
        },
        {"arm": "new", "difference": -0.5, "low": -0.6, "high": -0.4, "verdict": "a verdict to come"},
    ]
    said = published.section(committed_table(tmp_path, rows))
    assert "- undecided (these seeds cannot say): `one` +25.0%\n" in said
    assert "- unstable (seeds diverged): `lost` +50.0% (+40.0% to +60.0%); `gone` (5 of 5 diverged)\n" in said
    assert "- not compared: `left` (the baseline lost seeds)" in said
    assert "- a verdict to come: `new` -50.0% (-60.0% to -40.0%)\n" in said
    assert "against `a`, 3 seeds;" in said
    assert "nan" not in said


def test_the_power_of_a_committed_table_is_listed_by_arm(tmp_path: Path) -> None:
    """From its intervals, which are at 95 % if the table has no level."""
    rows: list[dict[str, Any]] = [
        {"arm": "b", "difference": 0.1, "low": 0.0, "high": 0.21, "verdict": "undecided"},
        {"arm": "c", "difference": -0.3, "low": -0.5, "high": -0.02, "verdict": "undecided"},
        {"arm": "d", "difference": -0.5, "low": -0.6, "high": -0.4, "verdict": "not compared", "reason": "so"},
    ]
    powers = {row["arm"]: Power(3, sd_of(row["low"], row["high"], 3, 0.05), 0.025, 2).found for row in rows[:2]}
    told = "; ".join(f"`{arm}` {powers[arm].fall:+.0%} or {powers[arm].rise:+.0%}" for arm in ("c", "b"))
    said = published.section(committed_table(tmp_path, rows))
    assert f"- what these seeds find with 80 % power: {told}\n" in said
