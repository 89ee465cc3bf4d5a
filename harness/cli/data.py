"""`harness data`: lists the data sets, or prepares one and describes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from harness.core.config import parse_assignments
from harness.core.errors import UserError
from harness.core.progress import terminal
from harness.core.registry import build, describe
from harness.data.base import Data, data_folder, load, spaced
from harness.data.pictures import SHOWN, draw


def run(options: argparse.Namespace) -> None:
    """List the data sets, or describe one and draw it."""
    if options.name is None:
        if options.changes or options.out:
            raise UserError("NAME: no data set is named. Pass one that `harness data` lists.")
        return _list()
    data = load(build("dataset", {"name": options.name, **parse_assignments(options.changes)}))
    drawn = _draw(data, options.out) if options.out else ""
    facts = [f"{name}: {value}" for name, value in _facts(data).items() if value]
    for line in (*facts, *data.notes, *filter(None, [drawn])):
        print(line)


def _list() -> None:
    table = Table("name", "about", "required")
    for member in describe("dataset"):
        required = [name for name, value in member["parameters"].items() if value is None]
        table.add_row(member["name"], member["about"], ", ".join(required))
    terminal().print(table)
    folder = data_folder().absolute()
    print(f"data folder: {folder}; `harness data NAME` prepares a data set and describes it")


def _facts(data: Data) -> dict[str, str]:
    """Return {fact: text}; the text of a missing fact is empty."""
    more = f", ... ({len(data.names)})" if len(data.names) > 8 else ""
    return {
        "samples": f"{len(data.train)} to train on, {len(data.held_out)} held out",
        "kind, shape": f"{data.kind} {list(data.shape)}",
        "classes": ", ".join(data.class_names) or str(data.num_classes or "none"),
        "features": ", ".join(data.names[:8]) + more,
        "fingerprint": str(data.fingerprint["sha256"]),
    }


def _draw(data: Data, path: Path) -> str:
    """Draw held-out samples into a picture; return a line about it."""
    if path.suffix != ".png":
        raise UserError(f"--out: {path} must end in .png.")
    chosen = spaced(SHOWN[data.kind], len(data.held_out))
    draw(data, data.held_out[chosen], path, "held-out samples")
    return f"wrote {path}: {len(chosen)} of {len(data.held_out)} held-out samples"
