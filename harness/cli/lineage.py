"""`harness lineage`: shows the data, flows and pairs that a run was made from."""

from __future__ import annotations

import argparse

from rich.tree import Tree

from harness.cli.shared import opened
from harness.core.errors import UserError
from harness.core.progress import terminal
from harness.runs import lineage


def run(options: argparse.Namespace) -> None:
    """Print the lineage as a tree; with `--out`, draw it too."""
    if options.out is not None and options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} must end in .png.")
    links = lineage.lineage(opened(options.run, options.changes))
    if options.out is not None:
        lineage.draw(links, options.out)
    root = tree = Tree(lineage.described(links[0]))
    for link in links[1:]:
        tree = tree.add(lineage.described(link))
    terminal().print(root, soft_wrap=True)
    if options.out is not None:
        print(f"wrote {options.out}")
