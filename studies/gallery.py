"""One run on every kind of data: does it make something real, and how far from the real is it?

    python studies/gallery.py [SCALE ...]

Trains each scale once, the small ones longer than a study would (what is trained already is found again), judges it at its
largest NFE and prints every metric beside what real samples and Gaussian noise score. One seed each: no comparison. Writes
tables/gallery.{csv,json} and a picture of each below the results folder. Scales whose data are not there are left out, and said.
"""

from __future__ import annotations

import datetime
import shutil
import sys
from typing import Any

import pandas as pd
from rich.console import Console

from harness.ablation.study import load_scale
from harness.ablation.tables import judge_references, titled
from harness.checks import check
from harness.config import override
from harness.data.base import load
from harness.environment import machine
from harness.errors import UserError, guarded
from harness.evaluation.judge import Judge
from harness.evaluation.protocol import Protocol
from harness.files import results_folder, write_atomic, write_json
from harness.pipeline import ensure
from harness.runs import Run
from harness.signals import StopSignal
from harness.tracking import Mirror
from harness.watch import Trial, Watch

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


def rows(scale: str, run: Run, judge: Judge) -> list[tuple]:
    """`COLUMNS` of every metric at the largest NFE."""
    nfe, values, real = max(run.config.evaluate.nfe), run.evaluation(judge.protocol)["values"], judge_references(judge)
    return [
        (scale, metric.name, nfe, values[metric.name][str(nfe)], *(real.get(kind, {}).get(metric.name) for kind in COLUMNS[4:]))
        for metric in run.config.evaluate.metrics
    ]


def main(scales: list[str]) -> None:
    """Run all, print the table, write the files."""
    console, stop, found, about = Console(), StopSignal(), [], {}
    for scale in scales:
        config = override(load_scale(scale), SCALES.get(scale, {}))
        try:
            check(config)
        except UserError as error:
            console.print(f"{scale} is left out: {error}", highlight=False)
            continue
        run, data = Run.of(config), load(config.dataset)
        trial = Trial(scale, run, Protocol.of(config.evaluate, data), {})
        with Watch(f"gallery {scale}", [trial], Mirror("gallery"), console):
            ensure(config, console.print, stop)
        judge = Judge(config.evaluate, data, config.train.resolved_device())
        found += rows(scale, run, judge)
        picture = run.folder / "samples" / f"step-{config.train.steps:07d}.png"
        (figures := results_folder() / "figures").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, figures / f"gallery-{scale}.png")
        lines, seconds = run.metrics(), sum(run.evaluation(judge.protocol)["seconds"].values())
        about[scale] = {
            "run": run.name,
            "commits": run.environment["commits"],
            "parameters": run.environment["parameters"],
            "training_minutes": round((lines[-1]["time"] - lines[0]["time"]) / 60, 1),
            "evaluation_minutes": round(seconds / 60, 1),
        }
    frame = pd.DataFrame(found, columns=COLUMNS)
    shown = frame.assign(metric=frame.metric.map(titled)).round(4).astype(object).fillna("-")
    console.print(shown.to_string(index=False), highlight=False)
    write_atomic(results_folder() / "tables" / "gallery.csv", frame.round(5).to_csv(index=False))
    here = {"date": datetime.date.today().isoformat(), "machine": machine(), "scales": about}
    write_json(results_folder() / "tables" / "gallery.json", here)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:] or list(SCALES))))
