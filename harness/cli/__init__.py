"""The command line: reads which command is meant, and imports it only then."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence

from harness.cli.arguments import read
from harness.core.errors import guarded
from harness.core.streams import announce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness ARGUMENTS`; returns the exit code.

    0; 1 where `doctor` finds what hinders; 2 after a user's mistake; 130 when stopped.
    """
    options = read(arguments)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int | None:
    """Announce the command, then import and run it: torch and MLflow take seconds to import.

    Its exit code, where it has one of its own.
    """
    if os.environ.get("RANK", "0") == "0":
        announce("harness: loading ...")
    if options.plugin:
        from harness.core.registry import load_plugins

        load_plugins(options.plugin)
    code: int | None = importlib.import_module(options.module).run(options)
    return code
