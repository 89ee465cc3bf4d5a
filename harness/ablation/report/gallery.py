"""The table of `harness gallery`: metrics of a run on each kind of data, beside those of real samples and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from typing_extensions import TypedDict

from harness.ablation.design.folder import studies_folder
from harness.ablation.report.committed import RESTORED, read_table
from harness.ablation.report.grid import Grid, titled
from harness.ablation.report.origin import made_now
from harness.ablation.report.published import marked
from harness.core.errors import UserError
from harness.core.files import read_json, write_atomic, write_json
from harness.core.reading import say_once
from harness.core.registry import load_file
from harness.evaluation.judge import Judge
from harness.evaluation.yardsticks import judge_references
from harness.runs.folder import Run

QUESTION = "Does one run on every kind of data make something real?"
COLUMNS = ["scale", "metric", "nfe", "value", "held_out", "resampled", "gaussian"]
_COLUMNS = {name: "O" if name in ("scale", "metric") else "if" for name in COLUMNS}


class Origins(TypedDict):
    """The contents of gallery.json: for each scale, the origin of its rows."""

    scales: dict[str, dict[str, Any]]


def scales() -> dict[str, dict[str, Any]]:
    """Return {scale: its changed settings} from studies/gallery.py; empty where there is no such file."""
    path = studies_folder() / "gallery.py"
    return getattr(load_file(path, "harness_gallery"), "GALLERY", {}) if path.is_file() else {}


def rows(scale: str, run: Run, judge: Judge) -> list[tuple]:
    """Return a row of `COLUMNS` for every metric, at the largest NFE."""
    nfe = max(run.config.evaluate.nfe)
    values = run.evaluation(judge.protocol)["values"]
    beside = [judge_references(judge).get(kind, {}) for kind in COLUMNS[4:]]
    names = [metric.name for metric in run.config.evaluate.metrics]
    return [(scale, name, nfe, values[name][str(nfe)], *(known.get(name) for known in beside)) for name in names]


def about(run: Run, judge: Judge) -> dict[str, Any]:
    """Return the origin and the cost of a scale's rows."""
    lines = run.metrics()
    seconds = sum(run.evaluation(judge.protocol)["seconds"].values())
    return {
        "run": run.name,
        **made_now(run.environment["commits"]),
        "parameters": run.environment["parameters"],
        "training_minutes": round((lines[-1]["time"] - lines[0]["time"]) / 60, 1) if lines else None,
        "evaluation_minutes": round(seconds / 60, 1),
    }


def copy_picture(scale: str, run: Run, folder: Path) -> None:
    """Copy the picture of a run's last step to the figures below `folder`; print a line where there is none."""
    drawn = run.folder / "samples" / f"step-{run.config.train.steps:07d}.png"
    if drawn.is_file():
        write_atomic(folder / "figures" / f"gallery-{scale}.png", drawn.read_bytes())
    else:
        say_once(f"{drawn}: there is no such picture. The gallery is written without it.")


def write(folder: Path, found: list[tuple], origins: dict[str, Any]) -> list[Path]:
    """Replace the rows of the scales in `found` in the table below `folder`; return the paths."""
    paths = [folder / "tables" / f"gallery.{ending}" for ending in ("csv", "json", "md")]
    frame = pd.DataFrame(found, columns=COLUMNS)
    known = origins
    if paths[0].exists():
        before = read_table(paths[0], _COLUMNS)
        frame = pd.concat([before[~before.scale.isin(origins)], frame])
        known = read_json(paths[1], Origins, RESTORED)["scales"] | origins
        if unknown := {*before.scale} - known.keys():
            raise UserError(f"{paths[1]}: cannot be read (its entry scales.{min(unknown)} is missing). {RESTORED}")
    order = {scale: i for i, scale in enumerate([*scales(), *known])}
    frame = frame.sort_values("scale", key=lambda names: names.map(order), kind="stable").round(5)
    table = {
        "question": QUESTION,
        "command": "harness gallery",
        "scales": {scale: known[scale] for scale in frame.scale.unique()},
    }
    write_atomic(paths[0], frame.to_csv(index=False))
    write_json(paths[1], table)
    write_atomic(paths[2], marked(markdown(pd.read_csv(paths[0]), table), table))
    return paths


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as text; each metric has an arrow in the direction that is better."""
    return frame.assign(metric=frame.metric.map(titled)).round(4).astype(object).fillna("-").astype(str)


def markdown(frame: pd.DataFrame, table: dict[str, Any]) -> str:
    """Return the table as Markdown, with the pictures of its scales."""
    title = "Beside held-out and resampled real samples and Gaussian noise, one seed each"
    grid = Grid(title, COLUMNS, shown(frame).to_numpy().tolist())
    pictures = "\n".join(f"![{scale}](../figures/gallery-{scale}.png)" for scale in table["scales"])
    origin = "gallery.json says of every scale by which run, at which commit and on which machine."
    end = f"Made by `{table['command']}`; {origin}"
    return "\n\n".join([f"# {table['question']}", grid.markdown(), pictures, end]) + "\n"
