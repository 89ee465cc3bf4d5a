"""`harness gallery`: trains one run on every kind of data, and compares it with real samples and Gaussian noise."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import Console

from harness.ablation.design.folder import studies_folder
from harness.ablation.design.study import load_scale
from harness.ablation.report import gallery
from harness.ablation.report.committed import publishing_folder
from harness.cli.plans import with_reference
from harness.cli.shared import own_folder, told
from harness.core.config import override
from harness.core.errors import NoValue, UserError
from harness.core.progress import terminal
from harness.core.signals import StopSignal
from harness.evaluation.judge import Judge
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Followed, Watch
from harness.runs.room import require_room
from harness.runs.train import ensure
from harness.runs.validate import check


def run(options: argparse.Namespace) -> None:
    """Train and judge each scale once, or only find the finished ones; write the files and print the table.

    Finished runs are not trained again. The rows of other scales stay in the table.
    """
    console = terminal()
    folder = publishing_folder() if options.publish else own_folder()
    found: list[tuple] = []
    origins: dict[str, Any] = {}
    for scale, run, judge in _runs(options, console):
        found += gallery.rows(scale, run, judge)
        origins[scale] = gallery.about(run, judge)
        gallery.copy_picture(scale, run, folder)
    if not origins:
        advice = "Run `harness gallery` first." if options.publish else "The lines above say why."
        raise UserError(f"gallery: no scale has finished, so there is nothing to write. {advice}")
    paths = gallery.write(folder, found, origins)
    console.print(gallery.shown(pd.DataFrame(found, columns=gallery.COLUMNS)).to_string(index=False))
    told(paths, console)


def _runs(options: argparse.Namespace, console: Console) -> Iterator[tuple[str, Run, Judge]]:
    """Yield each scale, its finished run and its judge; print why a scale is left out."""
    stop = StopSignal()
    changes = gallery.scales()
    if not (asked := options.scales or changes):
        place = studies_folder() / "gallery.py"
        raise UserError(f"{place}: GALLERY names no scale. Add one there, or name one here: `harness gallery digits`.")
    for scale in asked:
        config = override(load_scale(scale), changes.get(scale, {}))
        try:
            check(config)
            if not options.publish:
                require_room(config)
            run = _finished(scale, config) if options.publish else Run.of(config)
        except UserError as error:
            if options.publish and options.scales:
                raise UserError(f"{scale}: {error}") from None
            console.print(f"{scale} is left out: {error}", soft_wrap=True)
            continue
        judge = with_reference(config, console, stop)
        try:
            if not options.publish:
                _train(scale, run, console, stop)
        except NoValue as error:
            console.print(f"{scale} is left out: {error}", soft_wrap=True)
            continue
        yield scale, run, judge


def _finished(scale: str, config: RunConfig) -> Run:
    """Return the run of a scale on disk; `UserError` if it has not finished."""
    run = Run.of(config)
    if not run.evaluated(config.protocol()):
        raise UserError(f"its run has not finished (looked in {run.folder}). Run `harness gallery {scale}` first.")
    return run


def _train(scale: str, run: Run, console: Console, stop: StopSignal) -> None:
    """Train and judge a run, and show its progress."""
    trial = Followed(scale, run, run.config.protocol(), {"scale": scale})
    with Watch(f"gallery {scale}", [trial], Mirror("gallery"), console):
        ensure(run.config, functools.partial(console.print, soft_wrap=True), stop)
