"""`harness export`: the network of a finished run in a folder that Python loads in three lines."""

from __future__ import annotations

import argparse

from harness.cli.shared import opened
from harness.runs.export import export


def run(options: argparse.Namespace) -> None:
    """Write the folder; say where it is."""
    export(opened(options.run, options.changes), options.out)
    print(f"wrote {options.out}: {options.out / 'README.md'} says how to load it")
