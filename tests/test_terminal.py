"""Tables on a terminal of 80 columns: whole columns in parts, whole values, and the verdicts last."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.report import tables, terminal, verdicts
from harness.ablation.report.findings import Report
from harness.ablation.report.grid import Grid
from harness.ablation.report.summary import summarise

TABLES = Path(__file__).parent.parent / "results" / "tables"
LONG = "a_name_of_25_letters_with_"


def printed(grid: Grid, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    grid.show(console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def committed(text: str) -> list[Grid]:
    """Return the tables of a Markdown file."""
    found = []
    for title, block in re.findall(r"^(.+):\n\n((?:\|.*\n)+)", text, re.M):
        header, _, *rows = ([cell.strip() for cell in line[1:-2].split(" |")] for line in block.splitlines())
        found.append(Grid(title, header, rows))
    return found


def require_whole(grid: Grid, width: int = 80) -> None:
    """Check that no line is too long, and every value is unbroken in a line that begins with its row's name.

    A name longer than half the width wraps.
    """
    lines = printed(grid, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for name, *values in grid.rows:
        start = name if len(name) <= width // 2 else name[: width // 2].rpartition(" ")[0]
        own = " ".join(line for line in lines if line.startswith(start))
        assert [value for value in values if value not in own] == [], (grid.title, name)


def test_every_committed_table_fits_80_columns() -> None:
    grids = [grid for path in sorted(TABLES.glob("*.md")) for grid in committed(path.read_text())]
    fitting = [grid for grid in grids if "settings" not in grid.header]  # settings are only in files
    assert len(fitting) > 60
    assert any(not grid.fits(80) for grid in fitting)
    for grid in fitting:
        require_whole(grid)


def test_columns_that_do_not_fit_follow_in_parts_with_the_names() -> None:
    grid = Grid("A title", ["arm", "first column", "second", "third"], [["x" * 10, "1.0 ± 0.1", "2.0 ± 0.2", "tie"]])
    assert printed(grid, 80)[:2] == ["A title", "arm         first column     second  third"]
    heads = [line.split() for line in printed(grid, 34) if line.startswith("arm")]
    assert heads == [["arm", "column", "second"], ["arm", "third"]]
    require_whole(grid, 34)
    folded = printed(Grid("", ["arm", "n"], [["long name " * 9, "1.0 ± 0.1"]]))
    assert max(map(len, folded)) <= 80
    assert sum("1.0 ± 0.1" in line for line in folded) == 1


def reported(name: str, renamed: Mapping[str, str] | None = None) -> Report:
    """Return the report of a study from its committed values; its arms may be renamed."""
    study, _, scale = name.partition("-")
    cells = pd.read_csv(TABLES / f"{name}-seeds.csv").drop(columns=["samples", "settings"])
    given = load_study(study)
    new = {arm: (renamed or {}).get(arm, arm) for arm in given.arms}
    cells = cells.assign(arm=cells.arm.map(new))
    arms = {new[arm]: settings for arm, settings in given.arms.items()}
    given = dataclasses.replace(given, arms=arms, baseline=new[given.baseline], name=study, tuned=None)
    plan = Plan.of(given, scale, load_scale(scale), {}, int(cells.seed.max()) + 1, [])
    plan = dataclasses.replace(plan, closed=verdicts.settle(plan, cells).closed(plan))
    return Report(plan, cells, summarise(plan, cells), {}, [], [], {}, {})


@pytest.mark.parametrize("name", ["weighting-digits", "coupling-digits"])
def test_a_study_ends_in_one_block_of_the_committed_verdicts(name: str) -> None:
    grids = terminal.grids(reported(name), 80)
    for grid in grids:
        require_whole(grid)
        assert grid.fits(80), grid.title
    last = grids[-1]
    known = json.loads((TABLES / f"{name}.json").read_text())["verdicts"]
    assert {row[0]: row[-1].partition(",")[0] for row in last.rows} == {
        arm: found["verdict"] for arm, found in known.items()
    }
    csv = pd.read_csv(TABLES / f"{name}.csv")
    means = csv[csv.primary].set_index("arm")
    at = last.header.index("difference")
    for arm, *_ in last.rows:
        told = next(row[at] for row in last.rows if row[0] == arm)
        assert told == ("" if pd.isna(means.difference[arm]) else f"{means.difference[arm]:+.1%}")


def test_names_of_25_letters_leave_room_for_six_nfes_and_three_metrics() -> None:
    """Six arms, one decided at +1774 %: the means stay, and the spreads and other columns are left out."""
    arms = {arm: (LONG + arm)[:24] + str(i) for i, arm in enumerate(load_study("weighting").arms)}
    report = reported("weighting-digits", arms)
    assert {len(arm) for arm in report.plan.arms} == {25}
    grids = terminal.grids(report, 80)
    assert [len(grid.header) for grid in grids] == [7, 3, 5]
    for grid in grids:
        require_whole(grid)
        assert grid.fits(80), grid.title
    assert not any("±" in cell for row in grids[0].rows for cell in row)
    wide = terminal.grids(report, 200)
    assert all("±" in cell for row in wide[0].rows for cell in row[1:])
    assert {"seeds", "mean ± sd"} <= {*wide[-1].header}


def test_the_verdicts_are_printed_last(capsys: pytest.CaptureFixture[str]) -> None:
    report = reported("coupling-digits")
    report.notes.append("A note. " * 20)
    console: Any = Console(file=io.StringIO(), width=80)
    tables.show(report, console)
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    assert said.index("Other metrics") < said.index("A note.") < said.index("Verdicts: FID ↓ at NFE 4 against")
    assert re.search(r"class_conditional_ot .* better\n+$", said)


def test_a_difference_too_small_to_matter_is_marked_in_the_verdict() -> None:
    report = reported("coupling-digits")
    rows: Any = report.summary.rows
    smallest = report.plan.smallest_difference
    for low, said in ((-0.9, f"better, < {100 * smallest:g}%"), (-1.1, "better")):
        rows.loc[rows.primary & (rows.arm == "exact_ot"), ["low", "high"]] = [low * smallest, -0.01]
        assert terminal.grids(report, 80)[-1].rows[1][-1] == said
