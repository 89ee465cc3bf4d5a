"""The report of a plan from its run directories: tables, the sentences below them, and files with provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from harness.ablation.design import arm_settings
from harness.ablation.design.looks import LEVEL
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import stored
from harness.ablation.report import (
    excess,
    figures,
    grids,
    interaction_plots,
    matching,
    numbers,
    outcomes,
    readouts,
    terminal,
    tuned,
)
from harness.ablation.report.findings import Report
from harness.ablation.report.interactions import interactions
from harness.ablation.report.notes import notes, remarks
from harness.ablation.report.origin import made_by, provenance
from harness.ablation.report.records import records
from harness.ablation.report.summary import summarise
from harness.ablation.report.verdicts import NOT_COMPARED, Verdict, in_all
from harness.core.drawing import png, spared, write_picture
from harness.core.files import write_atomic, write_json
from harness.core.registry import find
from harness.evaluation.floor import Floor

Format = Literal["markdown", "csv", "latex"]


def report(
    plan: Plan, references: dict[str, dict[str, float]], at_primary: dict[str, dict[str, float]] | None = None,
    floor: Floor | None = None,
) -> Report:  # fmt: skip
    """Return the report of a plan's runs.

    `references` and `at_primary` are the scores of real samples and noise (`Report`), `floor` is the primary metric's.
    """
    cells = outcomes.collect(plan)
    told = records(plan)
    summary = summarise(plan, cells)
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    unstable = {*cells[(cells.metric == plan.metric) & (cells.state == outcomes.DIVERGED)].arm}
    read = readouts.read(numbers.alike(plan, cells), plan.metric, plan.bases, lower, told.sampling, unstable)
    compared = {arm for arm, found in summary.settled.verdicts.items() if found.word != NOT_COMPARED}
    above = excess.excesses(plan, cells, floor, compared) if floor else {}
    mixed = interactions(plan, cells)
    said = [*notes(plan, summary, told), *(mixed.notes if mixed else [])]
    return Report(
        plan,
        cells,
        summary,
        references,
        said,
        told.commits,
        read,
        told.spent,
        at_primary or {},
        floor,
        above,
        told.sampling,
        told.losses,
        mixed,
    )


def show(report: Report, console: Console) -> None:
    """Print the answer to the question: values, the sentences about them, and last the verdicts."""
    *values, settled = terminal.grids(report, console.width)
    for grid in values:
        grid.show(console)
    for line in [*remarks(report, [report.plan.metric]), terminal.FILES]:
        console.print(f"- {line}")
    console.print()
    settled.show(console)


def formatted(report: Report, form: Format, command: str, pictures: Sequence[str]) -> str:
    """Return all tables as text; `pictures` are the paths of the pictures, as the Markdown names them."""
    match form:
        case "markdown":
            return _markdown(report, command, pictures)
        case "csv":
            return report.summary.rows.to_csv(index=False)
        case "latex":
            return _latex(report, command)


def write(report: Report, folder: Path, command: str) -> list[Path]:
    """Write the tables and pictures of a report below `folder`; return the paths.

    They are `tables/<plan's name>.{md,csv,json}`, `tables/...-seeds.csv` and `figures/<plan's name>.png`; a study with
    axes also has `figures/...-interactions.png`.
    """
    plan = report.plan
    paths = [folder / "tables" / f"{plan.name}{ending}" for ending in (".md", ".csv", ".json", "-seeds.csv")]
    pictures = []
    for name, draw in drawn(report).items():
        picture = folder / "figures" / f"{name}.png"
        with spared():
            write_picture(picture, lambda draw=draw: png(draw()))  # type: ignore[misc]
            pictures.append(picture)
    write_atomic(paths[0], formatted(report, "markdown", command, [f"../figures/{path.name}" for path in pictures]))
    write_atomic(paths[1], formatted(report, "csv", command, ()))
    write_json(paths[2], _about(report, command))
    write_atomic(paths[3], by_seed(report).to_csv(index=False))
    return [*paths, *pictures]


def drawn(report: Report) -> dict[str, Callable[[], Figure]]:
    """Return {name of a picture: the function that draws it}."""
    plan = report.plan
    found = report.interactions
    rows = numbers.curves(plan, report.cells, report.summary.rows)
    pictures = {plan.name: lambda: figures.draw(plan, report.cells, rows, report.references)}
    if found and found.groups:
        pictures[f"{plan.name}-interactions"] = lambda: interaction_plots.draw(plan, found)
    return pictures


def by_seed(report: Report) -> pd.DataFrame:
    """Return the cells with the number of samples, and the settings in which each arm differs from the baseline."""
    plan = report.plan
    cells = report.cells
    places = [*zip(*(cells[name].to_numpy(object) for name in ("arm", "metric", "nfe")), strict=True)]
    judged = {(arm, metric, nfe): numbers.judged(plan, [arm], metric, nfe) for arm, metric, nfe in {*places}}
    samples = pd.array([judged[place] for place in places], dtype="Int64")
    settings = {arm: json.dumps(own) for arm, own in arm_settings.differing(plan).items()}
    return cells.assign(samples=samples, settings=cells.arm.map(settings))


def _markdown(report: Report, command: str, pictures: Sequence[str]) -> str:
    plan = report.plan
    paragraphs = [f"# {plan.question}"]
    paragraphs += [grid.markdown() for grid in (*grids.grids(report), grids.of_settings(report))]
    paragraphs += [f"![{plan.name}]({path})" for path in pictures]
    paragraphs.append("\n".join(f"- {line}" for line in remarks(report)))
    paragraphs.append(_origin(report, command))
    return "\n\n".join(paragraphs) + "\n"


def _latex(report: Report, command: str) -> str:
    """Return every table as a LaTeX `table`, the verdicts first."""
    plan = report.plan
    tables = sorted((*grids.grids(report), grids.of_settings(report)), key=lambda grid: grid.header[-1] != "verdict")
    question = " ".join(plan.question.split())
    origin = [f"% {question}", f"% {_origin(report, command)}", r"% The preamble needs \usepackage{booktabs}."]
    return "\n".join([*origin, *(grid.latex(f"tab:{plan.name}-{i}") for i, grid in enumerate(tables, 1))])


def _origin(report: Report, command: str) -> str:
    return made_by(command, report.commits, f"Plan {report.plan.digest}; more in {report.plan.name}.json.")


def _about(report: Report, command: str) -> dict[str, Any]:
    plan = report.plan
    summary = report.summary
    primary = {"metric": plan.metric, "nfe": plan.nfe, "smallest_difference": plan.smallest_difference}
    return {
        **provenance(plan.question, command, report.commits),
        "plan": plan.digest,
        "primary": {**primary, **({"against": plan.against} if plan.crossing else {})},
        "baseline": {"arm": plan.baseline, "configuration": arm_settings.configuration(plan.arms[plan.baseline])},
        "settings": arm_settings.differing(plan),
        "plans": stored(plan),
        "changes": dict(plan.changes),
        "matched": matching.plain(plan),
        "tuned": tuned.plain(plan),
        "seeds": list(plan.seeds),
        "looks": {**vars(plan.looks), "level": LEVEL, "arms": len(plan.tested)},
        "outcomes": {arm: {**vars(own), "unfinished": own.unfinished} for arm, own in summary.settled.seeds.items()},
        "verdicts": {name: _plain(found) for name, found in summary.settled.verdicts.items()},
        **_crossed(report),
        "protocols": {arm: asdict(plan.protocol(arm)) for arm in plan.arms},
        "references": report.references,
        "references_at_primary": report.at_primary,
        "floor": report.floor.plain() if report.floor else None,
        "excess": {arm: excess.plain(found) for arm, found in report.excess.items()},
        "pairs": {arm: comparison.n for arm, comparison in summary.settled.tested.items()},
        "power": {arm: power.plain(plan.smallest_difference) for arm, power in summary.power.items()},
        "runs": {arm: [plan.run(arm, seed).name for seed in plan.seeds_of(arm)] for arm in plan.arms},
        "seconds": {arm: own.plain() for arm, own in report.spent.items()},
        "sampling_ms": {
            arm: {nfe: 1000 * s for (of, nfe), s in report.sampling.items() if of == arm} for arm in plan.arms
        },
        "notes": report.notes,
    }


def _crossed(report: Report) -> dict[str, Any]:
    """Return the JSON entries of a study with axes; empty for other studies."""
    plan = report.plan
    if plan.crossing is None:
        return {}
    if plan.crossing.swept:
        families = in_all(plan, report.summary.settled)
        return {"axes": vars(plan.crossing), "in_all": {arm: _plain(found) for arm, found in families.items()}}
    effects = {name: {"arms": of.arms, "against": of.against} for name, of in plan.contrasts.items()}
    found = report.interactions.plain() if report.interactions else None
    return {"axes": vars(plan.crossing), "effects": effects, "interactions": found}


def _plain(found: Verdict) -> dict[str, Any]:
    """Return the JSON form of a verdict."""
    return {"verdict": found.word, "reason": found.reason, "look": found.look}
