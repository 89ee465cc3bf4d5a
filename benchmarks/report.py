"""The report of a benchmark: a table on the terminal, and a file with the numbers and their origin.

The file is results/local/benchmarks/<name>.json, or <name>-gpu.json on a machine with a GPU. `make publish STUDY=bench`
copies these files to the committed results/benchmarks/.
"""

from __future__ import annotations

import datetime
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from harness.core.files import results_folder, write_json
from harness.core.provenance import commit, machine

RESULTS = results_folder() / "local" / "benchmarks"
"""Set on import, because a benchmark later changes the results folder for the runs that it measures."""


class Spread(NamedTuple):
    """A quantity measured several times in one run of a benchmark."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the median, smallest and largest of values."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Spread:
        """Return the spread of the ratios of values measured in turns, one ratio per repetition."""
        return cls.of([a / b for a, b in zip(above, below, strict=True)])

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


Row = Mapping[str, Any]
"""{column: text, number or `Spread`}"""


def publish(name: str, title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Path:
    """Print rows (all with the same columns) and notes, and write them; the file has the numbers unrounded."""
    table = Table(title=title)
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row.values()))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(f"- {note}", highlight=False, markup=False)
    where = "" if machine()["accelerator"] == "none" else "-gpu"
    path = RESULTS / f"{name}{where}.json"
    write_json(path, {"benchmark": title, **_provenance(), "rows": [_plain(row) for row in rows], "notes": list(notes)})
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return path


def _provenance() -> dict[str, Any]:
    script = sys.modules["__main__"].__spec__
    command = ["python", "-m", script.name] if script else ["python", sys.argv[0]]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"command": shlex.join([*command, *sys.argv[1:]]), "date": now, "commit": commit(), "machine": machine()}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(row: Row) -> dict[str, Any]:
    return {key: value._asdict() if isinstance(value, Spread) else value for key, value in row.items()}
