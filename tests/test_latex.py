"""`harness table --format`: LaTeX that compiles for any names of arms, and tables for other programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from three_arms import planned

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.report import tables
from harness.ablation.report.grid import Grid
from harness.cli import main
from harness.core.files import results_folder
from harness.runs.config import RunConfig

NAMES = ("a_b", "50%", "x & y", "$x$", r"\frac{1}{2}", "#1", "a~b^2", "<|>", "a\nb")
DOCUMENT = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\\end{document}\n"
STUDY = """from harness import Study

STUDY = Study(question="Which end?", baseline="a_b", arms={"a_b": {}, "50%": {"weighting": "data_end"}}, looks=(3,))
"""
READ = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "±", r"$\downarrow$": "↓", r"$\uparrow$": "↑", "$-$": "-",
}  # fmt: skip


def read(cell: str) -> str:
    """Return the text that LaTeX prints for a cell; an unknown command or an unescaped letter is an error."""
    parts = re.split(r"(\\text[a-z]+\{\}|\$[^$]*\$|\\[&%$#_{}])", cell)
    plain = [READ[part] if part in READ else part[1:] for part in parts[1::2]]
    assert not re.search(r"[\\&%$#_{}~^<>|±↓↑]", "".join(parts[::2])), cell
    return "".join(text for pair in zip(parts[::2], [*plain, ""], strict=True) for text in pair)


def cells(latex: str) -> list[list[str]]:
    """Return the rows of a tabular."""
    inside = re.search(r"\\toprule\n(.*)\\bottomrule", latex, re.S)
    assert inside
    lines = [line for line in inside[1].split("\n") if line and line != r"\midrule"]
    assert all(line.endswith(r" \\") for line in lines)
    return [[read(cell.strip()) for cell in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))] for line in lines]


def test_latex_prints_every_name_as_it_is() -> None:
    values = ["-13.9%", "5.29 ± 0.51", "min_snr", "1 (5 seeds)", "a-b", "-25.2% to -0.9%"]
    rows = [[name, value] for name, value in zip(NAMES, [*values, "", "", "-"], strict=True)]
    latex = Grid("FID ↓ of a_b, 100% & more", ["arm", "n_1"], rows).latex("tab:x-1")
    assert cells(latex) == [["arm", "n_1"], *[[name.replace("\n", " "), value] for name, value in rows]]
    lines = latex.splitlines()
    caption = r"\caption{FID $\downarrow$ of a\_b, 100\% \& more}"
    assert lines[:5] == [r"\begin{table}[htbp]", r"\centering", caption, r"\label{tab:x-1}", r"\begin{tabular}{lr}"]
    assert lines[-2:] == [r"\end{tabular}", r"\end{table}"]
    assert "$-$13.9" in latex
    assert "a-b" in latex


def has_booktabs() -> bool:
    return bool(shutil.which("kpsewhich")) and subprocess.run(["kpsewhich", "booktabs.sty"]).returncode == 0


@pytest.mark.skipif(not has_booktabs(), reason="needs TeX, with booktabs")
def test_latex_compiles_it(tmp_path: Path) -> None:
    grid = Grid("FID ↓ of a_b, 100% & more ↑", ["arm", "n_1", "n_1"], [[name, name, "-5 ± 1%"] for name in NAMES])
    (tmp_path / "x.tex").write_text(DOCUMENT % grid.latex("tab:x"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "x.pdf").stat().st_size > 1000


def test_markdown_keeps_its_columns_for_any_names_of_arms() -> None:
    (line,) = Grid("t", ["arm", "n"], [["<|>\n", "1"]]).markdown().splitlines()[-1:]
    assert line == r"| <\|>  | 1 |"


@pytest.fixture
def measured(tmp_path: Path, score: Any) -> tuple[str, Plan]:
    """A study file whose trials have ended, and its plan."""
    (file := tmp_path / "ends.py").write_text(STUDY)
    plan = Plan.of(load_study(str(file)), "digits", load_scale("digits"), {}, None, [])
    for arm, seed in plan.trials():
        level = 8.0 + seed - 2 * (arm == "50%")
        score(plan.run(arm, seed), plan.protocol(arm), dict.fromkeys(plan.arms[arm].evaluate.nfe, level))
    return str(file), plan


def test_a_table_is_printed_alone_in_each_format(
    measured: tuple[str, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes go to standard error. The paths of figures are relative to the folder of the text."""
    file, plan = measured
    monkeypatch.chdir(tmp_path)
    folder = results_folder() / "local" / "tables"
    said = {}
    for form in ("csv", "latex", "markdown"):
        assert main(["table", file, "--format", form]) == 0
        said[form], beside = capsys.readouterr()
        assert f"wrote {folder / plan.name}.md" in beside
    assert said["csv"] == (folder / f"{plan.name}.csv").read_text()
    found = re.findall(r"\\begin\{table\}.*?\\end\{table\}", said["latex"], re.S)
    assert len(found) == len(re.findall(r"^\| --- ", said["markdown"], re.M)) > 5
    verdicts = cells(found[0])
    assert [row[-1] for row in verdicts] == ["verdict", "baseline", "better"]
    assert [row[0] for row in verdicts] == ["arm", "a_b", "50%"]
    assert "%% " not in said["latex"]
    assert f"% Made by `harness ablate {file} --scale digits`" in said["latex"]
    written = (folder / f"{plan.name}.md").read_text()
    for text, place in ((said["markdown"], tmp_path), (written, folder)):
        (picture,) = re.findall(r"!\[.*\]\((.*)\)", text)
        assert (place / picture).read_bytes()[:4] == b"\x89PNG"
    assert said["markdown"].replace("](results/local/", "](../") == written


def test_the_table_names_no_picture_that_could_not_be_drawn(
    tiny: RunConfig, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr("harness.ablation.report.figures.draw", broken)
    plan = planned(tiny)
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 5.0 + seed, 2: 4.0 + seed})
    (text, *_) = tables.write(tables.report(plan, {}), tmp_path, "made")
    assert "![" not in text.read_text()
