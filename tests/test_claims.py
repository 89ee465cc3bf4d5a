"""Claims of papers: verdicts against SciPy, refusals, predictions that are older than the runs, and the command."""

from __future__ import annotations

import ast
import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.__main__ import main
from harness.ablation.design.claim import CALLS, Claim, Column, Ordering, Relation, Tie, Trend
from harness.ablation.design.folder import papers_folder, studies_folder
from harness.ablation.design.looks import LEVEL, Looks
from harness.ablation.design.paper import PAPER, PaperTable, Row, arm_of, load_paper, paper_names
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.report import beside, claims_page
from harness.ablation.report.claims import FAILS, HOLDS, UNDECIDED, Measured, judge
from harness.cli.compare import offered, plans_of, refuse_unmeasured, scale_of
from harness.core.config import override, to_dict
from harness.core.errors import UserError
from harness.core.files import results_folder, write_json
from harness.core.provenance import ROOT
from harness.runs.config import RunConfig

FOLDER = Path(__file__).parent.parent / "results"
LOOKS = Looks((4, 8))
TABLES = [load_paper(name) for name in paper_names()]
CLAIMS = [(table, key) for table in TABLES for key in table.claims]


def named(parameter: PaperTable | str) -> str:
    """Return the words for a parameter in the name of a test."""
    return parameter.name if isinstance(parameter, PaperTable) else parameter


def measured(values: Mapping[str, Sequence[float]], calls: Mapping[str, Sequence[float]] | None = None) -> Measured:
    """Return a study with these values by seed at NFE 8."""
    rows = [
        {"arm": arm, "seed": seed, "metric": "fid", "nfe": 8, "value": value, "state": "measured",
         "calls": (calls or {arm: [8.0] * len(own)})[arm][seed]}
        for arm, own in values.items()
        for seed, value in enumerate(own)
    ]  # fmt: skip
    return Measured("made_up", pd.DataFrame(rows), LOOKS, ("abc",), Path("made_up.csv"))


def table(*parts: Relation, metric: str = "fid", margin: float = 0.1) -> PaperTable:
    """Return a published table with one claim over rows a, b and c."""
    claim = Claim(says="It is.", parts=parts, expected="holds", because="so", smallest_difference=margin)
    published = {"a": 2.0, "b": 4.0, "c": 8.0}
    return PaperTable(
        paper="Nobody 2026",
        scale="cifar10",
        rows={row: Row(published={"FID": value}) for row, value in published.items()},
        columns={
            "FID": Column(study="made_up", arms={row: row for row in "abc"}, nfe=8, metric=metric, published="FID")
        },
        claims={"one": claim},
        name="nobody2026",
    )


def drawn(mean: float, sd: float, n: int = 4, seed: int = 0) -> list[float]:
    """Return values of n seeds with this mean and sd of their logarithms, exactly."""
    noise = np.random.default_rng(seed).normal(size=n)
    return np.exp(mean + sd * (noise - noise.mean()) / noise.std(ddof=1)).tolist()


