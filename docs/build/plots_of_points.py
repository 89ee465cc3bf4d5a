"""Pictures of samples: noises, couplings and data sets in the plane."""

from __future__ import annotations

from typing import Any

import torch

from docs.build.pictures import BELOW, Picture, picture
from harness.core.registry import build, names
from harness.core.rng import stream
from harness.data.base import Data, load

SHOWN = 700
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
OF_NOISE = {"population": {"name": "population", "dataset": "moons"}}
OF_FILES = {"pairs", "pruned"}
"""Members that read files, or that do nothing in the plane: every direction of it has data."""
PLANE = ("checkerboard", "eight_gaussians", "gaussian_mixture", "moons", "pinwheel", "swiss_roll")


def noises() -> dict[str, list[Picture]]:
    """Return samples of each noise in the plane, and one entry beside the normal density."""
    data = load(build("dataset", "eight_gaussians"))
    return {name: _noise(name, data) for name in names("noise") if name not in OF_FILES}


def _noise(name: str, data: Data) -> list[Picture]:
    noise = build("noise", OF_NOISE.get(name, name))
    state = noise.learn(data)
    x1 = noise.sample((20_000, 2), stream(0, "site", name), state)

    def points(axes: Any) -> None:
        axes.scatter(*x1[:SHOWN].T, s=3, color=BLUE, linewidths=0)
        axes.set_aspect("equal")
        axes.set_xlim(-4.2, 4.2)
        axes.set_ylim(-4.2, 4.2)
        axes.set_xlabel("two entries of x1")

    def entries(axes: Any) -> None:
        grid = torch.linspace(-4.2, 4.2, 301)
        axes.hist(x1[:, 0].numpy(), bins=84, range=(-4.2, 4.2), density=True, color=BLUE, alpha=0.45)
        axes.plot(grid, torch.exp(-grid.square() / 2) / (2 * torch.pi) ** 0.5, color=ORANGE, label="N(0, 1)")
        axes.set_ylim(0, min(axes.get_ylim()[1], 1.0))
        axes.set_xlabel("one entry, 20,000 draws")
        axes.legend()

    return [
        picture(f"noise-{name}", f"{SHOWN} samples of the noise {name} in the plane", points, (2.9, 2.7)),
        picture(f"noise-{name}-entry", f"One entry of the noise {name} beside the normal density", entries, (3.5, 2.7)),
    ]


def couplings() -> dict[str, list[Picture]]:
    """Return the pairs that each coupling makes of the same batch."""
    data = load(build("dataset", "moons"))
    assert isinstance(data.train, torch.Tensor)
    assert data.classes is not None
    x0, y = data.train[:48], data.classes[:48]
    x1 = torch.randn(48, 2, generator=stream(0, "site", "coupling"))
    return {name: [_coupling(name, x0, x1, y)] for name in names("coupling") if name not in OF_FILES}


def _coupling(name: str, x0: torch.Tensor, x1: torch.Tensor, y: torch.Tensor) -> Picture:
    pair = build("coupling", name).pair(x0, x1, stream(0, "site", "pairing"), y)
    first, second = pair[0], pair[1]
    cost = (first - second).square().sum(1).mean().item()

    def draw(axes: Any) -> None:
        for a, b in zip(first, second, strict=True):
            axes.plot([a[0], b[0]], [a[1], b[1]], color="#8a8f95", linestyle="-", linewidth=0.8)
        axes.scatter(*second.T, s=14, color=ORANGE, label="noise x1", zorder=3)
        axes.scatter(*first.T, s=14, color=BLUE, label="data x0", zorder=3)
        axes.set_aspect("equal")
        axes.set_title(f"mean |x0 - x1|² = {cost:.2f}", loc="left")
        axes.legend(**{**BELOW, "bbox_to_anchor": (0.5, -0.12)})

    alt = f"Pairs of 48 points of two moons with 48 points of noise, made by the coupling {name}"
    return picture(f"coupling-{name}", alt, draw, size=(3.8, 3.6))


def datasets() -> dict[str, list[Picture]]:
    """Return the points of the data sets in the plane."""
    return {name: [_dataset(name)] for name in PLANE}


def _dataset(name: str) -> Picture:
    data = load(build("dataset", name))
    assert isinstance(data.train, torch.Tensor)
    points = data.train[:3000]

    def draw(axes: Any) -> None:
        axes.scatter(*points.T, s=2, color=BLUE, linewidths=0)
        axes.set_aspect("equal")

    return picture(f"dataset-{name}", f"3,000 points of the data set {name}", draw, size=(3.4, 3.0))
