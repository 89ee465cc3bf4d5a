"""Shared by all figures: colours, names as a user wrote them, PNG output, and going on after a figure fails.

Text in a figure is never parsed as a formula, because a user's name may contain dollar signs. Matplotlib writes
logarithmic ticks as formulas, so `plain_log` replaces them.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from harness.core.errors import Pruned, Stopped, UserError, in_a_line
from harness.core.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's palette; colour-blind readers can tell its colours apart."""
NARROW = 3.0
"""Ratios over a range smaller than this factor have evenly spaced ticks."""
T = TypeVar("T")
_TOLD: set[tuple[Path, str]] = set()
"""(folder, reason) of each failure that was already reported."""


class Undrawable(UserError):
    """A figure cannot be drawn from its data."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: cannot be drawn ({reason}).")
        self.place = path.parent, reason
        self.reason = reason


def write_picture(path: Path, make: Callable[[], bytes]) -> None:
    """Write the PNG that `make` returns. `Undrawable` if `make` fails; a full disk or a stop is raised unchanged."""
    write_atomic(path, drawn(path, make))


def drawn(path: Path, make: Callable[[], T]) -> T:
    """Return the figure that `make` returns for a file. `Undrawable` if it fails, as for `write_picture`."""
    try:
        return make()
    except (UserError, Stopped, Pruned, OSError):
        raise
    except Exception as error:  # drawing libraries raise many types
        raise Undrawable(path, in_a_line(error)) from error


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Go on without a figure that cannot be drawn; print each reason once per folder, on standard error."""
    try:
        yield
    except Undrawable as error:
        if error.place not in _TOLD:
            _TOLD.add(error.place)
            print(f"{error} The work goes on without it.", file=sys.stderr, flush=True)


def png(figure: Figure, dpi: int = 130) -> bytes:
    """Return a figure as PNG bytes, which are the same on every machine."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    content = io.BytesIO()
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def shown(name: str, most: int = 40) -> str:
    """Return a user's name for use in a figure: one line of at most `most` characters.

    Matplotlib omits legend entries that begin with `_`; such a name gets a zero-width space in front.
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return f"\u200b{line}" if line.startswith("_") else line


def inches(figure: Figure, name: str, size: float) -> float:
    """Return the width of a name in a figure, in inches, at a font size of `size` points."""
    text = figure.text(0, 0, name, fontsize=size, parse_math=False)
    width = text.get_window_extent().width / figure.dpi
    text.remove()
    return width


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a legend below the figure, with as many columns as fit; the figure becomes higher by the legend's rows."""
    longest = max(inches(figure, str(handle.get_label()), 8) for handle in handles)
    columns = max(1, min(7, len(handles), int((figure.get_figwidth() - 0.2) / (longest + 0.6))))
    figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)


def plain_log(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic, with a few plain numbers as ticks between `low` and `high`, both above 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    wide = 100 if which == "x" else 1000
    few = (1.0,) if high > wide * low else (1.0, 2.0, 5.0)
    subs = range(1, 10) if low < high <= 3 * low else few
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def ratio_axis(axes: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic for ratios between `low` and `high`, with ticks also where these are close."""
    from matplotlib.ticker import MaxNLocator

    plain_log(axes, "y", low, high)
    if high < NARROW * low:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