def test_an_ordering_is_a_paired_t_test_at_the_level_of_the_look() -> None:
    """By SciPy: the level of the claim, divided over its two contrasts and the looks."""
    values = {"a": drawn(0.0, 0.05, seed=1), "b": drawn(0.4, 0.05, seed=2), "c": drawn(0.8, 0.05, seed=3)}
    judged = judge(table(Ordering("FID", ["a", "b", "c"])), "one", {"made_up": measured(values)})
    assert judged.word == HOLDS
    first, _ = judged.effects
    ratios = np.log(values["a"]) - np.log(values["b"])
    level = LEVEL / 2 * 4 / 8
    low, high = stats.ttest_1samp(ratios, 0).confidence_interval(1 - level)
    assert first.comparison is not None
    assert (first.comparison.low, first.comparison.high) == pytest.approx((np.expm1(low), np.expm1(high)))
    assert first.published == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("relation", "logs", "sd", "word"),
    [
        (Ordering("FID", ["a", "b"]), (0.0, 0.5), 0.01, HOLDS),
        (Ordering("FID", ["a", "b"]), (0.5, 0.0), 0.01, FAILS),
        (Ordering("FID", ["a", "b"]), (0.0, 0.02), 0.001, HOLDS),  # smaller than matters, and found
        (Ordering("FID", ["a", "b"]), (0.0, 0.0), 0.01, FAILS),  # a tie
        (Ordering("FID", ["a", "b"]), (0.0, 0.5), 2.0, UNDECIDED),
        (Tie("FID", ["a", "b"]), (0.0, 0.0), 0.01, HOLDS),
        (Tie("FID", ["a", "b"]), (0.0, 0.02), 0.001, HOLDS),  # found, and smaller than matters
        (Tie("FID", ["a", "b"]), (0.0, 0.5), 0.01, FAILS),
        (Tie("FID", ["a", "b"]), (0.0, 0.09), 0.03, UNDECIDED),  # found, and perhaps smaller than matters
        (Tie("FID", ["a", "b"]), (0.0, 0.0), 2.0, UNDECIDED),
    ],
)
def test_a_relation_holds_does_not_hold_or_is_undecided(
    relation: Relation, logs: tuple[float, float], sd: float, word: str
) -> None:
    values = {"a": drawn(logs[0], sd, seed=1), "b": drawn(logs[1], sd, seed=2), "c": [1.0] * 4}
    assert judge(table(relation), "one", {"made_up": measured(values)}).word == word


def test_a_trend_is_the_slope_of_the_logarithm_by_seed() -> None:
    values = {"a": drawn(0.9, 0.1, seed=1), "b": drawn(0.9, 0.1, seed=2), "c": drawn(0.0, 0.1, seed=3)}
    judged = judge(table(Trend("FID", ["a", "b", "c"])), "one", {"made_up": measured(values)})
    slopes = [stats.linregress([0, 1, 2], np.log([values[row][seed] for row in "abc"])).slope for seed in range(4)]
    low, high = stats.ttest_1samp(slopes, 0).confidence_interval(1 - LEVEL * 4 / 8)
    (effect,) = judged.effects
    assert effect.comparison is not None
    assert judged.word == HOLDS  # lower and lower on average, though not from a to b
    assert effect.comparison.difference == pytest.approx(np.expm1(np.mean(slopes)))
    assert (effect.comparison.low, effect.comparison.high) == pytest.approx((np.expm1(low), np.expm1(high)))
    assert effect.published == pytest.approx(1.0)  # 2, 4, 8
    assert judge(table(Trend("FID", ["c", "b", "a"])), "one", {"made_up": measured(values)}).word == FAILS


def test_a_claim_holds_if_all_parts_hold_and_fails_if_one_does() -> None:
    values = {"a": drawn(0.0, 0.01, seed=1), "b": drawn(0.5, 0.01, seed=2), "c": drawn(0.5, 2.0, seed=3)}
    known = {"made_up": measured(values)}
    assert judge(table(Ordering("FID", ["a", "b"]), Ordering("FID", ["a", "c"])), "one", known).word == UNDECIDED
    assert judge(table(Ordering("FID", ["b", "a"]), Ordering("FID", ["a", "c"])), "one", known).word == FAILS


def test_equal_runs_tie() -> None:
    values = {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 2.0, 3.0, 4.0], "c": [1.0] * 4}
    of = table(Tie("FID", ["a", "b"]))
    judged = judge(of, "one", {"made_up": measured(values)})
    assert judged.word == HOLDS
    assert beside.cells(judged.effects[0])[1:] == ["+0.0%", "+0.0% to +0.0%", "4", ""]


