"""Trains every interpolant with every prediction on points in the plane, and measures what each combination makes.

One small network for each, on one seed: a check that all of them work, not a comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from harness.components.backbones.mlp import MLP
from harness.components.interpolants import VarianceExploding
from harness.components.solvers import Heun
from harness.components.time_samplers import Stratified
from harness.core.config import override
from harness.core.registry import build, names
from harness.data.base import Data, Samples, load
from harness.evaluation.distances import SlicedWasserstein
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.training.config import TrainConfig
from harness.training.trainer import Callbacks, fit

SEED = 0
TRAIN = TrainConfig(
    steps=1000, batch_size=256, learning_rate=5e-3, warmup_steps=50, ema_decay=0.99, threads=1, device="cpu",
    log_every=10_000, sample_every=10_000, checkpoint_every=10_000,
)  # fmt: skip
NETWORK = MLP(width=96, blocks=2)
DATASETS = ("eight_gaussians", "checkerboard")
PREDICTIONS = ("velocity", "data", "noise", "score", "edm")
SETTINGS: dict[str, dict[str, Any]] = {"score": {"objective.space": "noise"}, "edm": {"prediction.sigma_data": 1.0}}
"""{prediction: changes}. The score has no bound near the data."""
PATHS = {"ve": VarianceExploding(sigma_min=0.01, sigma_max=10)}
"""{interpolant: itself} where its defaults do not do: `ve` starts far outside the unit variance that networks see."""
NFE = 64


@dataclass(frozen=True)
class Combination:
    """An interpolant with a prediction on a data set, and what became of it."""

    dataset: str
    interpolant: str
    prediction: str
    sliced_wasserstein: float
    """Of as many samples as points are held out, to those."""
    trajectories: Tensor
    """[points, steps + 1, 2]"""


def combinations() -> Iterator[Combination]:
    """Train and measure every one, with a bar that shows how far this is."""
    torch.set_num_threads(1)  # networks this small wait for a second thread
    asked = [(d, i, p) for d in DATASETS for i in names("interpolant") for p in PREDICTIONS]
    for name, interpolant, prediction in track(asked, "toy", console=Console()):
        data = load(build("dataset", name))
        made = formulation(interpolant, prediction)
        network = train(made, data)
        reached = distance(made, network, data)
        yield Combination(name, interpolant, prediction, reached, trajectories(made, network))


def formulation(interpolant: str, prediction: str) -> Formulation:
    """The combination, with times stratified and all else at its default."""
    base = Formulation(interpolant=PATHS.get(interpolant, build("interpolant", interpolant)), time_sampler=Stratified())
    return override(base, {"prediction": prediction, **SETTINGS.get(prediction, {})})


def train(made: Formulation, data: Data) -> nn.Module:
    """The averaged network after `TRAIN`."""
    torch.manual_seed(SEED)
    nothing = Callbacks(log=lambda line: None, look=lambda network, step: {}, say=print, stop=lambda: False)
    with tempfile.TemporaryDirectory() as folder:
        return fit(TRAIN, SEED, NETWORK.build(data.shape), Objective(made, {}), data, Path(folder), nothing).network


def distance(made: Formulation, network: nn.Module, data: Data) -> float:
    """Of as many samples as points are held out, to those."""
    held_out = _points(data.held_out)
    n = len(held_out)
    sampling = SamplingConfig(solver=Heun(), batch_size=n)
    ((points, *_),) = generate(Trained(network, made, {}), sampling, NFE, data.shape, n, (SEED, "samples"))
    return sliced_wasserstein(points, held_out)


def trajectories(made: Formulation, network: nn.Module, number: int = 150) -> Tensor:
    """[number, steps + 1, 2]: where each point is at every step from noise to data."""
    path: list[Tensor] = []
    trained = Trained(network, made, {})
    sampling = SamplingConfig(batch_size=number)
    ((points, *_),) = generate(trained, sampling, 100, (2,), number, (SEED, "trajectories"), visited=path)
    return torch.stack([*path, points], dim=1)


def real_distances() -> dict[str, float]:
    """{data set: the mean of the distances of its training points, as many as are held out, to these}."""
    return {name: _real_distance(load(build("dataset", name))) for name in DATASETS}


def _real_distance(data: Data) -> float:
    held_out = _points(data.held_out)
    train = _points(data.train)
    n = len(held_out)
    parts = train[: len(train) // n * n].split(n)
    return sum(sliced_wasserstein(part, held_out) for part in parts) / len(parts)


def _points(of: Tensor | Samples) -> Tensor:
    """Of a data set in the plane, whose samples are in memory."""
    assert isinstance(of, Tensor)
    return of


def sliced_wasserstein(points: Tensor, reference: Tensor) -> float:
    """The distance of two sets [N, 2]."""
    metric = SlicedWasserstein()
    return metric.compare(metric.summarise(points, None), metric.summarise(reference, None))
