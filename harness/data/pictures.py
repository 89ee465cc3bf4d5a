"""Figures of samples beside real data, one form for each kind of data."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from harness.core.drawing import COLOURS, png, shown, write_picture
from harness.core.errors import UserError
from harness.data.base import Data, Kind, spaced

SHOWN: dict[Kind, int] = {"image": 64, "latents": 64, "points": 1000, "cells": 1000, "sequence": 1000}
"""Default number of samples in a picture."""
MOST: dict[Kind, int] = {"image": 1024, "latents": 1024, "points": 100_000, "cells": 20_000, "sequence": 100_000}
"""Maximum number of samples in a picture."""
WAYS = 150
"""Maximum number of trajectories of points, drawn as lines."""
CHANNELS = 8
"""Maximum number of channels of sequences in a picture."""
ALONE = 3
"""Number of real windows, and of sampled windows, that are drawn one by one."""
GAP = 2
"""Grey pixels between images."""
REAL = COLOURS[7]
MADE = COLOURS[1]


def draw(data: Data, samples: Tensor, path: Path, title: str = "samples", trajectories: Sequence[Tensor] = ()) -> None:
    """Write decoded samples [N, ...] as a PNG; `title` names them. Samples that are not finite are only counted.

    `trajectories` holds encoded points [N, D] for each of a solver's times. `Undrawable` if no sample can be shown.
    """
    write_picture(path, lambda: _content(data, samples, title, trajectories))


def _content(data: Data, samples: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    finite = samples.flatten(1).isfinite().all(1)
    number = int(finite.sum())
    if not number:
        raise ValueError(f"none of {len(samples)} {title} is finite")
    counted = f"{number} {title}" if number == len(samples) else f"{number} of {len(samples)} {title} are finite"
    return _PICTURES[data.kind](data, samples[finite], counted, trajectories)


def require_drawable(kind: Kind, number: int) -> None:
    """Raise `UserError` if a picture cannot show `number` samples."""
    if number > MOST[kind]:
        raise UserError(
            f"--number: a picture shows up to {MOST[kind]} samples, not {number}. "
            "Ask for fewer, or name a file that ends in .npz."
        )


def _grid(data: Data, images: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    """Draw uint8 images [N, C, H, W] in rows of eight, or of more for a square; enlarge small ones to 32 pixels."""
    enlarged = images.repeat_interleave(factor := max(1, 32 // images.shape[-1]), 2).repeat_interleave(factor, 3)
    across = min(max(8, math.isqrt(len(images) - 1) + 1), len(images))
    grey = functools.partial(nn.functional.pad, value=128)
    tiles = grey(enlarged.expand(-1, 3, -1, -1), (0, GAP, 0, GAP, 0, 0, 0, -len(images) % across))
    rows = tiles.unflatten(0, (-1, across)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    content = io.BytesIO()
    Image.fromarray(grey(rows, (0, 0, GAP, 0, GAP, 0)).numpy()).save(content, "png")
    return content.getvalue()


def _latents(data: Data, latents: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    """Draw the first three channels as colours, from the 1st to the 99th percentile of their values."""
    chosen = (latents[:, :3] if latents.shape[1] >= 3 else latents[:, :1]).double()
    values = chosen.flatten()[spaced(1_000_000, chosen.numel())]
    low, high = (torch.quantile(values, q) for q in (0.01, 0.99))
    return _grid(
        data, ((chosen - low) / (high - low).clamp(min=1e-9) * 255).clamp(0, 255).to(torch.uint8), title, trajectories
    )


def _points(data: Data, points: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    """Draw the first two coordinates of real points and of samples, side by side; trajectories end at the samples.

    Named coordinates have their own units: each axis then has its own scale and its name.
    """
    real = _real(data, len(points))
    figure = Figure(figsize=(9, 4.6))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    # fixed margins: a layout engine takes as long as all the rest
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.06, top=0.92, wspace=0.04)
    if data.names:
        figure.subplots_adjust(left=0.1, bottom=0.11)
        first, second = (shown([*data.names, ""][i]) for i in range(2))
        left.set(xlabel=first, ylabel=second)
        right.set(xlabel=first)
    left.scatter(*_plane(real), s=3, color=REAL)
    if trajectories:
        # [N, times, 2]
        lines = np.stack([np.stack(_plane(data.decode(x[:WAYS].cpu())), axis=-1) for x in trajectories], axis=1)
        lines = lines[np.isfinite(lines).all((1, 2))]
        title += f", the ways of {len(lines)}" if len(lines) < len(points) else ""
        right.add_collection(LineCollection(list(lines), colors=COLOURS[0], linewidths=0.4, alpha=0.3))
    right.scatter(*_plane(points), s=3, color=MADE, zorder=2)
    aspect = "auto" if data.names else "equal"
    left.set(title=f"{len(real)} training points", aspect=aspect)
    right.set(title=title, aspect=aspect)
    return png(figure, dpi=110)


def _cells(data: Data, cells: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    """Draw two principal components of the real cells, and two genes, for real cells beside samples."""
    from sklearn.decomposition import PCA

    real = _real(data, len(cells))
    standardised = [np.asarray(data.encode(x).flatten(1)) for x in (real, cells)]
    with np.errstate(all="ignore"):  # it divides by the variance, 0 for equal cells, but nothing uses that
        fitted = PCA(min(2, *standardised[0].shape), random_state=0).fit(standardised[0])
    figure = Figure(figsize=(9, 8.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="row", sharey="row")
    first, second = _related(real)
    genes = [shown(data.names[i]) for i in (first, second)]
    sides = (real, standardised[0], REAL, f"{len(real)} training cells"), (cells, standardised[1], MADE, title)
    for column, (values, scaled, colour, said) in enumerate(sides):
        panels[0, column].scatter(*_plane(torch.from_numpy(fitted.transform(scaled))), s=4, color=colour)
        panels[0, column].set(title=said, xlabel="PC 1 of the training cells", ylabel="PC 2")
        panels[1, column].scatter(values[:, first], values[:, second], s=4, color=colour)
        panels[1, column].set(xlabel=f"{genes[0]}, log1p", ylabel=f"{genes[1]}, log1p")
    return png(figure, dpi=110)


def _related(real: Tensor) -> tuple[int, int]:
    """Return the two genes with the largest absolute correlation, among the 50 most variable genes."""
    if min(real.shape) == 1:
        return 0, min(1, real.shape[1] - 1)
    varying = real.var(0, unbiased=False).topk(min(50, real.shape[1])).indices
    correlation = torch.corrcoef(real[:, varying].T).nan_to_num().abs().fill_diagonal_(-1)
    first, second = divmod(int(correlation.argmax()), len(varying))
    return int(varying[first]), int(varying[second])


def _sequences(data: Data, windows: Tensor, title: str, trajectories: Sequence[Tensor]) -> bytes:
    """Draw a row for each channel, real windows beside samples: quantiles of all windows, then some windows."""
    real = _real(data, len(windows))
    channels = spaced(CHANNELS, windows.shape[-1]).tolist()
    height = 1.5 * len(channels) + 1
    figure = Figure(figsize=(14, height))
    figure.subplots_adjust(0.065, 0.65 / height, 0.99, 1 - 0.35 / height, wspace=0.08, hspace=0.12)
    panels = figure.subplots(len(channels), 4, sharex="col", sharey="row", squeeze=False)
    sides = (real, REAL, f"{len(real)} training windows"), (windows, MADE, title)
    for (values, colour, said), start in zip(sides, (0, 2), strict=True):
        alone = values[spaced(ALONE, len(values))]
        for (fan, single), channel in zip(panels[:, start : start + 2], channels, strict=True):
            _draw_fan(fan, values[..., channel], colour)
            _draw_alone(single, alone[..., channel], colour)
        panels[0, start].set_title(said, fontsize="medium")
        panels[0, start + 1].set_title(f"{len(alone)} of them", fontsize="medium")
    for axes, channel in zip(panels[:, 0], channels, strict=True):
        axes.set_ylabel(shown(data.names[channel], 20))
    rest = f"; {len(channels)} of {windows.shape[-1]} channels" if len(channels) < windows.shape[-1] else ""
    said = f"row of the window; bands hold half and nine tenths of the windows{rest}"
    figure.text(0.5, 0.1 / height, said, ha="center", va="bottom")
    return png(figure, dpi=110)


def _draw_fan(axes: Axes, values: Tensor, colour: str) -> None:
    """Draw the quantiles of windows [N, length]."""
    quantiles = np.quantile(values.double().numpy(), [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    rows = np.arange(values.shape[1])
    axes.fill_between(rows, quantiles[0], quantiles[4], color=colour, alpha=0.25, lw=0)
    axes.fill_between(rows, quantiles[1], quantiles[3], color=colour, alpha=0.45, lw=0)
    axes.plot(rows, quantiles[2], color=colour, marker="." if len(rows) == 1 else None)


def _draw_alone(axes: Axes, values: Tensor, colour: str) -> None:
    """Draw windows [N, length] side by side."""
    length = values.shape[1]
    for i, window in enumerate(values.numpy()):
        start = 1.2 * i * length
        axes.plot(start + np.arange(length), window, color=colour, lw=1, marker="." if length == 1 else None)
        if i:
            axes.axvline(start - 0.1 * length - 0.5, color="black", lw=0.8)
    axes.set_xticks([])


def _real(data: Data, number: int) -> Tensor:
    """Return `number` evenly spaced training samples, or all if there are fewer."""
    return data.train[spaced(number, len(data.train))]


def _plane(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    first = points[:, 0].double().numpy()
    return first, points[:, 1].double().numpy() if points.shape[1] > 1 else np.zeros_like(first)


_PICTURES: dict[Kind, Callable[[Data, Tensor, str, Sequence[Tensor]], bytes]] = {
    "image": _grid,
    "latents": _latents,
    "points": _points,
    "cells": _cells,
    "sequence": _sequences,
}