def test_a_later_look_decides_and_a_decided_look_stays() -> None:
    early = drawn(0.0, 0.8, seed=1)
    values = {"a": early + drawn(-1.0, 0.01, seed=2), "b": [1.0] * 8, "c": [1.0] * 8}
    first = judge(
        table(Ordering("FID", ["a", "b"])), "one", {"made_up": measured({k: v[:4] for k, v in values.items()})}
    )
    assert first.word == UNDECIDED
    values = {"a": drawn(-1.0, 0.1, seed=1) + drawn(3.0, 0.1, seed=2), "b": [1.0] * 8, "c": [1.0] * 8}
    (effect,) = judge(table(Ordering("FID", ["a", "b"])), "one", {"made_up": measured(values)}).effects
    assert (effect.word, effect.comparison and effect.comparison.n) == (HOLDS, 4)


def test_fewer_calls_are_better() -> None:
    calls = {"a": drawn(4.0, 0.01, seed=1), "b": drawn(5.0, 0.01, seed=2), "c": [9.0] * 4}
    known = {"made_up": measured({row: [1.0] * 4 for row in "abc"}, calls)}
    assert judge(table(Ordering("FID", ["a", "b"]), metric=CALLS), "one", known).word == HOLDS


def test_a_partial_study_and_a_lost_seed_are_undecided_and_say_why() -> None:
    values = {"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}
    (effect,) = judge(table(Tie("FID", ["a", "b"])), "one", {"made_up": measured(values)}).effects
    assert (effect.word, effect.comparison, effect.why) == (UNDECIDED, None, "2 of 4 seeds")
    known = measured({row: [1.0] * 4 for row in "abc"})
    known.rows.loc[1, "state"] = "diverged"
    (effect,) = judge(table(Tie("FID", ["a", "b"])), "one", {"made_up": known}).effects
    assert (effect.word, effect.why) == (UNDECIDED, "1 of 4 seeds have no value")


def test_values_stand_beside_the_published_ones_with_intervals_of_scipy() -> None:
    values = {"a": drawn(0.0, 0.3, seed=1), "b": drawn(1.0, 0.3, seed=2), "c": drawn(2.0, 0.3, seed=3)}
    found = beside.values(table(Tie("FID", ["a", "b"])), {"made_up": measured(values)}).set_index("row")
    low, high = stats.t.interval(0.95, 3, np.mean(values["b"]), stats.sem(values["b"]))
    assert found.ours["b"] == pytest.approx((low + high) / 2)
    assert found.half_width["b"] == pytest.approx((high - low) / 2)
    assert (found.published["b"], found.published_difference["b"]) == (4.0, 1.0)
    assert found.difference["b"] == pytest.approx(stats.gmean(values["b"]) / stats.gmean(values["a"]) - 1)
    assert np.isnan(found.difference["a"])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([Tie("FIDD", ["a", "b"])], "claim one: 'FIDD' is not a column. Did you mean 'FID'?"),
        ([Tie("FID", ["a", "d"])], "claim one: 'd' is not a row of FID. Known: a, b, c."),
    ],
)
def test_a_claim_over_rows_that_do_not_exist_is_refused(parts: list[Relation], said: str) -> None:
    with pytest.raises(UserError) as caught:
        table(*parts)
    assert str(caught.value) == said


def test_a_table_without_a_scale_and_a_value_without_ratios_are_refused() -> None:
    of = table(Tie("FID", ["a", "b"]))
    with pytest.raises(UserError, match="a table needs a scale, and each column an arm"):
        replace(of, scales=())
    with pytest.raises(UserError, match=r"row a: FID 0\.0 is not positive"):
        replace(of, rows={**of.rows, "a": Row(published={"FID": 0.0})})


def test_one_row_and_no_part_are_refused() -> None:
    with pytest.raises(UserError, match="two or more different rows"):
        Ordering("FID", ["a", "a"])
    with pytest.raises(UserError, match="no parts"):
        table()


def test_an_arm_that_the_study_lacks_is_told_with_its_claim() -> None:
    known = {"made_up": measured({"a": [1.0] * 4, "bb": [1.0] * 4})}
    with pytest.raises(UserError, match=r"nobody2026, claim one: 'b' is not an arm of made_up\. Did you mean 'bb'\?"):
        judge(table(Tie("FID", ["a", "b"])), "one", known)


