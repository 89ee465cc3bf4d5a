"""The page of a study: one HTML file with everything about it, which opens without a network.

It loads nothing: styles, script, figures and pictures are inside, and its policy forbids any request.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from harness.ablation.design.looks import LEVEL
from harness.ablation.design.plan import Plan
from harness.ablation.report import crossed, figures, grids, numbers, page_figures, page_samples
from harness.ablation.report.findings import Report
from harness.ablation.report.grid import VERDICT_COLOURS, Grid, capitalised, titled
from harness.ablation.report.mirrored import best, by_verdict
from harness.ablation.report.notes import remarks
from harness.ablation.report.origin import provenance
from harness.core import drawing, svg
from harness.core.config import flatten
from harness.core.drawing import Undrawable, spared
from harness.core.errors import listed
from harness.core.files import write_atomic
from harness.data.base import load
from harness.runs.explain import Explained, compared, percent

TEMPLATES = Path(__file__).parent / "templates"
ABOUT = {
    "forest": "Paired differences from the baseline with their intervals",
    "interactions": "Effects of one axis at each level of another",
    "values": "Primary metric against NFE",
    "seeds": "Ratio to the baseline, seed by seed",
    "weights": "Effective weight over log SNR",
    "losses": "Loss by log SNR at the end of training",
}
"""{figure: what it shows, for a reader who cannot see it}"""


@dataclass(frozen=True)
class Key:
    """How an arm or an effect looks in the figures."""

    id: str
    name: str
    colour: str
    dashed: bool
    marker: str
    """Data of an SVG path."""

    @classmethod
    def of(cls, plan: Plan, name: str) -> Key:
        style = page_figures.style(plan, name)
        colour = "currentColor" if style["color"] == "#000000" else style["color"]
        return cls(figures.mark(plan, name), name, colour, style["ls"] != "-", page_figures.swatch(plan, name))


@dataclass(frozen=True)
class Picture:
    """A figure on the page."""

    svg: Markup
    """Empty if it cannot be drawn."""
    reason: str = ""
    """Why it cannot be drawn."""


def write(report: Report, folder: Path, command: str) -> Path:
    """Write the page to `folder`/reports/<plan's name>.html and return its path; `command` makes the study again."""
    path = folder / "reports" / f"{report.plan.name}.html"
    write_atomic(path, rendered(report, command, path))
    return path


def rendered(report: Report, command: str, path: Path) -> str:
    """Return the page as text; `path` is named where a figure cannot be drawn."""
    plan = report.plan
    explained = {arm: Explained.of(config) for arm, config in plan.arms.items()}
    drawn = page_figures.drawn(report, explained)
    return template("page.html.j2").render(
        plan=plan,
        answers=_answers(report),
        best=best(report).replace("`", ""),
        ended=len(plan.trials()) - len(plan.unfinished()),
        trials=len(plan.trials()),
        facts=_facts(report),
        arms=[Key.of(plan, arm) for arm in plan.arms],
        contrasts=[Key.of(plan, name) for name in plan.contrasts],
        pictures=pictures({name: (ABOUT[name], draw) for name, draw in drawn.items()}, path),
        grids=_grids(report, explained),
        verdict_words=list(VERDICT_COLOURS),
        alike=compared(explained),
        samples=page_samples.samples(plan),
        pixels=load(plan.arms[plan.baseline].dataset).kind in ("image", "latents"),
        chains=page_samples.chains(plan),
        settings={arm: _settings(plan, arm) for arm in plan.arms},
        notes=remarks(report),
        origin=_origin(report, command),
        command=command,
    )


def _answers(report: Report) -> list[tuple[str, str]]:
    """Return (verdict, the contrasts that have it), the decided ones first."""
    order = list(VERDICT_COLOURS)
    found = sorted(by_verdict(report).items(), key=lambda found: order.index(found[0]))
    return [(word, listed(arms)) for word, arms in found]


