"""`harness toy`: every interpolant with every prediction on points in the plane: does each find the distribution?"""

from __future__ import annotations

import argparse

from rich.console import Console

from harness.ablation.execute.toy import combinations, real_distances
from harness.ablation.report import toy
from harness.ablation.report.published import published_folder, renew
from harness.cli.shared import own_folder, told
from harness.core.errors import UserError
from harness.core.files import write_atomic


def run(options: argparse.Namespace) -> None:
    """Train all, print the table and write the files; or publish those of the last time."""
    if options.publish:
        return _publish()
    found = list(combinations())
    frame = toy.table(found, real_distances())
    origin = toy.about()
    print(f"\n{toy.markdown(frame, origin)}")
    told(toy.write(found, frame, origin, own_folder()), Console())


def _publish() -> None:
    """Copy the files to the committed ones, and mark what an earlier version of the code made."""
    own = own_folder()
    if missing := [name for name in toy.FILES if not (own / name).is_file()]:
        raise UserError(f"{own / missing[0]}: there is none. Run `make toy` first.")
    committed = published_folder()
    for name in toy.FILES:
        write_atomic(committed / name, (own / name).read_bytes())
    told([committed / name for name in toy.FILES], Console())
    renew()