@pytest.mark.parametrize("of", TABLES, ids=lambda table: table.name)
def test_every_column_names_arms_and_places_of_its_study(of: PaperTable) -> None:
    for name, column in of.at(of.scales[0]).columns.items():
        plan = Plan.of(load_study(column.study).as_written(), of.scales[0], load_scale(of.scales[0]), {}, None, [])
        assert {*column.arms.values()} <= {*plan.arms}
        for arm in column.arms.values():
            assert column.nfe in plan.arms[arm].evaluate.nfe or column.metric == "straightness"
        assert not column.published or any(of.published(name, row) is not None for row in column.arms)


def test_at_the_scale_of_the_paper_rows_are_their_own_configurations() -> None:
    of = load_paper("tong2024_table5")
    paper = of.at(PAPER)
    study = of.paper_study()
    assert paper.studies == [study.name] == ["tong2024_table5_paper"]
    assert {*paper.claims} == {*of.claims}
    arms = {arm for column in paper.columns.values() for arm in column.arms.values()}
    assert arms == {*study.arms} == {arm_of(row, columns) for row in of.rows for columns in of.evaluations}
    plan = Plan.of(study, of.scale, load_scale(of.scale), {}, None, [])
    assert plan.arms["I-CFM, dopri5"].evaluate == of.configurations("I-CFM")["dopri5"].evaluate
    assert plan.arms["VP-FM, dopri5"].interpolant == of.configurations("VP-FM")["dopri5"].interpolant


def source(text: str, key: str) -> str:
    """Return a claim as the text of a file in studies/papers/ states it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and node.arg == "claims" and isinstance(node.value, ast.Dict):
            for name, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key:
                    return ast.unparse(value)
    return ""


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("of", "key"), CLAIMS, ids=named)
def test_a_claim_is_older_than_the_runs_that_judge_it(of: PaperTable, key: str) -> None:
    """Every run's commit holds the claim and its prediction as they are now, or the claim says that it came after."""
    path = papers_folder() / f"{of.name}.py"
    now = source(path.read_text(), key)
    assert now
    commits = set[str]()
    for study in {of.columns[part.column].study for part in of.claims[key].parts}:
        about = FOLDER / "tables" / f"{study}-{of.scales[0]}.json"
        commits |= {*json.loads(about.read_text())["commits"]} if about.exists() else set()
    if any(git("cat-file", "-e", commit).returncode for commit in commits):
        pytest.skip("this checkout lacks the commits of the runs")
    before = [git("show", f"{commit}:{path.relative_to(studies_folder().parent)}") for commit in commits]
    stated = all(found.returncode == 0 and source(found.stdout, key) == now for found in before)
    assert of.claims[key].after or stated


def test_the_committed_page_is_that_of_the_tables() -> None:
    known, missing = claims_page.all_claims()
    assert (FOLDER / "tables" / "claims.md").read_text() == claims_page.page(known, missing)
    assert (FOLDER / "tables" / "claims.csv").read_text() == claims_page.rows(known).to_csv(index=False)


def test_what_the_page_says_of_dit_is_in_its_tables() -> None:
    """No search took its smallest or largest rate, and no patch differs from that of 2 pixels by the study's test."""
    searches = [*(FOLDER / "tables").glob("peebles2023_tables-*-trials.csv")]
    assert len(searches) == 5
    for path in searches:
        trials = pd.read_csv(path)
        rates = trials["train.learning_rate"]
        assert len(rates) == 6
        assert rates.min() < rates.iloc[int(trials["value"].argmin())] < rates.max()
    rows = pd.read_csv(FOLDER / "tables" / "peebles2023_tables-digits.csv").query("primary").set_index("arm")
    patches = rows.loc[["width 32, patch 4", "width 32, patch 1"]]
    assert (patches.verdict == "undecided").all()
    assert (patches.difference.abs() < 0.1).all()


