"""`harness report`: writes a study's page from the runs on disk, without training."""

from __future__ import annotations

import argparse

from harness.ablation.report import page
from harness.cli.plans import prepare, reported, training_command
from harness.cli.shared import own_folder, told
from harness.cli.table import measured
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Write the page; `UserError` if nothing is measured yet."""
    console = terminal()
    plan = measured(options)
    made = reported(plan, prepare(plan, console))
    told([page.write(made, own_folder(), training_command(options))], console)
