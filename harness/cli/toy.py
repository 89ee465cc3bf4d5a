"""`harness toy`: trains every interpolant with every prediction on points, and compares samples with data."""

from __future__ import annotations

import argparse

from harness.ablation.execute.toy import asked, combinations, real_distances
from harness.ablation.report import toy
from harness.ablation.report.committed import publishing_folder
from harness.ablation.report.published import renew
from harness.cli.shared import own_folder, told
from harness.core.errors import UserError
from harness.core.files import write_atomic
from harness.core.progress import shown, terminal
from harness.core.signals import StopSignal


def run(options: argparse.Namespace) -> None:
    """Train all, write the files and print the table; or publish the files of the last time."""
    if options.publish:
        return _publish()
    console = terminal()
    found = list(shown(combinations(StopSignal()), "toy", len(asked()), console))
    frame = toy.table(found, real_distances())
    origin = toy.about(found)
    paths = toy.write(found, frame, origin, own_folder())
    print(f"\n{toy.markdown(frame, origin)}")
    told(paths, console)


def _publish() -> None:
    """Copy the files to the committed ones, and mark tables that an earlier version of the code made."""
    own = own_folder()
    if missing := [name for name in toy.FILES if not (own / name).is_file()]:
        raise UserError(f"{own / missing[0]}: no such file. Run `harness toy` first.")
    committed = publishing_folder()
    for name in toy.FILES:
        write_atomic(committed / name, (own / name).read_bytes())
    told([committed / name for name in toy.FILES], terminal())
    renew()
