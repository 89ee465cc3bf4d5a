"""One run on every kind of data: does it make something real, and how far from the real is it?

    python studies/gallery.py [--publish] [SCALE ...]

Trains each scale once, the small ones longer than a study would (what is trained already is found again), judges it at its
largest NFE and prints every metric beside what real samples and Gaussian noise score. One seed each: no comparison. Writes
tables/gallery.{md,csv,json} and a picture of each below results/local; the rows of other scales stay there. Scales whose data
are not there are left out, and said. With --publish nothing is trained: the scales that have ended, or those named, replace
their rows and pictures in the committed table.
"""

from __future__ import annotations

import datetime
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from harness.ablation.design.study import load_scale
from harness.ablation.report.grids import Grid, titled
from harness.ablation.report.published import marked, published_folder
from harness.ablation.report.tables import VERSIONS, judge_references
from harness.core.config import override
from harness.core.errors import UserError, guarded
from harness.core.files import read_json, results_folder, write_atomic, write_json
from harness.core.provenance import machine
from harness.core.signals import StopSignal
from harness.evaluation.judge import Judge
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import judge_of
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Trial, Watch
from harness.runs.train import ensure
from harness.runs.validate import check

QUESTION = "Does one run on every kind of data make something real?"
SCALES: dict[str, dict[str, Any]] = {
    "digits": {"train.steps": 2000},
    "digits_dit": {},
    "digits_classes": {},
    "fashion_small": {},
    "points": {},
    "cells": {"train.steps": 5000},
    "transport": {"train.steps": 5000},
    "sequences": {},
}
"""{scale: what is changed in it}."""
COLUMNS = ["scale", "metric", "nfe", "value", "held_out", "resampled", "gaussian"]


def train(scale: str, run: Run, console: Console, stop: StopSignal) -> None:
    """Train and judge the run of a scale while its progress is shown."""
    trial = Trial(scale, run, run.config.protocol(), {})
    with Watch(f"gallery {scale}", [trial], Mirror("gallery"), console):
        ensure(run.config, console.print, stop)


def finished(scale: str, config: RunConfig) -> Run:
    """The run of a scale on disk; `UserError` where it has not ended."""
    run = Run.of(config)
    if not run.evaluated(config.protocol()):
        raise UserError(f"it has not ended. Run `make gallery SCALES={scale}` first.")
    return run


def rows(scale: str, run: Run, judge: Judge) -> list[tuple]:
    """`COLUMNS` of every metric at the largest NFE."""
    nfe, values, real = max(run.config.evaluate.nfe), run.evaluation(judge.protocol)["values"], judge_references(judge)
    return [
        (
            scale,
            metric.name,
            nfe,
            values[metric.name][str(nfe)],
            *(real.get(kind, {}).get(metric.name) for kind in COLUMNS[4:]),
        )
        for metric in run.config.evaluate.metrics
    ]


def about(run: Run, judge: Judge) -> dict[str, Any]:
    """Where a scale's rows come from and what they cost."""
    lines, seconds = run.metrics(), sum(run.evaluation(judge.protocol)["seconds"].values())
    return {
        "run": run.name,
        "commits": run.environment["commits"],
        **VERSIONS,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "parameters": run.environment["parameters"],
        "training_minutes": round((lines[-1]["time"] - lines[0]["time"]) / 60, 1),
        "evaluation_minutes": round(seconds / 60, 1),
    }


def write(folder: Path, found: list[tuple], origins: dict[str, Any]) -> list[Path]:
    """Replace the rows of the scales that were found in the table below `folder`; returns the paths."""
    paths = [folder / "tables" / f"gallery.{ending}" for ending in ("csv", "json", "md")]
    frame = pd.DataFrame(found, columns=COLUMNS)
    scales = origins
    if paths[0].exists():
        before = pd.read_csv(paths[0])
        frame = pd.concat([before[~before.scale.isin(origins)], frame])
        scales = read_json(paths[1])["scales"] | origins
    order = {scale: i for i, scale in enumerate([*SCALES, *scales])}
    frame = frame.sort_values("scale", key=lambda names: names.map(order), kind="stable").round(5)
    table = {
        "question": QUESTION,
        "command": "python studies/gallery.py",
        "scales": {scale: scales[scale] for scale in frame.scale.unique()},
    }
    write_atomic(paths[0], frame.to_csv(index=False))
    write_json(paths[1], table)
    write_atomic(paths[2], marked(markdown(pd.read_csv(paths[0]), table), table))
    return paths


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows as text, each metric with the direction in which it is better."""
    return frame.assign(metric=frame.metric.map(titled)).round(4).astype(object).fillna("-").astype(str)


def markdown(frame: pd.DataFrame, table: dict[str, Any]) -> str:
    """The table for people, with the pictures of its scales."""
    grid = Grid(
        "Beside held-out and resampled real samples and Gaussian noise, one seed each",
        COLUMNS,
        shown(frame).to_numpy().tolist(),
    )
    pictures = "\n".join(f"![{scale}](../figures/gallery-{scale}.png)" for scale in table["scales"])
    end = "Made by `python studies/gallery.py`; gallery.json says of every scale by which run, at which commit and on which machine."
    return "\n\n".join([f"# {table['question']}", grid.markdown(), pictures, end]) + "\n"


def main(scales: list[str], publish: bool = False) -> None:
    """Run all, or find all that have ended, print the table and write the files."""
    console, stop, found, origins = Console(), StopSignal(), list[tuple](), dict[str, Any]()
    folder = published_folder() if publish else results_folder() / "local"
    for scale in scales or SCALES:
        config = override(load_scale(scale), SCALES.get(scale, {}))
        try:
            check(config)
            run = finished(scale, config) if publish else Run.of(config)
        except UserError as error:
            if publish and scales:
                raise UserError(f"{scale}: {error}") from None
            console.print(f"{scale} is left out: {error}", highlight=False)
            continue
        if not publish:
            train(scale, run, console, stop)
        judge = judge_of(config)
        found += rows(scale, run, judge)
        origins[scale] = about(run, judge)
        picture = run.folder / "samples" / f"step-{config.train.steps:07d}.png"
        (figures := folder / "figures").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, figures / f"gallery-{scale}.png")
    if not origins:
        raise UserError("gallery: no scale has ended, so there is nothing to write. Run `make gallery` first.")
    console.print(shown(pd.DataFrame(found, columns=COLUMNS)).to_string(index=False), highlight=False)
    console.print(f"wrote {', '.join(map(str, write(folder, found, origins)))}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--publish"]
    sys.exit(guarded(lambda: main(words, publish="--publish" in sys.argv)))