def _facts(report: Report) -> dict[str, str]:
    """Return the plan in words."""
    plan = report.plan
    looks = ", ".join(map(str, plan.looks.seeds))
    reached = plan.looks.within(len(plan.seeds))
    early = any(number < len(plan.seeds) for number in plan.closed.values())
    return {
        "metric": titled(plan.metric),
        "NFE": numbers.header(plan, plan.nfe),
        "baseline": plan.baseline,
        **({"compared with": plan.against} if plan.crossing else {}),
        "looks": f"at {looks} seeds; {f'look {reached}' if reached else 'none'} of {len(plan.looks.seeds)} is reached",
        "smallest difference of interest": f"{100 * plan.smallest_difference:g} %",
        "seeds": f"{len(plan.seeds)} of each arm{', fewer where an arm was decided' if early else ''}",
        "chance of a wrong verdict": f"{LEVEL:.0%} at most in the whole study",
        "scale": plan.scale,
        "changes": ", ".join(f"{path} = {value}" for path, value in plan.changes.items()) or "none",
    }


def template(name: str) -> Template:
    """Return a template; what it prints is escaped, and a name that it lacks is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def pictures(drawn: Mapping[str, tuple[str, Callable[[], Figure]]], path: Path) -> dict[str, Picture]:
    """Return {name: figure} for a page, given what each shows and how it is drawn.

    A figure that cannot be drawn is reported and leaves its reason.
    """
    out = {}
    for name, (about, draw) in drawn.items():
        make = functools.partial(_inline, name, about, draw)
        with spared():
            try:
                out[name] = Picture(drawing.drawn(path.with_name(f"{path.name}#{name}"), make))
            except Undrawable as error:
                out[name] = Picture(Markup(), error.reason)
                raise
    return out


def _inline(name: str, about: str, draw: Callable[[], Figure]) -> Markup:
    return Markup(svg.inline(draw(), name, about))


def _grids(report: Report, explained: Mapping[str, Explained]) -> dict[str, list[Grid]]:
    """Return {part of the page: its tables}."""
    plan = report.plan
    others = [metric for metric in report.summary.rows.metric.unique() if metric != plan.metric]
    shares = [[arm, percent(own.effective_share())] for arm, own in explained.items()]
    return {
        "verdicts": [_filled(grids.of_verdicts(report)), *crossed.grids(report)],
        "excess": [grids.of_excess(report)] if report.floor and report.excess else [],
        "power": [grids.of_power(report)] if report.summary.power else [],
        "values": [grids.by_nfe(report, plan.metric)],
        "curves": [
            *([grids.read_off(report)] if report.readouts else []),
            *([grids.needed(report)] if plan.expected_nfe else []),
        ],
        "others": [grids.by_nfe(report, metric) for metric in others],
        "seeds": [_by_seed(report)],
        "shares": [Grid("Effective share of a batch", ["arm", "share"], shares)],
        "cost": [grids.of_seconds(report)] if report.spent else [],
        "settings": [grids.of_settings(report)],
    }


def _filled(grid: Grid) -> Grid:
    """Return a table without its empty columns: a phone has no room for them."""
    kept = [i for i in range(len(grid.header)) if any(row[i] for row in grid.rows)]
    header, *rows = ([cells[i] for i in kept] for cells in (grid.header, *grid.rows))
    return Grid(grid.title, header, rows)


def _by_seed(report: Report) -> Grid:
    """Return the table of the ratios to the base, seed by seed."""
    plan = report.plan
    rows = []
    for name, ratios in figures.seed_ratios(plan, report.cells).items():
        rows.append([name, *(f"{ratios[seed]:.3f}" if seed in ratios.index else "-" for seed in plan.seeds)])
    title = f"{capitalised(titled(plan.metric))} at NFE {plan.nfe}, ratio to {plan.against} by seed"
    return Grid(title, [plan.kind, *map(str, plan.seeds)], rows)


def _settings(plan: Plan, arm: str) -> dict[str, str]:
    """Return every setting of an arm that results depend on, except the seed."""
    flat = flatten(plan.arms[arm], run_only=False)
    return {path: _told(value) for path, value in flat.items() if path != "seed"}


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _origin(report: Report, command: str) -> dict[str, str]:
    """Return where the page comes from."""
    found = provenance(report.plan.question, command, report.commits)
    machine = found.pop("machine")
    plain = {name.replace("_", " "): value for name, value in found.items() if name not in ("question", "command")}
    plain["commits"] = ", ".join(report.commits) or "none"
    return {"plan": report.plan.digest, **plain, **machine}
