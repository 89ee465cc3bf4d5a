"""A table as text, for the terminal, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.io.formats.style import Styler
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.ablation.report import verdicts
from harness.core.registry import find
from harness.evaluation.metric import label_of

VERDICT_COLOURS = {
    "better": "green", "worse": "red", "tie": "cyan", "undecided": "yellow",
    verdicts.UNSTABLE: "magenta", verdicts.NOT_COMPARED: "dim",
}  # fmt: skip
GAP = 2
"""Columns of the terminal between two columns of a table."""
_MARKDOWN = str.maketrans({"|": r"\|", "\n": " "})
"""Characters that would end a cell of Markdown, and their replacements."""
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\n": " "}
    | {"±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
)
"""Characters that LaTeX reads as commands or cannot print, and their replacements."""


@dataclass(frozen=True)
class Grid:
    """A table as text, before it is laid out."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def show(self, console: Console) -> None:
        """Print the table; a row that ends in a verdict has the verdict's colour.

        A table that is too wide is printed in parts, each with the first column. No value is cut or broken; headers,
        and names longer than half the width, wrap.
        """
        console.print(Text(self.title, style="italic"))
        for columns in self._parts(console.width):
            console.print(self._table(columns, console.width), "")

    def fits(self, width: int) -> bool:
        """Whether `show` prints the table in one part."""
        return len(self._parts(width)) == 1

    def _parts(self, width: int) -> list[list[int]]:
        """Return the columns of each part."""
        label = self._width(0, width)
        parts: list[list[int]] = [[]]
        used = label
        for i in range(1, len(self.header)):
            own = GAP + self._width(i, width)
            if parts[-1] and used + own > width:
                parts.append([])
                used = label
            parts[-1].append(i)
            used += own
        return [[0, *columns] for columns in parts]

    def _width(self, column: int, width: int) -> int:
        """Return the smallest width of a column on a terminal of `width` columns."""
        longest = max(map(cell_len, [*self.header[column].split(), *(row[column] for row in self.rows)]), default=0)
        return min(longest, width // 2) if column == 0 else longest

    def _table(self, columns: Sequence[int], width: int) -> Table:
        """Lay out some of the columns; headers stay on one line where there is room."""
        least = {i: self._width(i, width) for i in columns}
        whole = {i: max(own, cell_len(self.header[i])) for i, own in least.items()}
        widths = whole if sum(whole.values()) + GAP * (len(columns) - 1) <= width else least
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for i in columns:
            table.add_column(self.header[i], justify="left" if i == 0 else "right", width=widths[i], overflow="fold")
        for row in self.rows:
            table.add_row(*(row[i] for i in columns), style=VERDICT_COLOURS.get(row[-1].partition(",")[0]))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, below its title."""
        rows = [[cell.translate(_MARKDOWN) for cell in row] for row in (self.header, *self.rows)]
        lines = [rows[0], ["---"] + ["---:"] * (len(self.header) - 1), *rows[1:]]
        return f"{self.title}:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def latex(self, label: str) -> str:
        """Return a LaTeX `table` with the title as its caption; it needs the package booktabs."""
        return self._styled(escaped).to_latex(
            hrules=True, caption=escaped(self.title), label=label, position="htbp", position_float="centering",
            column_format="l" + "r" * (len(self.header) - 1),
        )  # fmt: skip

    def html(self) -> str:
        """Return the table as HTML for a notebook, with the title as its caption."""
        return self._styled(html.escape).set_caption(html.escape(self.title)).to_html()

    def _styled(self, escape: Callable[[str], str]) -> Styler:
        """Return the table for pandas to lay out; two columns may have the same name."""
        header, *rows = ([escape(cell) for cell in row] for row in (self.header, *self.rows))
        frame = pd.DataFrame(rows, columns=range(len(header)))
        return Styler(frame, cell_ids=False).hide(axis="index").format_index(lambda i: header[int(str(i))], axis=1)


def titled(metric: str) -> str:
    """Return a metric's label with an arrow in the direction that is better, like `held-out FID ↓`."""
    lower = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    return f"{label_of(metric)} {'↓' if lower else '↑'}"


def capitalised(text: str) -> str:
    """Return a text with a capital first letter, as a title or sentence begins; all other letters stay."""
    return text[:1].upper() + text[1:]


def escaped(text: str) -> str:
    """Return a text for LaTeX: special characters are escaped, and a number has a proper minus sign."""
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", text.translate(_LATEX))