def test_what_the_page_says_of_long_training_is_in_its_rows() -> None:
    rows = pd.read_csv(FOLDER / "tables" / "claims.csv")
    found = rows[rows.table == "esser2024_tables"].set_index("claim").verdict
    assert found["a, 25 steps"] == found["a, longer"] == HOLDS
    assert found["a, 25 steps, late"] == FAILS


def test_there_are_at_least_25_claims() -> None:
    assert len(CLAIMS) >= 25


def test_the_command_prints_a_table_from_committed_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "liu2023_table1", "--format", "markdown"]) == 0
    said = capsys.readouterr().out
    assert "| 2-rectified, one step | 12.21 |" in said
    assert "The flow is straighter after every round." in said
    assert main(["compare", "liu2023_table1", "--format", "csv"]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out)).columns.tolist() == ["table", "scale", *beside.COLUMNS]
    assert main(["compare", "liu2023_table1", "--format", "latex"]) == 0
    assert r"\toprule" in capsys.readouterr().out


@pytest.mark.parametrize(("of", "scale"), [(of, scale) for of in TABLES for scale in offered(of)], ids=named)
def test_a_table_has_an_arm_and_a_metric_for_every_column_at_the_scales_that_it_offers(
    of: PaperTable, scale: str
) -> None:
    refuse_unmeasured(of.at(scale), plans_of(of, scale))


def test_every_table_is_offered_at_its_scales() -> None:
    for of in TABLES:
        assert [scale for scale in offered(of) if scale != PAPER] == [*of.scales]
    assert {scale for of in TABLES for scale in of.scales} == {"digits", "points", "cells", "cifar10_small"}


def test_at_another_scale_a_column_has_the_metric_of_the_scale_and_claims_have_no_prediction() -> None:
    of = load_paper("tong2024_table5")
    at = of.at("points")
    metrics = {name: column.metric for name, column in at.columns.items()}
    distance = "sliced_wasserstein"
    assert metrics == {"FID, Euler-100": distance, "FID, dopri5": distance, "NFE, dopri5": CALLS}
    assert {claim.expected for claim in at.claims.values()} == {None}
    assert of.at("digits").claims == of.claims
    plans = [plans_of(of, scale)["tong2024_table5"].arms["I-CFM"].evaluate for scale in ("digits", "points")]
    assert [plan.num_samples for plan in plans] == [800, load_scale("points").evaluate.num_samples]


def test_a_column_that_its_study_does_not_measure_is_refused() -> None:
    of = load_paper("tong2024_table5").at("digits")
    column = of.columns["FID, Euler-100"]
    wrong = {
        "has no kid at NFE 100": replace(column, metric="kid"),
        "has no fid at NFE 64": replace(column, nfe=64),
        "'OT' is not an arm of tong2024_table5": replace(column, arms={"OT-CFM": "OT"}),
        "its arms differ in": replace(column, study="solver", nfe=8, arms={"a": "euler", "b": "few"}),
    }
    solver = plans_of(replace(of, columns={"FID": replace(column, study="solver")}, claims={}), "digits")["solver"]
    few = override(solver.arms["euler"], {"evaluate.more_samples": []})
    plans = plans_of(of, "digits") | {"solver": replace(solver, arms={**solver.arms, "few": few})}
    for said, each in wrong.items():
        with pytest.raises(UserError, match=said):
            refuse_unmeasured(replace(of, columns={"FID, Euler-100": each}, claims={}), plans)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["esser2024_tables", "--scale", "paper"], "esser2024_tables is not offered at the scale 'paper'."),
        (["liu2023"], "'liu2023' is not a known table of a paper. Did you mean 'liu2023_table1'?"),
        (["liu2023_table1", "--scale", "digit"], "'digit'. Did you mean 'digits'?"),
    ],
)
def test_an_unknown_table_and_scale_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "ablate", "table", "plan"])
def test_a_published_table_that_is_no_study_is_told_apart(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "liu2023_table1"]) == 2
    assert "'liu2023_table1' is a published table and declares no study. `harness compare" in capsys.readouterr().err


