"""Pictures of solvers on a flow whose solution is known, and of the weights that averages give to past steps.

Normal data of mean m and standard deviation s, and standard normal noise, have the velocity and the score below on the
linear path. The flow carries x1 to m + s x1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from docs.build.pictures import BELOW, Picture, picture
from harness.components.averages import WIDTHS
from harness.components.interpolants import Linear
from harness.components.time_grids import UniformGrid
from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.core.rng import stream
from harness.training.ema import Averages

MEAN = torch.tensor([0.4, -0.7, 0.1], dtype=torch.float64)
STD = torch.tensor([0.5, 0.9, 0.3], dtype=torch.float64)
NFE = (1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128)
TRAINED = 1000
"""Steps of the training whose averages are drawn."""


class Known:
    """The velocity and the score of the flow from standard normal noise to N(MEAN, STD^2)."""

    interpolant = Linear()
    variance = torch.ones((), dtype=torch.float64)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return E[x1 - x0 | x_t]."""
        return self.with_score(x, t)[0]

    def with_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocity and the score."""
        self.calls += 1
        alpha, sigma = 1 - t[:, None], t[:, None]
        centred = (x - alpha * MEAN) / ((alpha * STD).square() + sigma.square())
        return sigma * centred - MEAN - alpha * STD.square() * centred, -centred


def solvers() -> dict[str, list[Picture]]:
    """Return the error against NFE: of each sample, and for stochastic solvers of the distribution."""
    known = {name: build("solver", name) for name in names("solver")}
    ordinary = {name: one for name, one in known.items() if not one.needs_score}
    stochastic = {name: one for name, one in known.items() if one.needs_score}
    return {
        "": [
            _picture("ordinary", ordinary, "RMS error of the samples", "of samples by ordinary solvers"),
            _picture("stochastic", stochastic, "error of mean and sd", "of mean and sd by stochastic solvers"),
        ]
    }


def _picture(kind: str, chosen: dict[str, Any], label: str, about: str) -> Picture:
    number = 500 if kind == "ordinary" else 20_000

    def draw(axes: Any) -> None:
        for name, solver in chosen.items():
            spent, errors = zip(*_errors(solver, number, kind == "stochastic"), strict=True)
            axes.plot(spent, errors, marker="o", markersize=4, label=name)
        if kind == "stochastic":
            axes.axhline(_apart(_exact(number), True, number), color="#8a8f95", linestyle=":", label="exact samples")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
        axes.set_xlabel("NFE")
        axes.set_ylabel(label)
        axes.legend(**BELOW)

    alt = f"Error {about} against NFE on a flow between normal distributions, whose solution is known"
    return picture(f"solver-{kind}", alt, draw, size=(4.6, 3.4))


def _errors(solver: Any, number: int, of_moments: bool) -> list[tuple[int, float]]:
    """Return (calls, error) for each NFE that the solver can spend."""
    found = []
    for nfe in (0,) if solver.adaptive else NFE:
        try:
            steps = solver.steps(nfe)
        except ConfigError:
            continue
        field = Known()
        x1 = (_exact(number) - MEAN) / STD
        times = UniformGrid().times(steps, field.interpolant)
        reached = solver.integrate(field, x1, times, stream(0, "site", "noise"))
        found.append((field.calls, _apart(reached, of_moments, number)))
    return found


def _exact(number: int) -> Tensor:
    """Return samples of the data, each where the flow carries its noise."""
    return MEAN + STD * torch.randn(number, 3, generator=stream(0, "site", "solver"), dtype=torch.float64)


def _apart(reached: Tensor, of_moments: bool, number: int) -> float:
    """Return the RMS error of mean and standard deviation, or of the samples."""
    moments = torch.stack([reached.mean(0) - MEAN, reached.std(0) - STD])
    return (moments if of_moments else reached - _exact(number)).square().mean().sqrt().item()


def averages() -> dict[str, list[Picture]]:
    """Return the weight of each step in the averages that training keeps."""

    def draw(axes: Any) -> None:
        for label, shares in profiles().items():
            axes.plot(range(1, TRAINED + 1), shares, label=label)
        axes.set_yscale("log")
        axes.set_ylim(bottom=1e-5)
        axes.set_xlabel(f"step of {TRAINED:,}")
        axes.set_ylabel("weight in the average")
        axes.legend(**BELOW)

    alt = "Weight of each step in exponential and power-function averages"
    return {"": [picture("average", alt, draw, size=(4.6, 3.1))]}


def profiles() -> dict[str, Tensor]:
    """Return {average: the weights of the steps [TRAINED] in it}, from training weights that count their step."""
    network = nn.Linear(TRAINED, 1, bias=False).double().requires_grad_(False)
    network.weight.zero_()
    kept = Averages(network, (0.9, 0.95), WIDTHS)
    for n in range(1, TRAINED + 1):
        network.weight.zero_()[0, n - 1] = 1
        kept.update(n)
    return {name.removesuffix("/weight").replace("ema-", "ema, decay ").replace("power-", "posthoc, width "): w[0]
            for name, w in kept.tensors().items()}  # fmt: skip
