"""SVG pictures for a light and a dark background, drawn once."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context

from harness.core.drawing import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#202428"
FAINT = "#c9ced4"
SERIES = (*COLOURS[:6], "#202429", "#8a8f95")
"""Colours of lines, the last two for a light background only."""
ON_DARK = {
    INK: "#e4e7eb", FAINT: "#4a5058", "#202429": "#f4f4f4", "#8a8f95": "#a5abb2",
    "#0072b2": "#4d9fe8", "#56b4e9": "#b5e3ff", "#d55e00": "#ff9a56", "#009e73": "#3fd1a5",
}  # fmt: skip
"""{colour: the one that replaces it on a dark background}"""
STYLE: Any = {
    "svg.fonttype": "path", "font.size": 9, "axes.facecolor": "none", "figure.facecolor": "none",
    "savefig.facecolor": "none", "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": FAINT, "grid.linewidth": 0.6, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.7,
    "axes.titlesize": 9, "legend.fontsize": 8,
}  # fmt: skip


BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncols": 3}
"""Arguments of a legend below the axes, where a phone has room for it."""


@dataclass(frozen=True)
class Picture:
    """An SVG for a light and one for a dark background."""

    name: str
    alt: str
    light: str
    dark: str

    def markdown(self) -> str:
        """Return the line that shows the variant of the page's background."""
        return " ".join(f"![{self.alt}](plots/{self.name}-{kind}.svg#only-{kind})" for kind in ("light", "dark"))

    def captioned(self) -> list[str]:
        """Return that line and a caption, as paragraphs."""
        return [self.markdown(), f'<p class="caption">{self.alt}.</p>']


def picture(name: str, alt: str, draw: Callable[[Axes], None], size: tuple[float, float] = (3.5, 2.4)) -> Picture:
    """Draw on axes of `size` inches; two pictures of 3.5 inches stand side by side in a page, or one on a phone."""
    from matplotlib.figure import Figure

    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_prop_cycle(color=SERIES, linestyle=("-", "-", "-", "--", "--", "--", ":", ":"))
        draw(axes)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    light = content.getvalue()
    return Picture(name, alt, light, functools.reduce(lambda svg, pair: svg.replace(*pair), ON_DARK.items(), light))
