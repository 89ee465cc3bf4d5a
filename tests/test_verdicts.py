"""studies/README.md says what the committed tables say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.ablation.search import load_search
from harness.ablation.study import Study, load_study, studies_folder
from harness.registry import load_file

TABLES = Path(__file__).parent.parent / "results" / "tables"


def declared(variable: str) -> set[str]:
    """The names of the files in studies/ that assign to it."""
    return {path.stem for path in studies_folder().glob("*.py") if f"\n{variable} = " in path.read_text()}


def study_of(name: str) -> Study:
    """What a table compares: a study, or the end of a search."""
    return load_search(name).comparison({}) if name in declared("SEARCH") else load_study(name)


def test_the_list_of_verdicts_is_that_of_the_tables() -> None:
    module = load_file(studies_folder() / "verdicts.py", "verdicts")
    assert (studies_folder() / "README.md").read_text() == module.readme(TABLES)


@pytest.mark.parametrize("table", sorted(TABLES.glob("*-digits.csv")), ids=lambda path: path.stem)
def test_committed_tables_hold_every_arm_and_seed_of_their_study(table: Path) -> None:
    study = study_of(table.stem.removesuffix("-digits"))
    rows = pd.read_csv(table)
    primary = rows[rows.primary]
    assert list(primary.arm) == list(study.arms)
    adaptive = {arm for arm, changes in study.arms.items() if changes.get("evaluate.nfe") == [0]}  # judged at calls of their own
    assert set(primary[~primary.arm.isin(adaptive)].n) == {study.seeds}
    measured = rows[(rows.nfe == 0) & (rows.n > 0)]
    assert (set(measured.arm), set(measured.n) | {study.seeds}) == (adaptive, {study.seeds})
    assert set(primary.nfe) == {study.nfe}


def test_every_study_has_its_table() -> None:
    assert {path.stem.rpartition("-")[0] for path in TABLES.glob("*.md")} - declared("SEARCH") == declared("STUDY")
