"""Every interpolant with every prediction on points in the plane: does each combination find the distribution?

    python studies/toy.py [--publish]

Trains one small network for each, draws as many points as are held out with Heun's method and prints the sliced
Wasserstein distance to them beside that of real points. One seed each: a check that all of them work, not a comparison.
Writes tables/toy.{md,csv,json} and figures/toy.png below results/local. With --publish nothing is trained: these files are
copied to the committed ones.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from harness.ablation.report.grids import Grid
from harness.ablation.report.published import published_folder, renew
from harness.ablation.report.tables import provenance
from harness.components.backbones.mlp import MLP
from harness.components.interpolants import VarianceExploding
from harness.components.solvers import Heun
from harness.components.time_samplers import Stratified
from harness.core.config import override
from harness.core.errors import UserError, guarded
from harness.core.files import results_folder, write_atomic, write_json
from harness.core.provenance import commit
from harness.core.registry import build, names
from harness.data.base import Data, load
from harness.evaluation.distances import SlicedWasserstein
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective
from harness.flow.sampling import SamplingConfig, Trained, generate
from harness.training.config import TrainConfig
from harness.training.trainer import Callbacks, fit

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SEED = 0
TRAIN = TrainConfig(
    steps=1000, batch_size=256, learning_rate=5e-3, warmup_steps=50, ema_decay=0.99, threads=1, device="cpu",
    log_every=10_000, sample_every=10_000, checkpoint_every=10_000,
)  # fmt: skip
NETWORK = MLP(width=96, blocks=2)
# The score has no bound near the data, and `ve` starts far outside the unit variance that its networks see.
SETTINGS = {"score": {"objective.space": "noise"}, "edm": {"prediction.sigma_data": 1.0}}
PATHS = {"ve": VarianceExploding(sigma_min=0.01, sigma_max=10)}
DATASETS, PREDICTIONS = ("eight_gaussians", "checkerboard"), ("velocity", "data", "noise", "score", "edm")
NFE = 64
DRAWN = "edm"
QUESTION = "Does every interpolant with every prediction find a distribution of points?"
FILES = ("tables/toy.csv", "tables/toy.json", "tables/toy.md", "figures/toy.png")


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
    n = len(data.held_out)
    sampling = SamplingConfig(solver=Heun(), batch_size=n)
    ((points, *_),) = generate(Trained(network, made, {}), sampling, NFE, data.shape, n, (SEED, "samples"), "cpu")
    return sliced_wasserstein(points, data.held_out)


def sliced_wasserstein(points: Tensor, reference: Tensor) -> float:
    """The distance of two sets [N, 2]."""
    metric = SlicedWasserstein()
    return metric.compare(metric.summarise(points, None), metric.summarise(reference, None))


def real_distance(data: Data) -> float:
    """The mean of as many training points' distances to the held-out ones."""
    parts = data.train[: len(data.train) // len(data.held_out) * len(data.held_out)].split(len(data.held_out))
    return sum(sliced_wasserstein(part, data.held_out) for part in parts) / len(parts)


def trajectories(made: Formulation, network: nn.Module, number: int = 150) -> Tensor:
    """[number, steps + 1, 2]: where each point is at every step from noise to data."""
    path: list[Tensor] = []
    trained, sampling = Trained(network, made, {}), SamplingConfig(batch_size=number)
    ((made_points, *_),) = generate(trained, sampling, 100, (2,), number, (SEED, "trajectories"), "cpu", visited=path)
    return torch.stack([*path, made_points], dim=1)


def run() -> Iterator[tuple[str, str, str, float, Tensor]]:
    """(data set, interpolant, prediction, distance, trajectories) of every combination."""
    combinations = [(d, i, p) for d in DATASETS for i in names("interpolant") for p in PREDICTIONS]
    for name, interpolant, prediction in track(combinations, "toy", console=Console()):
        data, made = load(build("dataset", name)), formulation(interpolant, prediction)
        network = train(made, data)
        yield name, interpolant, prediction, distance(made, network, data), trajectories(made, network)


def draw(drawn: dict[tuple[str, str], Tensor], path: Path) -> None:
    """One panel for each data set and interpolant."""
    paths = names("interpolant")
    size = (2.1 * len(paths), 2.2 * len(DATASETS))
    figure, panels = plt.subplots(len(DATASETS), len(paths), figsize=size, squeeze=False, layout="constrained")
    for row, name in zip(panels, DATASETS, strict=True):
        for axes, interpolant in zip(row, paths, strict=True):
            lines = drawn[name, interpolant]
            for line in lines:
                axes.plot(line[:, 0], line[:, 1], color="C0", alpha=0.25, linewidth=0.5)
            axes.scatter(lines[:, -1, 0], lines[:, -1, 1], s=3, color="C3", zorder=3)
            axes.set(
                xlim=(-3, 3),
                ylim=(-3, 3),
                xticks=[],
                yticks=[],
                aspect="equal",
                title=interpolant if name == DATASETS[0] else "",
            )
        row[0].set_ylabel(name)
    figure.suptitle(f"{DRAWN} prediction: from noise (line) to data (dot)", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def markdown(frame: pd.DataFrame, about: dict[str, Any]) -> str:
    """The table for people: a part for each data set."""
    parts = [f"# {about['question']}"]
    for name, part in frame.groupby("dataset", sort=False):
        header = ["interpolant", *part.prediction.unique()]
        cells = part.pivot(index="interpolant", columns="prediction", values="sliced_wasserstein")[header[1:]].map(
            "{:.3f}".format
        )
        title = f"{name}: sliced Wasserstein-2 to held-out points; real points {part.real.iloc[0]:.3f}"
        parts.append(Grid(title, header, cells.reset_index().to_numpy().tolist()).markdown())
    parts.append("![trajectories](../figures/toy.png)")
    parts.append(
        f"Made by `{about['command']}` at commit {', '.join(about['commits']) or 'unknown'}, one seed each; more in toy.json."
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Train all, print the table, write the files."""
    torch.set_num_threads(1)  # networks this small wait for a second thread
    results = list(run())
    frame = pd.DataFrame(
        [row[:4] for row in results], columns=["dataset", "interpolant", "prediction", "sliced_wasserstein"]
    )
    frame["real"] = frame.dataset.map({name: real_distance(load(build("dataset", name))) for name in DATASETS})
    frame = frame.round(4)
    about = provenance(QUESTION, "python studies/toy.py", [commit()])
    text = markdown(frame, about)
    print(f"\n{text}")
    table, *others, figure = (results_folder() / "local" / name for name in FILES)
    write_atomic(table, frame.to_csv(index=False))
    write_json(others[0], about)
    write_atomic(others[1], text)
    draw(
        {(name, interpolant): lines for name, interpolant, prediction, _, lines in results if prediction == DRAWN},
        figure,
    )
    print(f"wrote {', '.join(map(str, [table, *others, figure]))}")


def publish() -> None:
    """Copy the files of the last `main` to the committed ones, and mark what an earlier version of the code made."""
    own, committed = results_folder() / "local", published_folder()
    if missing := [name for name in FILES if not (own / name).is_file()]:
        raise UserError(f"{own / missing[0]}: there is none. Run `make toy` first.")
    for name in FILES:
        write_atomic(committed / name, (own / name).read_bytes())
    print(f"wrote {', '.join(str(committed / name) for name in FILES)}")
    renew()


if __name__ == "__main__":
    sys.exit(guarded(publish if "--publish" in sys.argv[1:] else main))
