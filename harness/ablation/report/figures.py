"""The picture of a study: a metric against NFE, and the paired differences that the verdicts rest on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from scipy import stats

from harness.ablation.design.plan import Plan
from harness.ablation.report import numbers
from harness.ablation.report.findings import REFERENCES
from harness.ablation.report.grid import capitalised
from harness.ablation.report.outcomes import Seeds, combined, pairs
from harness.ablation.report.verdicts import BASELINE, NOT_COMPARED, worded
from harness.core.drawing import COLOURS, inches, legend_below, plain_log, shown
from harness.core.registry import find
from harness.evaluation.metric import label_of

MARKERS = "osD^vP*X"
EFFECT = {"color": "#444444", "marker": "o", "ls": "-"}
"""Style of a main effect; no arm has this colour."""
LINES = {"resampled": "--", "held_out": "-.", "gaussian": ":"}
"""Line styles for the scores of real samples and of noise."""
LINES_AT_MOST = 8
"""With more arms than this, a grid of numbers replaces the lines."""
MOST_TICKS = 6
"""A forest's axis of differences has at most as many ticks, if tenfold steps allow it."""
FOLD = 2.0
"""A grid's colours saturate at this factor above or below the baseline's value."""


def draw(plan: Plan, cells: pd.DataFrame, summary: pd.DataFrame, references: dict[str, dict[str, float]]) -> Figure:
    """The primary metric against NFE; beside it each arm's difference at the primary NFE.

    The metric is drawn as lines with 95 % intervals, or as a grid where the arms are more than `LINES_AT_MOST`.
    """
    figure = Figure(figsize=(11, 4.8 + 0.3 * max(0, len(plan.arms) - 6)), layout="constrained")
    longest = widest(figure, plan, summary)
    many = len(plan.arms) > LINES_AT_MOST
    figure.set_figwidth(11 + (1 + many) * max(0.0, longest - 1))  # a grid has the names on its left too
    curve, forest = figure.subplots(1, 2, width_ratios=[3, 2])
    if many:
        _grid(curve, plan, cells, summary, references)
    else:
        draw_curves(curve, plan, cells, summary, references)
    draw_forest(forest, plan, cells, summary)
    handles = [handle for axes in (curve, forest) for handle in axes.get_legend_handles_labels()[0]]
    legend_below(figure, handles)
    return figure


def widest(figure: Figure, plan: Plan, summary: pd.DataFrame) -> float:
    """Return the width of the longest label of a study's forest, in inches."""
    primary: Any = summary[summary.primary].set_index("arm")
    labels = [label for arm in primary.index for label in (_label(arm, summary), _said(plan, primary.loc[arm]))]
    return max(inches(figure, label, 10) for label in labels)


def mark(plan: Plan, name: str) -> str:
    """Return the id, in a drawing, of everything that belongs to an arm or an effect."""
    arms = list(plan.arms)
    return f"arm-{arms.index(name)}" if name in plan.arms else f"effect-{list(plan.contrasts).index(name)}"


def _marked(artists: Iterable[Artist], mark: str) -> None:
    for artist in artists:
        artist.set_gid(mark)


