"""The figure of a study with axes: the effect of each level of one axis at each level of another."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.ablation.design.plan import Plan
from harness.ablation.report.figures import style_of
from harness.ablation.report.grid import capitalised
from harness.ablation.report.interactions import Interactions
from harness.ablation.report.statistics import compare
from harness.core.drawing import ratio_axis, shown
from harness.evaluation.metric import label_of

COLUMNS = 3
"""Panels side by side."""


def draw(plan: Plan, found: Interactions) -> Figure:
    """Draw a panel for every pair of axes; its lines are parallel where the axes do not interact."""
    columns = min(COLUMNS, len(found.groups))
    rows = -(-len(found.groups) // columns)
    figure = Figure(figsize=(max(7.0, 0.6 + 4.8 * columns), 0.8 + 4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, group in zip(panels, found.groups, strict=False):
        _panel(axes, plan, found, *group[0])
        if len(group) > 1:
            axes.set_title(" + ".join(" × ".join(map(shown, pair)) for pair in group), fontsize=8)
    for axes in panels[len(found.groups) :]:
        axes.set_axis_off()
    what = f"{capitalised(label_of(plan.metric))} at NFE {plan.nfe}, mean over {len(found.logs)} seeds"
    figure.suptitle(f"{what}\nparallel lines: no interaction; unadjusted 95 % intervals of paired ratios", fontsize=10)
    return figure


def _panel(axes: Axes, plan: Plan, found: Interactions, one: str, other: str) -> None:
    """Draw the levels of `one` along x, with a line for each level of `other`."""
    crossing = plan.crossing
    assert crossing
    first = crossing.levels[one][0], crossing.levels[other][0]
    lines = crossing.levels[other]
    ends = [1.0]
    for i, of_other in enumerate(lines):
        aside = 0.16 * (i / max(1, len(lines) - 1) - 0.5)  # markers stand side by side
        xs, ratios, spans = [], [], []
        for x, of_one in enumerate(crossing.levels[one]):
            own, base = crossing.corners([one, other], (of_one, of_other), first)
            if own:
                values = (np.exp(found.logs[list(arms)].mean(axis=1)).tolist() for arms in (own, base))
                against = compare(*values)
                low, middle, high = (1 + size for size in (against.low, against.difference, against.high))
                xs.append(x + aside)
                ratios.append(middle)
                spans.append((middle - low, high - middle))
                ends += [low, high]
        style = style_of(i)
        axes.errorbar(xs, ratios, np.array(spans).T, label=shown(of_other), ms=5, lw=1.4, capsize=2, **style)
    axes.set_xticks(range(len(crossing.levels[one])), [shown(level, 20) for level in crossing.levels[one]])
    axes.set(xlabel=shown(one), ylabel=f"ratio to {shown(first[0], 20)}, {shown(first[1], 20)}")
    ratio_axis(axes, min(ends), max(ends))
    axes.grid(alpha=0.25)
    axes.legend(title=shown(other), fontsize=8, title_fontsize=8)
