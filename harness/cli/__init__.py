"""The command line: reads the name of the command, then imports only its module."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence

from harness.ablation.design.folder import refuse_unknown_scale
from harness.cli.arguments import read
from harness.core.errors import guarded
from harness.core.garbage import pass_over
from harness.core.streams import announce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness ARGUMENTS`; returns the exit code.

    0: success; 1: `doctor` found a fault that prevents training; 2: a user's mistake; 130: stopped.
    """
    options = read(arguments)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int | None:
    """Refuse an unknown scale, announce the command, then import and run it: torch and MLflow need seconds.

    Returns the exit code that the command chooses, or None.
    """
    if getattr(options, "scale", None):
        refuse_unknown_scale(options.scale)
    if os.environ.get("RANK", "0") == "0":
        announce("harness: loading ...")
    if options.plugin:
        from harness.core.registry import load_plugins

        load_plugins(options.plugin)
    command = importlib.import_module(options.module)
    pass_over()
    code: int | None = command.run(options)
    return code
