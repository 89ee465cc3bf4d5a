"""The figure of a split variance: the sds by number of samples, and the cost of finding a difference."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.ablation.report.resampled import Found
from harness.core.drawing import COLOURS, legend_below, plain_log, png, shown

MARKERS = "osD^vP*X"


def draw(found: Found) -> bytes:
    """Draw a PNG: each arm's sds between sampling seeds, with their law, and between training seeds; and the costs."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    sds, costs = figure.subplots(1, 2)
    _sds(sds, found)
    _costs(costs, found)
    for axes in (sds, costs):
        ticks = [way.samples for way in found.ways]
        plain_log(axes, "x", ticks[0], ticks[-1])
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xlabel(f"samples at NFE {found.design.plan.nfe}")
        axes.grid(alpha=0.25)
    legend_below(figure, [handle for axes in (sds, costs) for handle in axes.get_legend_handles_labels()[0]])
    return png(figure)


def _sds(axes: Axes, found: Found) -> None:
    numbers = np.array([way.samples for way in found.ways])
    drawn = []
    for i, (arm, splits) in enumerate(found.splits.items()):
        colour = COLOURS[i % len(COLOURS)]
        n = [own.samples for own in splits]
        sampling = [math.sqrt(own.sampling) for own in splits]
        training = [math.sqrt(own.training) if own.training else math.nan for own in splits]
        axes.plot(n, sampling, MARKERS[i % len(MARKERS)], color=colour, ms=5, label=shown(arm))
        axes.plot(numbers, [math.sqrt(way.splits[arm].sampling) for way in found.ways], "-", color=colour, lw=1)
        axes.plot(n, training, MARKERS[i % len(MARKERS)], color=colour, ms=5, mfc="white", ls="--", lw=1)
        drawn += [sd for sd in (*sampling, *training) if sd > 0]
    if drawn:
        plain_log(axes, "y", min(drawn), max(drawn))
    axes.set_ylabel(f"sd of log ratios to {shown(found.design.plan.baseline)}")
    axes.set_title("filled: between sampling seeds, line: its law;\nhollow: between training seeds", fontsize=10)


def _costs(axes: Axes, found: Found) -> None:
    lines = {arm: {way.samples: way.seconds[arm] for way in found.ways} for arm in found.splits}
    drawn: list[float] = []
    for i, (arm, seconds) in enumerate(lines.items()):
        own = {n: value / 3600 for n, value in seconds.items() if math.isfinite(value)}
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(list(own), list(own.values()), MARKERS[i % len(MARKERS)], color=colour, ls="-", lw=1, ms=5)
        if (best := found.cheapest_of(arm)) is not None:
            axes.plot([best], [own[best]], "o", ms=11, mfc="none", mec=colour)
        drawn += own.values()
    total = {way.samples: way.total / 3600 for way in found.ways if math.isfinite(way.total)}
    if total and found.cheapest:
        axes.plot(list(total), list(total.values()), color="black", lw=2, label=found.together)
        axes.plot([found.cheapest], [total[found.cheapest]], "o", ms=11, mfc="none", mec="black", label="cheapest")
        drawn += total.values()
    if drawn:
        plain_log(axes, "y", min(drawn), max(drawn))
    axes.set_ylabel("hours")
    axes.set_title(f"to find {found.wanted} with 80 % power", fontsize=10)
