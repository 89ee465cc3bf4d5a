"""docs/first_study.ipynb, as a reader runs it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parent.parent / "docs" / "first_study.ipynb"


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_its_cells_show_table_figure_and_verdicts(tmp_path: Path, isolated: None) -> None:
    """It runs in a folder with a module that would end every process that imports it."""
    (tmp_path / "secrets.py").write_text("raise SystemExit('imported from the folder one stands in')\n")
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    told = "".join(output.text for output in outputs[1])
    assert "3 arms, 3 seeds at the scale points" in told
    assert "\x1b" not in told
    page = outputs[2][0].data["text/html"]
    assert page.count("<img ") == 1
    verdicts = page[page.index("Verdicts: ") :]
    words = "better|worse|tie|undecided|unstable"
    for arm in ("data_end", "noise_end"):
        assert re.search(rf"<td[^>]*>{arm}</td>(\s*<td[^>]*>[^<]*</td>){{4}}\s*<td[^>]*>({words})", verdicts), verdicts
    assert "noise_end" in outputs[3][0].data["text/html"]
    by_seed = outputs[4][0].data["text/html"]
    assert len(re.findall(r"<td>0\.\d+</td>", by_seed)) == 9
    files = {re.sub("-points-[0-9a-f]{6}", "", name) for name in outputs[5][0].text.split()}
    assert files == {f"first{end}" for end in (".md", ".csv", ".json", ".png", ".html", "-seeds.csv")}
