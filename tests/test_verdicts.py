"""The committed files about studies agree: studies, tables, studies/README.md and their versions."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from harness.ablation.design.folder import declaring, studies_folder
from harness.ablation.design.search import WINNER, load_search
from harness.ablation.design.study import Study, load_study
from harness.ablation.report import published
from harness.ablation.report.committed import earlier
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.runs.identity import NUMERICS_VERSION

TABLES = Path(__file__).parent.parent / "results" / "tables"
README = studies_folder() / "README.md"


def study_of(name: str) -> Study:
    """Return what a table compares: a study, or the comparison after a search."""
    return load_search(name).comparison({WINNER: {}}) if name in {*declaring("SEARCH")} else load_study(name)


def section(name: str) -> str:
    """Return the part of studies/README.md about a table."""
    return README.read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_the_list_of_verdicts_is_that_of_the_tables() -> None:
    assert README.read_text() == published.readme(README.read_text(), TABLES)


def test_every_percentage_of_the_summary_is_a_committed_difference() -> None:
    """The hand-written text above the list of verdicts gives differences in whole per cent."""
    head = (studies_folder() / "README.md").read_text().partition("## Verdicts at a glance")[0]
    told = {abs(int(number)) for number in re.findall(r"([+-]?\d+)(?= %| and \d+ %| to \d+ %)", head)}
    tables = [path for path in TABLES.glob("*-*.csv") if not path.stem.endswith(("-trials", "-seeds"))]
    rows = pd.concat(map(pd.read_csv, tables))
    found = rows[rows.primary.fillna(False).astype(bool)].difference.dropna()
    assert told - {5, 10} <= {abs(round(100 * difference)) for difference in found}
    assert len(told) > 10


@pytest.mark.parametrize("path", sorted(TABLES.glob("*-digits.json")), ids=lambda path: path.stem)
def test_committed_tables_hold_every_arm_and_seed_of_their_study(path: Path) -> None:
    """A table of an earlier version has the arms that its study had then."""
    study = study_of(path.stem.removesuffix("-digits"))
    _, arms = study.crossed()
    about = json.loads(path.read_text())
    rows = pd.read_csv(path.with_suffix(".csv"))
    at_primary = (rows.metric == about["primary"]["metric"]) & (rows.nfe == about["primary"]["nfe"])
    primary = rows[at_primary & rows.arm.isin(about["runs"])]  # without main effects
    assert list(primary.arm) == list(about["runs"] if earlier(about) else arms)
    adaptive = {
        arm for arm, changes in arms.items() if changes.get("evaluate.nfe") == [0]
    }  # judged at calls that their solver chose
    counts = {arm: len(runs) for arm, runs in about["runs"].items()}
    assert primary.set_index("arm").n.drop(list(adaptive)).to_dict() == {
        arm: count for arm, count in counts.items() if arm not in adaptive
    }
    measured = rows[(rows.nfe == 0) & (rows.n > 0)].set_index("arm").n
    assert measured.to_dict() == {arm: counts[arm] for arm in adaptive}
    assert set(primary.nfe) == {study.nfe}
    if earlier(about) is None:
        assert set(counts.values()) <= set(study.looks)


def test_every_arm_is_listed_once_with_its_difference_or_as_not_compared() -> None:
    for table in TABLES.glob("*-*.csv"):
        if table.stem.endswith(("-trials", "-seeds")):
            continue
        rows = pd.read_csv(table)
        said, _, found = section(table.stem).partition("- what these seeds find")
        for row in rows[rows.primary & (rows.verdict != "baseline")].itertuples():
            line = next(line for line in said.splitlines() if f"`{row.arm}` " in line and line.startswith("- "))
            assert said.count(f"`{row.arm}` ") == 1, (table.stem, row.arm)
            difference = float(str(row.difference))
            known = not math.isnan(difference)
            assert f"`{row.arm}` " + (f"{100 * difference:+.1f}%" if known else "(") in line, (table.stem, row.arm)
            assert line.startswith("- not compared: ") != known, (table.stem, row.arm)
            varies = known and str(row.low) != str(row.high)  # equal runs have no sd
            assert found.count(f"`{row.arm}` ") == varies, (table.stem, row.arm)


def test_an_adaptive_solver_is_not_compared_and_the_reason_is_given() -> None:
    line = next(line for line in section("solver-digits").splitlines() if "dopri5 1e-2" in line)
    assert line.startswith("- not compared: ")
    assert "8" in line


def test_no_text_has_nan_for_a_number() -> None:
    for path in [README, *TABLES.glob("*.md"), *TABLES.glob("*.json")]:
        assert not re.search(r"\b[+-]?nan\b", path.read_text(), re.IGNORECASE), path.name


def test_a_table_of_an_earlier_version_says_so() -> None:
    now = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
    tables = sorted(TABLES.glob("*.md"))
    assert len(tables) > 15
    for path in tables:
        about = json.loads(path.with_suffix(".json").read_text())
        old = any(part.get(key, 1) < now[key] for part in about.get("scales", {"": about}).values() for key in now)
        texts = [path.read_text(), *([section(path.stem)] if "-" in path.stem else [])]
        assert ["An earlier version of the code made" in text for text in texts] == [old] * len(texts), path.name
        assert path.read_text() == published.marked(path.read_text(), about), path.name


def test_a_table_names_its_versions_or_none_and_the_protocol_agrees() -> None:
    for path in TABLES.glob("*-*.json"):
        about = json.loads(path.read_text())
        protocols = list(about["protocols"].values()) if "protocols" in about else [about["judged by"]["protocol"]]
        assert {protocol.get("version", 1) for protocol in protocols} == {about.get("evaluation_version", 1)}, path.name
        assert ("numerics_version" in about) == ("evaluation_version" in about), path.name


def test_every_study_has_its_table() -> None:
    tables = {path.stem.rpartition("-")[0] for path in TABLES.glob("*-*.md")} - {*declaring("SEARCH")}
    assert tables == {*declaring("STUDY")}