def test_a_table_without_values_of_ours_is_refused() -> None:
    with pytest.raises(UserError, match=r"^liu2023_table1: no column has values of ours\."):
        scale_of(replace(load_paper("liu2023_table1"), columns={}, claims={}), None)


def test_a_tuned_setting_differs_from_the_papers_in_every_row() -> None:
    """The studies' learning rates come from searches, whatever the scale has."""
    of = load_paper("peebles2023_tables")
    shared, *_ = beside.protocols(of, "digits")
    assert "train.learning_rate 0.0001 in the paper, tuned here" in shared
    same = load_scale("digits").train.learning_rate
    shared, *_ = beside.protocols(replace(of, stated={**of.stated, "train.learning_rate": same}), "digits")
    assert f"train.learning_rate {same} in the paper, tuned here" in shared


SMALL = """
from harness.ablation.design.claim import Claim, Column, Ordering
from harness.ablation.design.paper import PaperTable, Row
from harness.ablation.design.study import Study

STUDY = Study(
    question="Which path?", baseline="linear", nfe=2, looks=(3,),
    arms={"linear": {"interpolant": "linear"}, "gvp": {"interpolant": "gvp"}},
)
TABLE = PaperTable(
    paper="Nobody 2026, table 1",
    scale="large",
    scales=("small",),
    rows={
        "linear": Row(stated={"interpolant": "linear"}, published={"FID": 4.0}),
        "gvp": Row(stated={"interpolant": "gvp"}, lacks={"their data": "digits"}, published={"FID": 5.0}),
    },
    columns={"FID": Column(study="nobody", arms={"linear": "linear", "gvp": "gvp"}, nfe=2, published="FID")},
    claims={
        "a": Claim(
            says="Straight is better.", parts=[Ordering("FID", ("linear", "gvp"))], expected="holds", because="so"
        )
    },
)
"""


@pytest.mark.slow
def test_the_command_trains_what_is_missing_at_both_scales(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "studies" / "papers").mkdir(parents=True)
    configs = {"small": to_dict(tiny), "large": to_dict(override(tiny, {"train.steps": 14}))}
    parsed = ", ".join(f"{name!r}: RunConfig.parse({config!r})" for name, config in configs.items())
    (tmp_path / "studies" / "scales.py").write_text(
        f"from harness.runs.config import RunConfig\nSCALES = {{{parsed}}}\n"
    )
    (tmp_path / "studies" / "papers" / "nobody.py").write_text(SMALL)
    monkeypatch.setenv("HARNESS_STUDIES", str(tmp_path / "studies"))
    assert main(["compare", "nobody", "--workers", "1", "--format", "csv"]) == 0
    values, beside_them = capsys.readouterr()
    rows = pd.read_csv(io.StringIO(values))  # nothing but the values, though it trained
    assert "nobody-small: no table yet, so its study starts now (`harness plan nobody --scale small`" in beside_them
    assert rows.seeds.tolist() == [3, 3]
    assert main(["compare", "nobody"]) == 0  # trained already
    said = capsys.readouterr().out
    assert "3 seeds" in said
    assert "Straight is better." in said
    about = results_folder() / "local" / "tables" / "nobody-small.json"
    write_json(about, json.loads(about.read_text()) | {"numerics_version": 0})
    assert Measured.read(results_folder() / "local", "nobody", "small") is None  # of an earlier version
    assert main(["compare", "nobody", "--scale", PAPER, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "gvp: their data; here: digits" in said  # before anything starts
    assert "ours / published" in " ".join(said.split())
    written = results_folder() / "local" / "reports" / "papers" / "nobody-paper.html"
    assert "<li>gvp: their data; here: digits</li>" in written.read_text()
    runs = Plan.of(load_paper("nobody").paper_study(), "large", load_scale("large"), {}, None, [])
    assert {run.config.train.steps for run in (runs.run(*trial) for trial in runs.trials())} == {14}
    assert not runs.unfinished()
