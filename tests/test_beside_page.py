"""The page of a published table: it loads nothing, and has the values and verdicts of the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reader import Parsed, require_alone

from harness.ablation.design.paper import PaperTable, load_paper
from harness.ablation.report import beside, beside_page
from harness.ablation.report.claims import Measured, judge
from harness.ablation.report.committed import published_folder
from harness.cli import main
from harness.cli.shared import own_folder


def known(table: PaperTable) -> dict[str, Measured]:
    """Return the committed values of a table's studies."""
    found = {study: Measured.read(published_folder(), study, table.scales[0]) for study in table.studies}
    return {study: values for study, values in found.items() if values}


def written(table: PaperTable, folder: Path) -> str:
    """Return the page of a table from the committed values."""
    measured = known(table)
    judged = [judge(table, key, measured) for key in table.claims]
    values = beside.values(table, measured)
    return beside_page.write(table, "digits", measured, values, judged, ["They differ."], folder, "again").read_text()


def test_the_command_writes_it_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "liu2023_table1"]) == 0
    path = own_folder() / "reports" / "papers" / "liu2023_table1-digits.html"
    assert f"wrote {path}" in capsys.readouterr().out
    text = path.read_text()
    require_alone(text)
    parsed = Parsed(text)
    assert parsed.said["pre"] == ["harness compare liu2023_table1 --scale digits"]
    assert any("train.ema_decay 0.999999 in the paper, 0.9367 here" in line for line in parsed.said["li"])


def test_it_has_every_value_and_every_verdict(tmp_path: Path) -> None:
    table = load_paper("liu2023_table1").at("digits")
    parsed = Parsed(written(table, tmp_path))
    measured = known(table)
    for grid in beside.grids(table, beside.values(table, measured), "digits"):
        assert [grid.header, *grid.rows] in parsed.tables
    assert "holds: b, c, distillation does not hold: a, distilled first, distilled trend" in " ".join(
        parsed.said["header"][0].split()
    )
    for key in table.claims:
        judged = judge(table, key, measured)
        assert f"{key}: {judged.word}" in parsed.said["h3"]
        grid = beside.of_claim(judged)
        assert [grid.header, *grid.rows] in parsed.tables
    assert len(parsed.of("svg")) == len(table.columns)


def test_a_column_of_one_row_has_no_figure(tmp_path: Path) -> None:
    table = load_paper("karras2022_table2").at("digits")
    (name,) = table.columns
    row, arm = next(iter(table.columns[name].arms.items()))
    alone = replace(table, columns={name: replace(table.columns[name], arms={row: arm})}, claims={})
    text = written(alone, tmp_path)
    assert "cannot be drawn" not in text
    parsed = Parsed(text)
    assert parsed.of("svg") == []
    assert len(parsed.tables) == 1


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    table = load_paper("liu2023_table1").at("digits")
    hostile = "<script>alert(1)</script> & {{ 7 * 7 }}"
    claims = {hostile: replace(next(iter(table.claims.values())), says=hostile, because=hostile)}
    text = written(replace(table, paper=hostile, claims=claims), tmp_path)
    require_alone(text)
    parsed = Parsed(text)
    assert len(parsed.of("script")) == 1
    assert parsed.said["h1"] == [hostile]


def test_the_figure_has_both_differences_of_each_row() -> None:
    """In percent, our interval is a line; a row without a published value has no diamond."""
    table = load_paper("liu2023_table1")
    name, column = next((name, column) for name, column in table.columns.items() if column.published)
    own = pd.DataFrame(
        [[name, "a", 2.0, np.nan, np.nan, np.nan], [name, "b", 1.0, -0.5, -0.4, -0.6], [name, "c", 3.0, 0.1, 0.0, 0.2]],
        columns=["column", "row", "ours", "difference", "low", "high"],
    ).assign(published_difference=[np.nan, -0.45, np.nan])
    (axes,) = beside_page.draw(column, own).axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert np.asarray(lines["ours, 95 % interval"].get_xdata()).tolist() == [-50.0, 10.0]
    assert np.asarray(lines["published"].get_xdata())[0] == -45.0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c"]
    (intervals,) = axes.collections
    segments = intervals.get_segments()  # type: ignore[attr-defined]
    assert [segment[:, 0].tolist() for segment in segments] == [[-40.0, -60.0], [0.0, 20.0]]
