"""`harness compare`: published tables beside our values, with a verdict on each claim; trains what is missing."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping

from harness.ablation.design.paper import PAPER, PaperTable, compare, load_paper, paper_names
from harness.ablation.design.study import Study
from harness.ablation.report import beside
from harness.ablation.report.claims import Measured, judge
from harness.cli import ablate, plan
from harness.cli.shared import own_folder
from harness.core.errors import UserError, did_you_mean
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Print the tables; `UserError` before any training if one does not exist or is not offered at the scale."""
    tables = [load_paper(name) for name in options.tables or paper_names()]
    scales = [_scale(table, options.at_scale) for table in tables]
    if not options.tables:
        tables = [table for table in tables if table.studies]
    for table, scale in zip(tables, scales, strict=False):
        one = table.at_paper_scale() if scale == PAPER else table
        measured = {study: _measured(table, study, scale, options) for study in one.studies}
        _print(one, scale, measured, options.format)


def _scale(table: PaperTable, scale: str | None) -> str:
    """Return the scale to compare a table at; `UserError` if it is not offered."""
    offered = [*(table.scales if table.studies else ()), PAPER]
    if scale is None:
        return offered[0]
    if scale not in offered:
        raise UserError(f"{table.name} is not offered at the scale '{scale}'. {did_you_mean(scale, offered)}")
    return scale


def _measured(table: PaperTable, study: str, scale: str, options: argparse.Namespace) -> Measured:
    """Return the values of a study: those of your own runs, else the committed ones, else of runs that start now."""
    goes_on = options.seeds is not None or options.until or options.max_hours
    name = table.scale if scale == PAPER else scale
    if not goes_on and (known := Measured.read(own_folder(), study, name) or Measured.committed(study, name)):
        return known
    declared: str | Study = study
    if scale == PAPER:
        declared = table.paper_study()
        _forecast(table, declared, options)
    ablate.run(_options(table, declared, name, options))
    known = Measured.read(own_folder(), study, name)
    assert known is not None
    return known


def _options(table: PaperTable, study: str | Study, scale: str, options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of `harness ablate` for a study of the table."""
    command = shlex.join(["harness", "compare", table.name, "--scale", PAPER]) if isinstance(study, Study) else None
    return argparse.Namespace(**{**vars(options), "study": study, "scale": scale, "changes": [], "command": command})


def _forecast(table: PaperTable, study: Study, options: argparse.Namespace) -> None:
    """Say what the recipes lack here, then what the study takes."""
    console = terminal()
    for row in table.rows:
        for why in compare(table, row).why:
            console.print(f"- {row}: {why}", soft_wrap=True, markup=False)
    plan.run(_options(table, study, table.scale, options))


def _print(table: PaperTable, scale: str, measured: Mapping[str, Measured], form: str | None) -> None:
    """Print the values, the verdicts on the claims, and the differences of the protocols."""
    judged = [judge(table, key, measured) for key in table.claims]
    found = beside.values(table, measured)
    grids = beside.grids(table, found, scale)
    lines = [*map(beside.told, judged), *([f"{beside.counted(judged)} at the scale {scale}."] if judged else [])]
    lines += [] if scale == PAPER else beside.protocols(table, scale)
    lines += [f"Values of {study}: {known.path}" for study, known in measured.items()]
    match form:
        case None:
            console = terminal()
            console.print(table.paper, style="bold", markup=False)
            for grid in grids:
                grid.show(console)
            for line in lines:
                console.print(f"- {line}", soft_wrap=True, markup=False)
        case "markdown":
            listed = "\n".join(f"- {line}" for line in lines)
            print("\n\n".join([f"# {table.paper}", *(grid.markdown() for grid in grids), listed]))
        case "csv":
            sys.stdout.write(found.to_csv(index=False))
        case "latex":
            print(r"% The preamble needs \usepackage{booktabs}.")
            for i, grid in enumerate([*grids, *([beside.of_claims(judged, scale)] if judged else [])], 1):
                print(grid.latex(f"tab:{table.name}-{i}"))
