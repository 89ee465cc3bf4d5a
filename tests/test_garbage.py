"""The installed command's collector passes over what imports made; that of other processes does not change."""

from __future__ import annotations

import gc
import subprocess
import sys

from harness.core.garbage import pass_over

COMMAND = """
import gc, sys
from harness import cli
from harness.__main__ import run

def stopped(options):
    print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 50_000)

import harness.cli.table
harness.cli.table.run = stopped
sys.argv = ["harness", "table", "weighting"]
run()
"""


def test_a_command_runs_with_a_collector_that_visits_no_imported_object() -> None:
    ended = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True"] * 3, ended.stderr


def test_a_process_that_began_with_the_collector_keeps_it() -> None:
    assert gc.isenabled()
    pass_over()
    assert gc.get_freeze_count() == 0
