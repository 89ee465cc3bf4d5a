"""The figures of a study's page, each narrow enough for a phone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from harness.ablation.design.plan import Plan
from harness.ablation.report import figures, interaction_plots, numbers
from harness.ablation.report.figures import mark, style_of
from harness.ablation.report.findings import REFERENCES, Report
from harness.ablation.report.grid import capitalised
from harness.core.drawing import legend_below, plain_log, ratio_axis
from harness.evaluation.metric import label_of
from harness.runs.explain import Explained, draw_weights
from harness.training.diagnostics import BINS, EDGES

WIDE = 5.2
HIGH = 3.7
"""Size of a figure in inches: letters of 9 points can be read on a phone, and are not huge on a desk."""
STYLE: Any = {"font.size": 9, "grid.color": "black", "grid.linewidth": 0.5}
"""Settings of Matplotlib: black becomes the page's colour of text."""
FAR = 2.0
"""A reference this many times below all means, or above, has no line."""


def drawn(report: Report, explained: Mapping[str, Explained]) -> dict[str, Callable[[], Figure]]:
    """Return {name of a figure: the function that draws it}."""
    plan = report.plan
    out: dict[str, Callable[[], Figure]] = {
        "forest": lambda: _forest(report),
        "values": lambda: _values(report),
        "seeds": lambda: _seeds(report),
        "weights": lambda: _weights(plan, explained),
    }
    if report.losses:
        out["losses"] = lambda: _losses(plan, report.losses)
    if (found := report.interactions) and found.groups:
        out["interactions"] = lambda: interaction_plots.draw(plan, found)
    return {name: _styled(draw) for name, draw in out.items()}


def _styled(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    def styled() -> Figure:
        with rc_context(STYLE):
            return draw()

    return styled


def style(plan: Plan, name: str) -> dict[str, Any]:
    """Return colour, marker and line style of an arm or an effect on the page."""
    names = list(plan.arms if name in plan.arms else plan.contrasts)
    return style_of(names.index(name))


def swatch(plan: Plan, name: str) -> str:
    """Return the marker of an arm or an effect as the data of an SVG path, around (0, 0), 7 points wide."""
    marker = MarkerStyle(style(plan, name)["marker"])
    path = marker.get_path().transformed(marker.get_transform())
    outlines = [7 * np.asarray(outline, float) for outline in path.to_polygons(closed_only=False)]
    return " ".join("M" + "L".join(f"{x:.2f} {-y:.2f}" for x, y in outline) + "Z" for outline in outlines)


def _new(high: float = HIGH, wide: float = WIDE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(wide, high), layout="constrained")
    return figure, figure.subplots()


def _forest(report: Report) -> Figure:
    """Draw the paired differences; long names make the figure wider."""
    plan = report.plan
    rows = report.summary.rows
    figure, axes = _new(1.6 + 0.45 * max(1, len(plan.contrasts)))
    figure.set_figwidth(max(WIDE, 3.2 + figures.widest(figure, plan, rows)))
    figures.draw_forest(axes, plan, report.cells, rows)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def _values(report: Report) -> Figure:
    """Draw the primary metric against NFE, without a legend of the arms.

    The score of a reference that is far from all arms is written below the axis: its line would flatten the curves.
    """
    plan = report.plan
    figure, axes = _new()
    rows = numbers.curves(plan, report.cells, report.summary.rows)
    own = rows[(rows.metric == plan.metric) & rows.arm.isin(plan.arms)]["mean"].dropna()
    known = {kind: scores[plan.metric] for kind, scores in report.references.items() if plan.metric in scores}
    near = {kind: value for kind, value in known.items() if own.min() / FAR <= value <= FAR * own.max()}
    figures.draw_curves(axes, plan, report.cells, rows, {kind: {plan.metric: value} for kind, value in near.items()})
    if beyond := [f"{REFERENCES[kind].label} {value:.3g}" for kind, value in known.items() if kind not in near]:
        axes.set_xlabel(f"NFE\nbeyond the axis: {', '.join(beyond)}")
    handles = axes.get_legend_handles_labels()[0]
    if beside := [handle for handle in handles if not isinstance(handle, ErrorbarContainer)]:
        legend_below(figure, beside)
    return figure


def _seeds(report: Report) -> Figure:
    """Draw each seed's value over its base's, with a line for each arm."""
    plan = report.plan
    figure, axes = _new()
    smallest = plan.smallest_difference
    axes.axhspan(1 - smallest, 1 + smallest, color="grey", alpha=0.15, label=f"smallest difference, ±{smallest:.4g}")
    axes.axhline(1, color="grey", lw=1)
    ends = [1 - smallest, 1 + smallest]
    for name, ratios in figures.seed_ratios(plan, report.cells).items():
        axes.plot(ratios.index, ratios, ms=4.5, lw=0.9, gid=mark(plan, name), **style(plan, name))
        ends += ratios.tolist()
    if min(ends) > 0:
        ratio_axis(axes, min(ends), max(ends))
    axes.set_xlim(-0.5, max(plan.seeds) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    base = "the first level of its axis" if plan.kind == "effect" else "the baseline"
    axes.set(xlabel="seed", ylabel=f"ratio to {base}")
    axes.set_title(f"{capitalised(label_of(plan.metric))} at NFE {plan.nfe}, seed by seed", fontsize=10)
    axes.grid(alpha=0.25)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return figure


def _weights(plan: Plan, explained: Mapping[str, Explained]) -> Figure:
    """Draw the effective weights over log SNR, without a legend."""
    figure, axes = _new()
    lines = itertools.cycle(("-", "--", ":"))  # curves that cover each other can be seen
    styles = [{**style(plan, arm), "gid": mark(plan, arm), "marker": "", "ls": next(lines)} for arm in explained]
    draw_weights(axes, explained, styles)
    return figure


def _losses(plan: Plan, losses: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the loss by bin of log SNR, without a legend."""
    figure, axes = _new()
    for arm, own in losses.items():
        places = [BINS.index(name) for name in own]
        axes.plot(places, list(own.values()), ms=4.5, lw=1.2, gid=mark(plan, arm), **style(plan, arm))
    values = [value for own in losses.values() for value in own.values()]
    if min(values) > 0:
        plain_log(axes, "y", min(values), max(values))
    middle = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(EDGES)]
    axes.set_xticks(range(len(BINS)), [f"below {EDGES[0]:g}", *middle, f"above {EDGES[-1]:g}"], rotation=30, ha="right")
    axes.set(xlabel="log SNR (noise left, data right)", ylabel="loss before weighting")
    axes.grid(alpha=0.25)
    return figure
