"""The command line: reads which command is meant, and imports it only then."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from harness.cli.arguments import read
from harness.core.errors import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness ARGUMENTS`; returns the exit code.

    0; 1 where `doctor` finds what hinders; 2 after a user's mistake; 130 when stopped.
    """
    options = read(arguments)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int | None:
    """The command; its exit code, where it has one of its own."""
    if options.plugin:
        from harness.core.registry import load_plugins

        load_plugins(options.plugin)
    code: int | None = importlib.import_module(options.module).run(options)
    return code
