"""`harness compare`: published tables beside our values, with a verdict on each claim; trains what is missing."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Mapping

import pandas as pd

from harness.ablation.design.claim import CALLS
from harness.ablation.design.configured import points
from harness.ablation.design.paper import PAPER, PaperTable, compare, load_paper, paper_names
from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study, load_scale, load_study
from harness.ablation.execute.launchers import LOCAL
from harness.ablation.report import beside, beside_page
from harness.ablation.report.claims import Measured, judge
from harness.ablation.report.committed import published_folder
from harness.cli import ablate, plan
from harness.cli.shared import own_folder, told
from harness.core.errors import UserError, did_you_mean
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Print the tables; `UserError` before any training if one does not exist or is not offered at the scale."""
    tables = [load_paper(name) for name in options.tables or paper_names()]
    if not options.tables:
        tables = [table for table in tables if (options.at_scale or table.scales[0]) in offered(table)]
    compared = [(table, scale_of(table, options.at_scale)) for table in tables]
    for table, scale in compared:
        refuse_unmeasured(table.at(scale), plans_of(table, scale))
    frames = []
    for table, scale in compared:
        one = table.at(scale)
        with contextlib.redirect_stdout(sys.stderr) if options.format else contextlib.nullcontext():
            measured = {study: _measured(table, study, scale, options) for study in one.studies}
        values = _print(one, scale, measured, options.format)
        values.insert(0, "table", table.name)
        values.insert(1, "scale", scale)
        frames.append(values)
    if options.format == "csv":
        sys.stdout.write(pd.concat(frames).to_csv(index=False))


def offered(table: PaperTable) -> list[str]:
    """Return the scales that a table is offered at, the default first."""
    return [*(table.scales if table.columns else ()), *([PAPER] if table.at(PAPER).columns else ())]


def scale_of(table: PaperTable, scale: str | None) -> str:
    """Return the scale to compare a table at; `UserError` if it is not offered."""
    known = offered(table)
    if not known:
        raise UserError(f"{table.name}: no column has values of ours. `harness papers {table.name}` says why.")
    if scale is not None and scale not in known:
        raise UserError(f"{table.name} is not offered at the scale '{scale}'. {did_you_mean(scale, known)}")
    return scale or known[0]


def plans_of(table: PaperTable, scale: str) -> dict[str, Plan]:
    """Return {study: its plan} of the studies that a table needs at a scale."""
    if scale == PAPER:
        study = table.paper_study()
        return {study.name: Plan.of(study, table.scale, load_scale(table.scale), {}, None, [])}
    studies = {name: load_study(name).as_written() for name in table.studies}
    return {name: Plan.of(study, scale, load_scale(scale), {}, None, []) for name, study in studies.items()}


def refuse_unmeasured(table: PaperTable, plans: Mapping[str, Plan]) -> None:
    """`UserError` if a column names an arm that its study lacks, a place where an arm is not measured, or mixes values.

    Values of different numbers of samples, features or references are not comparable.
    """
    for name, column in table.columns.items():
        arms = plans[column.study].arms
        where = f"{table.name}, column {name}"
        protocols = set[tuple[object, ...]]()
        for arm in column.arms.values():
            if arm not in arms:
                raise UserError(f"{where}: '{arm}' is not an arm of {column.study}. {did_you_mean(arm, arms)}")
            how = arms[arm].evaluate
            known = points(arms[arm])
            own = how.nfe if column.metric == CALLS else known.get(column.metric, ())
            if column.nfe not in own:
                raise UserError(f"{where}: {arm} has no {column.metric} at NFE {column.nfe}. It has {known}.")
            protocols.add((how.samples_at(column.nfe), how.extractor, how.num_reference))
        if len(protocols) > 1:
            told = "; ".join(sorted(map(str, protocols)))
            raise UserError(f"{where}: its arms differ in (samples, extractor, reference): {told}. Use one protocol.")


def _measured(table: PaperTable, study: str, scale: str, options: argparse.Namespace) -> Measured:
    """Return the values of a study: those of your own runs, else the committed ones, else of runs that start now."""
    goes_on = options.seeds is not None or options.until or options.max_hours
    name = table.scale if scale == PAPER else scale
    found = (Measured.read(folder, study, name) for folder in (own_folder(), published_folder()))
    if not goes_on and (known := next(filter(None, found), None)):
        return known
    declared: str | Study = study
    if scale == PAPER:
        declared = table.paper_study()
        _forecast(table, declared, options)
    elif not goes_on:
        told = f"`harness plan {study} --scale {name}` says what it takes"
        print(f"{study}-{name}: no table yet, so its study starts now ({told}; Ctrl-C ends it).", flush=True)
    ablate.run(_options(table, declared, name, options))
    if (known := Measured.read(own_folder(), study, name)) is None:
        raise UserError(
            f"{study}-{name}: there is no table yet, since its look is not complete. Allow more --max-hours."
        )
    return known


def _options(table: PaperTable, study: str | Study, scale: str, options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of `harness ablate` for a study of the table."""
    command = shlex.join(["harness", "compare", table.name, "--scale", PAPER]) if isinstance(study, Study) else None
    tuned = (study if isinstance(study, Study) else load_study(study)).tuned
    store = options.store if tuned else None
    return argparse.Namespace(
        **{**vars(options), "store": store, "study": study, "scale": scale, "changes": [], "command": command}
    )


def lacking(table: PaperTable) -> list[str]:
    """Return the sentences about parts of the rows' recipes that their configurations lack."""
    return [f"{row}: {why}" for row in table.rows for why in compare(table, row).why]


def _forecast(table: PaperTable, study: Study, options: argparse.Namespace) -> None:
    """Say what the recipes lack here, then what the study takes."""
    console = terminal()
    for line in lacking(table):
        console.print(f"- {line}", soft_wrap=True, markup=False)
    if options.launcher == LOCAL:  # small trials of this machine tell nothing of an engine's nodes
        plan.run(_options(table, study, table.scale, options))


def _print(table: PaperTable, scale: str, measured: Mapping[str, Measured], form: str | None) -> pd.DataFrame:
    """Print the values, the verdicts on the claims and the differences of the protocols; return the values."""
    judged = [judge(table, key, measured) for key in table.claims]
    found = beside.values(table, measured)
    grids = beside.grids(table, found, scale)
    lines = [*map(beside.told, judged), *([f"{beside.counted(judged)} at the scale {scale}."] if judged else [])]
    protocols = lacking(table) if scale == PAPER else beside.protocols(table, scale)
    lines += protocols
    lines += [f"Values of {study}: {known.path}" for study, known in measured.items()]
    match form:
        case None:
            console = terminal()
            console.print(table.paper, style="bold", markup=False)
            for grid in grids:
                grid.show(console)
            for line in lines:
                console.print(f"- {line}", soft_wrap=True, markup=False)
            command = shlex.join(["harness", "compare", table.name, "--scale", scale])
            told([beside_page.write(table, scale, measured, found, judged, protocols, own_folder(), command)], console)
        case "markdown":
            listed = "\n".join(f"- {line}" for line in lines)
            print("\n\n".join([f"# {table.paper}", *(grid.markdown() for grid in grids), listed]))
        case "latex":
            print(r"% The preamble needs \usepackage{booktabs}.")
            for i, grid in enumerate([*grids, *([beside.of_claims(judged, scale)] if judged else [])], 1):
                print(grid.latex(f"tab:{table.name}-{i}"))
    return found
