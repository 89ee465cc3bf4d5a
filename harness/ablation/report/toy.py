"""The table and the picture of `harness toy`: each combination's distance to real points, and its trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from harness.ablation.execute.toy import Combination
from harness.ablation.report.grid import Grid
from harness.ablation.report.origin import provenance
from harness.core.drawing import COLOURS, png, shown, spared, write_picture
from harness.core.files import write_atomic, write_json
from harness.core.provenance import named

QUESTION = "Does every interpolant with every prediction find a distribution of points?"
FILES = ("tables/toy.csv", "tables/toy.json", "tables/toy.md", "figures/toy.png")
DRAWN = "edm"
"""The prediction whose trajectories are drawn."""


def table(found: Sequence[Combination], real: dict[str, float]) -> pd.DataFrame:
    """Return a row for each combination, with its distance and the distance of `real` points on its data set."""
    columns = ["dataset", "interpolant", "prediction", "sliced_wasserstein"]
    frame = pd.DataFrame([vars(one) for one in found])[columns]
    return frame.assign(real=frame.dataset.map(real)).round(4)


def about(found: Sequence[Combination]) -> dict[str, Any]:
    """Return the origin of a table that is made now."""
    return provenance(QUESTION, "harness toy", sorted({one.commit for one in found}))


def write(found: Sequence[Combination], frame: pd.DataFrame, origin: dict[str, Any], folder: Path) -> list[Path]:
    """Write `FILES` below `folder`; return the paths."""
    *paths, figure = [folder / name for name in FILES]
    csv, json, md = paths
    write_atomic(csv, frame.to_csv(index=False))
    write_json(json, origin)
    write_atomic(md, markdown(frame, origin))
    with spared():
        write_picture(figure, lambda: draw([one for one in found if one.prediction == DRAWN]))
        paths.append(figure)
    return paths


def markdown(frame: pd.DataFrame, origin: dict[str, Any]) -> str:
    """Return the table as Markdown: a grid for each data set."""
    paragraphs = [f"# {origin['question']}"]
    for name, rows in frame.groupby("dataset", sort=False):
        header = ["interpolant", *rows.prediction.unique()]
        cells = rows.pivot(index="interpolant", columns="prediction", values="sliced_wasserstein")[header[1:]]
        lines = cells.map("{:.3f}".format).reset_index().to_numpy().tolist()
        title = f"{name}: sliced Wasserstein-2 to held-out points; real points {rows.real.iloc[0]:.3f}"
        paragraphs.append(Grid(title, header, lines).markdown())
    paragraphs.append("![trajectories](../figures/toy.png)")
    code = named(origin["commits"])
    paragraphs.append(f"Made by `{origin['command']}` at {code}, one seed each; more in toy.json.")
    return "\n\n".join(paragraphs) + "\n"


def draw(found: Sequence[Combination]) -> bytes:
    """Draw a PNG with one panel for each data set and interpolant."""
    datasets = list(dict.fromkeys(one.dataset for one in found))
    interpolants = list(dict.fromkeys(one.interpolant for one in found))
    figure = Figure(figsize=(2.1 * len(interpolants), 2.2 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), len(interpolants), squeeze=False)
    for one in found:
        row = datasets.index(one.dataset)
        _draw_lines(panels[row, interpolants.index(one.interpolant)], one.trajectories)
        if row == 0:
            panels[row, interpolants.index(one.interpolant)].set_title(shown(one.interpolant, 20))
    for row, name in enumerate(datasets):
        panels[row, 0].set_ylabel(shown(name, 20))
    figure.suptitle(f"{DRAWN} prediction: from noise (line) to data (dot)", fontsize="medium")
    return png(figure)


def _draw_lines(axes: Axes, lines: Tensor) -> None:
    for line in lines:
        axes.plot(line[:, 0], line[:, 1], color=COLOURS[0], alpha=0.25, linewidth=0.5)
    axes.scatter(lines[:, -1, 0], lines[:, -1, 1], s=3, color=COLOURS[1], zorder=3)
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
