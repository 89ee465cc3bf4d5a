"""A table as text, for the terminal and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from harness.ablation.report import verdicts
from harness.core.registry import find

VERDICT_COLOURS = {
    "better": "green", "worse": "red", "tie": "cyan", "undecided": "yellow",
    verdicts.UNSTABLE: "magenta", verdicts.NOT_COMPARED: "dim",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table as text, before it is laid out for the terminal or for Markdown."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        """For the terminal; a row that ends in a verdict has its colour."""
        table = Table(title=self.title)
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row, style=VERDICT_COLOURS.get(row[-1].partition(",")[0]))
        return table

    def markdown(self) -> str:
        """For a file."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return f"{self.title}:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def titled(metric: str) -> str:
    """A metric's name with the direction in which it is better."""
    lower = find("metric", metric).lower_is_better  # type: ignore[attr-defined]
    return f"{metric.upper()} {'↓' if lower else '↑'}"
