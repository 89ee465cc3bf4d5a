"""`harness lineage`: what a run was made from: data, flows and pairs."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.tree import Tree

from harness.cli.shared import opened
from harness.core.errors import UserError
from harness.runs import lineage


def run(options: argparse.Namespace) -> None:
    """Print it as a tree, and draw it where that is asked for."""
    if options.out is not None and options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} is no .png. Name a picture.")
    links = lineage.lineage(opened(options.run, options.changes))
    root = tree = Tree(lineage.described(links[0]))
    for link in links[1:]:
        tree = tree.add(lineage.described(link))
    Console().print(root, highlight=False, soft_wrap=True)
    if options.out is not None:
        lineage.draw(links, options.out)
        print(f"wrote {options.out}")
