"""The pictures of the families whose members say more in a picture than in words, computed by the members."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from docs.build import plots_of_points, plots_of_solvers
from docs.build.pictures import BELOW, Picture, picture
from harness.components.interpolants import Linear
from harness.core.registry import build, names
from harness.core.rng import stream

T = torch.linspace(0, 1, 401, dtype=torch.float64)
INNER = T[1:-1]
PATH = Linear()
STEPS = 400


@functools.cache
def pictures(family: str) -> dict[str, list[Picture]]:
    """Return the pictures of each member, and those of the family under an empty name."""
    return {name: list(made) for name, made in DRAWN.get(family, dict)().items()}


def _each(family: str, draw: Callable[[str, Any], list[Picture]]) -> dict[str, list[Picture]]:
    return {name: draw(name, build(family, name)) for name in names(family)}


def _interpolant(name: str, path: Any) -> list[Picture]:
    def factors(axes: Any) -> None:
        for label, values in (("alpha", path.alpha(T)), ("sigma", path.sigma(T))):
            axes.plot(T, values, label=label)
        if path.sigma(T).max() > 3:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(bottom=0)
        axes.set_xlabel("t")
        axes.legend()

    def log_snr(axes: Any) -> None:
        axes.plot(INNER, path.log_snr(INNER), color="#009e73")
        axes.set_xlabel("t")
        axes.set_ylabel("log SNR")

    return [
        picture(f"interpolant-{name}", f"Factors alpha and sigma of the path {name} against t", factors),
        picture(f"interpolant-{name}-snr", f"Log SNR of the path {name} against t", log_snr),
    ]


def _prediction(name: str, prediction: Any) -> list[Picture]:
    def draw(axes: Any) -> None:
        clamped = T.clamp(prediction.t_min, prediction.t_max)
        for label, values in zip(
            ("of x0", "of x1"), prediction.coefficients(clamped, PATH, torch.ones(())), strict=True
        ):
            axes.plot(T, torch.as_tensor(values).expand(len(T)), label=label)
        if name == "score":
            axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("t")
        axes.set_ylabel("factor in the target")
        axes.legend()

    alt = f"Factors of data and noise in the target of the prediction {name}, on the linear path, against t"
    return [picture(f"prediction-{name}", alt, draw)]


def _weighting(name: str, weighting: Any) -> list[Picture]:
    def draw(axes: Any) -> None:
        values = weighting.weight(INNER, PATH).expand(len(INNER))
        axes.plot(INNER, values)
        if values.max() > 50 * values.min():
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.1 * values.max())
        axes.set_xlabel("t")
        axes.set_ylabel("w(t)")

    return [picture(f"weighting-{name}", f"Weight w(t) of {name} on the linear path, against t", draw)]


def _time_sampler(name: str, sampler: Any) -> list[Picture]:
    def draw(axes: Any) -> None:
        drawn = sampler.sample(20_000, stream(0, "site", name), "cpu", PATH)
        axes.hist(drawn.numpy(), bins=50, range=(0, 1), density=True, alpha=0.35, label="20,000 draws")
        axes.plot(INNER, sampler.density(INNER, PATH), color="#d55e00", label="p(t)")
        axes.set_ylim(0, min(1.15 * axes.get_ylim()[1], 8))
        axes.set_xlabel("t")
        axes.set_ylabel("density")
        axes.legend()

    alt = f"Density of the times of {name} on the linear path, and a histogram of 20,000 draws"
    return [picture(f"time_sampler-{name}", alt, draw)]


def _losses() -> dict[str, list[Picture]]:
    def draw(axes: Any) -> None:
        error = torch.linspace(-3, 3, 301, dtype=torch.float64)
        for name in names("loss"):
            axes.plot(error, build("loss", name).measure(error[:, None]), label=name)
        axes.set_xlabel("error e, the same in every entry")
        axes.set_ylabel("loss")
        axes.legend()

    return {"": [picture("loss", "Losses against the error", draw)]}


def _time_grids() -> dict[str, list[Picture]]:
    known = names("time_grid")

    def draw(axes: Any) -> None:
        for row, name in enumerate(known):
            times = build("time_grid", name).times(10, PATH)
            axes.plot(times, torch.full_like(times, row), "o-", markersize=4, linewidth=0.8)
        axes.set_yticks(range(len(known)), known)
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlabel("t: noise at 1, data at 0")
        axes.grid(False, axis="y")

    alt = "Times of ten steps on the linear path, one row for each time grid"
    return {"": [picture("time_grid", alt, draw, size=(4.4, 2.6))]}


def _schedules() -> dict[str, list[Picture]]:
    def draw(axes: Any) -> None:
        steps = range(STEPS // 10, STEPS)
        for name in names("schedule"):
            axes.plot(steps, [build("schedule", name).share(step, STEPS // 10, STEPS) for step in steps], label=name)
        axes.set_xlabel(f"step of {STEPS}; the first {STEPS // 10} warm up")
        axes.set_ylabel("share of the peak")
        axes.set_ylim(0, 1.05)
        axes.legend(**BELOW)

    return {
        "": [
            picture(
                "schedule", "Learning rate as a share of its peak against the step, for each schedule", draw, (4.4, 2.9)
            )
        ]
    }


def _time_embeddings() -> dict[str, list[Picture]]:
    def one(name: str) -> Picture:
        def draw(axes: Any) -> None:
            torch.manual_seed(0)
            values = build("time_embedding", name).build(64)(torch.linspace(0, 1, 256)).detach().T
            axes.imshow(values.numpy(), aspect="auto", cmap="RdBu", vmin=-1, vmax=1, extent=(0, 1, 64, 0))
            axes.grid(False)
            axes.set_xlabel("t")
            axes.set_ylabel("entry of 64")

        return picture(f"time_embedding-{name}", f"Entries of the embedding {name} against t, from -1 to 1", draw)

    return {name: [one(name)] for name in ("fourier", "sinusoidal")}


DRAWN: dict[str, Callable[[], dict[str, list[Picture]]]] = {
    "interpolant": functools.partial(_each, "interpolant", _interpolant),
    "prediction": functools.partial(_each, "prediction", _prediction),
    "weighting": functools.partial(_each, "weighting", _weighting),
    "time_sampler": functools.partial(_each, "time_sampler", _time_sampler),
    "loss": _losses,
    "time_grid": _time_grids,
    "schedule": _schedules,
    "time_embedding": _time_embeddings,
    "noise": plots_of_points.noises,
    "coupling": plots_of_points.couplings,
    "dataset": plots_of_points.datasets,
    "solver": plots_of_solvers.solvers,
    "average": plots_of_solvers.averages,
}
"""{family: what draws its pictures}"""


def all_pictures() -> Iterator[Picture]:
    """Yield the pictures of all families."""
    for family in DRAWN:
        for made in pictures(family).values():
            yield from made