def draw_curves(
    axes: Axes, plan: Plan, cells: pd.DataFrame, summary: pd.DataFrame, references: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw the primary metric against NFE: a line with 95 % intervals for each arm, and the scores of references."""
    values = cells.dropna(subset="value")
    of_metric = summary[(summary.metric == plan.metric) & (summary.n > 0) & summary.arm.isin(plan.arms)]
    calls = values[values.metric == plan.metric].groupby(["arm", "nfe"]).calls.mean()
    for i, arm in enumerate(plan.arms):
        own = of_metric[of_metric.arm == arm].sort_values("nfe")
        half = stats.t.ppf(0.975, (own.n - 1).clip(lower=1)) * (own.sd / own.n**0.5).fillna(0)
        aside = 1.15 ** (i / len(plan.arms) - 0.5)  # side by side where they would cover each other
        x = [calls[arm, nfe] * aside for nfe in own.nfe]
        label = _label(arm, summary[summary.metric == plan.metric])
        drawn = axes.errorbar(x, own["mean"], half, label=label, ms=5, lw=1.4, capsize=2, **style_of(i))
        _marked(drawn.get_children(), mark(plan, arm))
    for kind, style in LINES.items():
        if plan.metric in references.get(kind, {}):
            axes.axhline(references[kind][plan.metric], color="grey", ls=style, lw=1, label=REFERENCES[kind].label)
    seeds, equal = _of_what(plan, of_metric)
    axes.set_title(f"mean over {seeds}, 95 % intervals{equal}", fontsize=10)
    _scale(axes, plan.metric, of_metric)


def _of_what(plan: Plan, rows: pd.DataFrame) -> tuple[str, str]:
    """Return words for the seeds of the means, and for the number of samples where NFEs differ in it."""
    seeds = (
        f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
        if (rows.n == len(plan.seeds)).all()
        else "the seeds that have a value"
    )
    few = plan.arms[plan.baseline].evaluate.num_samples
    return seeds, f",\nof the first {few:,} samples at every NFE" if numbers.more(plan) else ""


def _grid(
    axes: Axes, plan: Plan, cells: pd.DataFrame, summary: pd.DataFrame, references: dict[str, dict[str, float]]
) -> None:
    """Write the means as numbers, coloured by the paired differences: arms that were decided early have fewer seeds."""
    rows = summary[(summary.metric == plan.metric) & (summary.n > 0) & summary.arm.isin(plan.arms)]
    table = rows.pivot(index="arm", columns="nfe", values="mean").reindex([*plan.arms])
    means = table.to_numpy(float)
    ratios = _log_ratios(plan, cells).reindex(index=table.index, columns=table.columns)
    lower = find("metric", plan.metric).lower_is_better  # type: ignore[attr-defined]
    colours = "RdBu_r" if lower else "RdBu"
    axes.imshow(ratios, aspect="auto", cmap=colours, vmin=-math.log(FOLD), vmax=math.log(FOLD), alpha=0.7)
    for (y, x), mean in np.ndenumerate(means):
        if not math.isnan(mean):
            axes.text(x, y, f"{mean:.3g}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(table.columns)), [str(nfe or "adaptive") for nfe in table.columns])
    names = [_label(arm, summary[summary.metric == plan.metric]) for arm in plan.arms]
    axes.set_yticks(range(len(names)), names)
    known = {kind: references[kind][plan.metric] for kind in LINES if plan.metric in references.get(kind, {})}
    real = [f"{REFERENCES[kind].label} {value:.3g}" for kind, value in known.items()]
    axes.set_xlabel("\n".join(["NFE", *([f"for comparison: {', '.join(real)}"] if real else [])]))
    seeds, equal = _of_what(plan, rows)
    against = f"blue is better than {shown(plan.baseline)} on the same seeds, red is worse; deepest at {FOLD:g} times"
    axes.set_title(f"{capitalised(label_of(plan.metric))}, mean over {seeds}{equal}\n{against}", fontsize=10)


def _log_ratios(plan: Plan, cells: pd.DataFrame) -> pd.DataFrame:
    """Return log(arm / baseline) by arm and NFE, mean over the seeds that both have."""
    own = numbers.alike(plan, cells)
    wide = own[own.metric == plan.metric].pivot(index=["arm", "seed"], columns="nfe", values="value")
    logs = wide.where(wide > 0).apply(np.log)
    base = logs.loc[plan.baseline].reindex(logs.index.get_level_values("seed"))
    return (logs - base.to_numpy()).groupby("arm").mean()


def _scale(axes: Axes, metric: str, rows: pd.DataFrame) -> None:
    """Make both axes logarithmic where values are positive, with a tick at every NFE."""
    scale = "log" if len(rows) else "linear"
    axes.set(xscale=scale, yscale=scale if (rows["mean"] > 0).all() else "linear")
    axes.set(xlabel="NFE", ylabel=capitalised(label_of(metric)))
    ticks = _apart(nfe for nfe in rows.nfe.unique() if nfe)  # NFE 0: an adaptive solver, drawn at its calls
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    if len(ticks) == 1 and rows.nfe.nunique() == 1:
        axes.set_xlim(ticks[0] / 2, 2 * ticks[0])
    if axes.get_yscale() == "log":
        plain_log(axes, "y", *axes.get_ylim())
    axes.grid(alpha=0.25)


def _apart(values: Iterable[int]) -> list[int]:
    """Select values whose tick labels do not overlap on a logarithmic axis; the largest is among them."""
    falling = sorted(values, reverse=True)
    chosen = falling[:1]
    for value in falling[1:]:
        if math.log(chosen[-1] / value) > 0.05 * math.log(falling[0] / falling[-1]):
            chosen.append(value)
    return chosen


def seed_ratios(plan: Plan, cells: pd.DataFrame) -> dict[str, pd.Series]:
    """Return {contrast: its value over its base's, by seed}, at the primary metric and NFE."""
    values = cells.dropna(subset="value")
    at_primary = values[(values.metric == plan.metric) & (values.nfe == plan.nfe)]
    by_arm = {str(arm): own.set_index("seed") for arm, own in at_primary.groupby("arm")}
    out = {}
    for name, contrast in plan.contrasts.items():
        own, base = (combined(by_arm, arms) for arms in (contrast.arms, contrast.against))
        found = pairs(own, base, plan.seeds)
        out[name] = (found.own / found.base).sort_index()
    return out


def draw_forest(axes: Axes, plan: Plan, cells: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Draw each arm's difference at the primary NFE with its interval, and a tick for each seed."""
    rows: Any = summary[summary.primary].set_index("arm")
    others = rows.index[rows.verdict != BASELINE]
    smallest = 100 * plan.smallest_difference
    axes.axvspan(-smallest, smallest, color="grey", alpha=0.15, label=f"smallest difference, ±{smallest:g} %")
    axes.axvline(0, color="grey", lw=1)
    by_seed = seed_ratios(plan, cells)
    for y, arm in enumerate(others):
        style = style_of(list(plan.arms).index(arm)) if arm in plan.arms else EFFECT
        row = rows.loc[arm]
        if not math.isnan(row.difference) and row.verdict != NOT_COMPARED:
            drawn = []
            if not math.isnan(row.low):
                drawn += axes.plot([100 * row.low, 100 * row.high], [y, y], color=style["color"], ls=style["ls"], lw=2)
            drawn += axes.plot([100 * row.difference], [y], **style)
            ratios = 100 * (by_seed[arm] - 1)
            drawn += axes.plot(ratios, [y + 0.15] * len(ratios), "|", color=style["color"], alpha=0.7)
            _marked(drawn, mark(plan, arm))
    signed_axis(axes, smallest)
    axes.set_yticks(
        range(len(others)), [f"{_label(arm, summary[summary.primary])}\n{_said(plan, rows.loc[arm])}" for arm in others]
    )
    axes.set_ylim(len(others) - 0.5, -0.6)
    against = "the first level of its axis" if plan.kind == "effect" else shown(plan.against)
    metric = capitalised(label_of(plan.metric))
    apart = "\n" if len(metric) + len(against) > 15 else " "
    place = numbers.header(plan, plan.nfe) if plan.nfe else "0"
    axes.set_xlabel(f"{metric} at NFE {place} against{apart}{against}, %")
    what = "main effect" if plan.kind == "effect" else "paired difference"
    axes.set_title(f"{what} at the {plan.kind}'s look\n(ticks are seeds)", fontsize=10)


def signed_axis(axes: Axes, smallest: float) -> None:
    """Make the x axis one of differences in percent: linear up to `smallest`, so that ties can be seen."""
    axes.set_xscale("symlog", linthresh=smallest)
    low, high = axes.get_xlim()
    axes.set_xticks(signed_ticks(smallest, low, high))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+,.0f}" if x else "0"))
    axes.xaxis.set_minor_locator(NullLocator())


def signed_ticks(smallest: float, low: float, high: float) -> list[float]:
    """Return ticks from `low` to `high` on both sides of 0, in steps of factors; fewer where they would be many."""
    ticks = list[float]()
    for factors in ((1, 2, 5), (1, 3), (1,)):
        sizes = [smallest * factor * 10**i for i in range(5) for factor in factors]
        ticks = [0, *(x for size in sizes for x in (-size, size) if low <= x <= high)]
        if len(ticks) <= MOST_TICKS:
            break
    return ticks


def _said(plan: Plan, row: pd.Series) -> str:
    """A verdict with its look."""
    look = "" if pd.isna(row.look) else f", look {row.look} of {len(plan.looks.seeds)}"
    return worded(row) + look


def _label(arm: str, rows: pd.DataFrame) -> str:
    """Return an arm's name, with its missing seeds at the NFE where most are missing."""
    own: Any = rows[(rows.arm == arm) & (rows[["n", "diverged", "failed"]].sum(axis=1) > 0)]
    missing = Seeds.of(own.loc[own.n.idxmin()]).missing if len(own) else ""
    return f"{shown(arm)} ({missing})" if missing else shown(arm)


def style_of(index: int) -> dict[str, Any]:
    """Return colour, marker and line style by index; from the ninth on, markers are hollow and lines dashed."""
    lap, place = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[place],
        "marker": MARKERS[place],
        "mfc": "white" if lap % 2 else COLOURS[place],
        "ls": "--" if lap % 2 else "-",
    }
