"""Samples of a finished run: its network as `evaluate` says, what it draws, and the ways that samples come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.components.solvers import Euler
from harness.components.time_grids import UniformGrid
from harness.core.checkpoint import checkpoints, part, read_checkpoint, step_of
from harness.core.errors import UserError
from harness.data.base import load
from harness.data.pictures import draw
from harness.flow.sampling import Generated, generate
from harness.runs.folder import Run
from harness.training.ema import combine
from harness.training.hardware import compiled, laid_out


@dataclass
class Trained:
    """A trained network with what sampling needs beside it."""

    network: nn.Module
    noise_state: Mapping[str, Tensor]


def restore(run: Run) -> Trained:
    """The network of a finished run as its `evaluate` says, from its checkpoints."""
    network, noise_state = averaged(run)
    return Trained(compiled(network.eval(), run.config.train.resolved()["compile"]), noise_state)


def averaged(run: Run) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The network and the noise's state of a finished run."""
    config, data, device, folder = (
        run.config,
        load(run.config.dataset),
        run.config.train.resolved_device(),
        run.folder / "checkpoints",
    )
    step, saved, _ = read_checkpoint(folder, device)
    if step < config.train.steps:
        raise UserError(
            f"{run.name}: trained for {step} of {config.train.steps} steps. Run `harness train` with its settings first."
        )
    for name, value in part(saved, "data").items():
        if not torch.equal(value.cpu(), data.statistics.get(name, torch.empty(0))):
            raise UserError(
                f"{run.name}: the data's {name} is not what it was trained with. Bring the same data back, or train again."
            )
    if config.evaluate.checkpoint == "best":
        _, saved, _ = read_checkpoint(folder / "best", device)
        if not saved:
            raise UserError(f"{run.name}: its best checkpoint is missing or damaged. Set evaluate.checkpoint=last.")
    network = laid_out(config.build(data).to(device), data.shape, config.train.channels_last)
    network.load_state_dict(part(saved, "network"))
    steps = sorted(map(step_of, checkpoints(folder / "snapshots")))
    terms = config.evaluate.average.terms(config.train.decays, steps)
    network.load_state_dict(combine(saved, folder / "snapshots", terms), strict=False)
    return network, part(saved, "noise")


def samples(
    run: Run,
    trained: Trained,
    nfe: int,
    number: int,
    label: int | None = None,
    visited: list[Tensor] | None = None,
    first: int = 0,
) -> Iterator[Generated]:
    """Batches of decoded samples, on the device; the noise depends on the run's seed alone.

    Classes come as often as in training, or are all `label`. `visited` collects x, encoded, wherever the network is called.
    `first` batches are left out.
    """
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    classes = data.classes if config.conditional else None
    batches = generate(
        trained.network, config, trained.noise_state, config.evaluate.solver, config.evaluate.time_grid, nfe, data.shape,
        number, config.evaluate.batch_size, (config.seed, "evaluation"), device,
        classes if label is None else torch.tensor([label]), config.evaluate.guidance, visited, first,
    )  # fmt: skip
    return (batch._replace(x=data.decode(batch.x)) for batch in batches)


def picture(run: Run, trained: Trained, nfe: int, number: int, path: Path, label: int | None = None) -> None:
    """Draw samples as their kind of data is drawn: points with the way that they came."""
    data, visited = load(run.config.dataset), list[Tensor]()
    shown = [
        batch.x
        for batch in samples(
            run, trained, nfe, number, label, visited if load(run.config.dataset).kind == "points" else None
        )
    ]
    whole = [x for x in visited if len(x) == len(shown[0])][: len(visited) // len(shown)]
    draw(data, torch.cat(shown).cpu(), path, trajectories=whole)


def paths(run: Run, trained: Trained, steps: int, number: int) -> list[Tensor]:
    """Where `number` samples are on their way by Euler's method, without guidance, in equal steps; classes come as in `samples`."""
    visited, data, device = list[Tensor](), load(run.config.dataset), run.config.train.resolved_device()
    at_once = min(number, run.config.evaluate.batch_size)
    ends = generate(
        trained.network, run.config, trained.noise_state, Euler(), UniformGrid(), steps, data.shape, number, at_once,
        (run.config.seed, "paths"), device, data.classes if run.config.conditional else None, visited=visited,
    )  # fmt: skip
    end = torch.cat([batch.x for batch in ends])
    return [*(torch.cat(visited[i::steps]) for i in range(steps)), end]
