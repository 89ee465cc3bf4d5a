"""Train every interpolant with every prediction on points in the plane, and measure the samples of each combination.

Each combination trains one small network on one seed: this checks that all of them work and compares nothing. Finished
combinations are kept in results/local/toy, one file each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.components.backbones.mlp import MLP
from harness.components.interpolants import VarianceExploding
from harness.components.solvers import Heun
from harness.components.time_samplers import Stratified
from harness.core.arrays import read_arrays
from harness.core.config import digest, override, to_dict
from harness.core.files import npz, results_folder, write_atomic
from harness.core.provenance import commit
from harness.core.reading import Damaged
from harness.core.registry import build, names
from harness.core.signals import Stop
from harness.data.base import Data, Samples, load
from harness.evaluation.distances import SlicedWasserstein
from harness.evaluation.protocol import EVALUATION_VERSION
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.runs.identity import NUMERICS_VERSION
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
"""{prediction: changes}; the score is unbounded near the data, so its error is measured in the noise."""
PATHS = {"ve": VarianceExploding(sigma_min=0.01, sigma_max=10)}
"""{interpolant name: interpolant} if the defaults are unsuitable: `ve` starts far above the unit variance of inputs."""
NFE = 64


@dataclass(frozen=True)
class Combination:
    """An interpolant with a prediction on a data set, and its results."""

    dataset: str
    interpolant: str
    prediction: str
    sliced_wasserstein: float
    """Distance between generated samples and the held-out points, equally many of each."""
    trajectories: Tensor
    """Positions of points from noise to data, [points, steps + 1, 2]."""
    commit: str
    """Commit of the code that trained it."""


def asked() -> list[tuple[str, str, str]]:
    """Return data set, interpolant and prediction of every combination."""
    return [(d, i, p) for d in DATASETS for i in names("interpolant") for p in PREDICTIONS]


def combinations(stop: Stop) -> Iterator[Combination]:
    """Yield every combination; train and measure those that are not on disk. Raises `Stopped`."""
    torch.set_num_threads(1)  # networks this small wait for a second thread
    for name, interpolant, prediction in asked():
        data = load(build("dataset", name))
        made = formulation(interpolant, prediction)
        path = results_folder() / "local" / "toy" / f"{name}-{interpolant}-{prediction}-{_digest(made, data)}.npz"
        if (kept := _read(path)) is None:
            network = train(made, data, stop)
            reached = np.array(distance(made, network, data))
            kept = {"distance": reached, "trajectories": trajectories(made, network).numpy(), "commit": commit()}
            write_atomic(path, npz(kept))
        lines = torch.from_numpy(kept["trajectories"])
        yield Combination(name, interpolant, prediction, float(kept["distance"]), lines, str(kept["commit"]))


def _digest(made: Formulation, data: Data) -> str:
    """Return 12 hex digits over everything that a combination depends on."""
    settings = {"made": made, "train": TRAIN, "network": NETWORK}
    versions = {"numerics_version": NUMERICS_VERSION, "evaluation_version": EVALUATION_VERSION}
    about = {name: to_dict(config, digested=True) for name, config in settings.items()}
    return digest({**about, "data": data.fingerprint, "seed": SEED, "nfe": NFE, **versions})


def _read(path: Path) -> dict[str, Any] | None:
    """Read a combination from disk; None if the file is absent or damaged."""
    try:
        kept = read_arrays(path)
    except (Damaged, OSError):
        return None
    if not {"distance", "trajectories", "commit"} <= kept.keys():
        return None
    lines = kept["trajectories"]
    whole = kept["distance"].shape == () and lines.ndim == 3 and lines.shape[2] == 2
    return kept if whole and kept["distance"].dtype == np.float64 and lines.dtype == np.float32 else None


def formulation(interpolant: str, prediction: str) -> Formulation:
    """Return the formulation of a combination, with stratified times and defaults otherwise."""
    base = Formulation(interpolant=PATHS.get(interpolant, build("interpolant", interpolant)), time_sampler=Stratified())
    return override(base, {"prediction": prediction, **SETTINGS.get(prediction, {})})


def train(made: Formulation, data: Data, stop: Stop) -> nn.Module:
    """Train with `TRAIN` and return the averaged network; raises `Stopped`."""
    torch.manual_seed(SEED)
    nothing = Callbacks(log=lambda line: None, look=lambda network, step: {}, say=print, stop=stop)
    with tempfile.TemporaryDirectory() as folder:
        return fit(TRAIN, SEED, NETWORK.build(data.shape), Objective(made, {}), data, Path(folder), nothing).network


def distance(made: Formulation, network: nn.Module, data: Data) -> float:
    """Return the sliced Wasserstein distance between the held-out points and equally many generated samples."""
    held_out = _points(data.held_out)
    n = len(held_out)
    sampling = SamplingConfig(solver=Heun(), batch_size=n)
    ((points, *_),) = generate(Trained(network, made, {}), sampling, NFE, data.shape, n, (SEED, "samples"))
    return sliced_wasserstein(points, held_out)


def trajectories(made: Formulation, network: nn.Module, number: int = 150) -> Tensor:
    """Return positions [number, steps + 1, 2] of points at every step from noise to data."""
    path: list[Tensor] = []
    trained = Trained(network, made, {})
    sampling = SamplingConfig(batch_size=number)
    ((points, *_),) = generate(trained, sampling, 100, (2,), number, (SEED, "trajectories"), visited=path)
    return torch.stack([*path, points], dim=1)


def real_distances() -> dict[str, float]:
    """Return {data set: mean distance between its held-out points and equally many training points}."""
    return {name: _real_distance(load(build("dataset", name))) for name in DATASETS}


def _real_distance(data: Data) -> float:
    held_out = _points(data.held_out)
    train = _points(data.train)
    n = len(held_out)
    parts = train[: len(train) // n * n].split(n)
    return sum(sliced_wasserstein(part, held_out) for part in parts) / len(parts)


def _points(of: Tensor | Samples) -> Tensor:
    """Return samples of a data set in the plane, which are in memory."""
    assert isinstance(of, Tensor)
    return of


def sliced_wasserstein(points: Tensor, reference: Tensor) -> float:
    """Return the sliced Wasserstein distance between two sets of points [N, 2]."""
    metric = SlicedWasserstein()
    return metric.compare(metric.summarise(points, None), metric.summarise(reference, None))
