"""Samples of a run: its network with the weights of `evaluate`, the samples, and their paths."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.components.noises import Noise
from harness.core.checkpoint import below, checkpoints, differing, read_checkpoint, step_of
from harness.core.errors import ConfigError, UserError
from harness.data.base import Dataset, load
from harness.data.pictures import draw
from harness.flow.sampling import Generated, SamplingConfig, Trained, generate
from harness.runs.folder import Run
from harness.runs.validate import refuse_tf32
from harness.training.ema import combine
from harness.training.hardware import compiled, laid_out
from harness.training.inference import Inference, in_precision


def restore(run: Run) -> Trained:
    """Return the network of a finished run, with the weights that its `evaluate` names, ready to sample."""
    trained = averaged(run)
    mode = run.config.train.resolved()["compile"]
    network = compiled(trained.network.eval(), mode)
    graphs = run.config.train.graph == "on" and mode in ("off", "default")
    if trained.device == "cuda" and (graphs or mode != "off"):
        network = Inference(network, graphs)
    return trained._replace(network=network)


def averaged(run: Run) -> Trained:
    """Return the network of a finished run with the weights that its `evaluate` names, not compiled."""
    config = run.config
    folder = run.folder / "checkpoints"
    device = run.config.train.usable_device()
    step, saved, damaged = read_checkpoint(folder, device)
    run.require_finished(step)
    place = next(path for path in checkpoints(folder) if path not in damaged)
    for name, value in below(saved, "data").items():
        known = run.data.statistics.get(name, torch.empty(0))
        if known.dtype != value.dtype or not torch.equal(value.cpu(), known):
            reason = f"the data's {name} has changed since training"
            raise UserError(f"{run.name}: {reason}. Restore the same data, or train again.")
    if config.evaluate.checkpoint == "best":
        _, saved, damaged = read_checkpoint(folder / "best", device)
        if not saved:
            raise UserError(f"{run.name}: its best checkpoint is missing or damaged. Set evaluate.checkpoint=last.")
        place = next(path for path in checkpoints(folder / "best") if path not in damaged)
    network = laid_out(config.build(run.data).to(device), run.data.shape, config.train.channels_last)
    _require_fit(place, below(saved, "network"), network.state_dict())
    _require_fit(place, below(saved, "noise"), config.noise.learn(run.data))
    network.load_state_dict(below(saved, "network"))
    steps = sorted(map(step_of, checkpoints(folder / "snapshots")))
    terms = config.evaluate.average.terms(config.train.decays, steps)
    weights = dict(network.named_parameters())
    shown = combine(saved, folder / "snapshots", terms, weights)
    _require_fit(place, {name: value for name, value in shown.items() if name in weights}, weights)
    network.load_state_dict(shown, strict=False)
    return Trained(network, config, below(saved, "noise"), device)


def _require_fit(place: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise `UserError` if the tensors of a checkpoint do not fit the run of its folder."""
    if reason := differing(found, wanted):
        advice = "Remove it, then run the command that trained the run: it continues from the checkpoint before."
        raise UserError(f"{place}: does not fit the run ({reason}). {advice}")


def samples(
    run: Run, trained: Trained, nfe: int, number: int, *, label: int | None = None, visited: list[Tensor] | None = None,
    first: int = 0,
) -> Iterator[Generated]:  # fmt: skip
    """Yield batches of decoded samples, on the device; noise depends on the run's seed and `evaluate.sampling_seed`.

    A larger `number` starts with the same complete batches. Classes are as frequent as in training, or all are `label`.
    `visited` collects the encoded x of every network call. The first `first` batches are skipped.
    `ConfigError` if the solver cannot use exactly `nfe` calls, or if `evaluate.noise` does not fit the data.
    """
    config = run.config
    refuse_tf32(config)
    again = config.evaluate.sampling_seed
    usual = config.seed, "evaluation"
    streams = (*usual, "sampling seed", again) if again else usual
    try:
        if noise := config.evaluate.noise:
            trained = trained._replace(start=(noise, _learned(noise, config.dataset)))
        trained = trained._replace(network=in_precision(trained.network, config.evaluate.precision, trained.device))
        for batch in generate(
            trained, config.evaluate, nfe, run.data.shape, number, streams,
            classes=run.classes if label is None else torch.tensor([label]),
            visited=visited, first=first,
        ):  # fmt: skip
            yield batch._replace(x=run.data.decode(batch.x))
    except ConfigError as error:
        raise error if error.path.startswith("train.") else error.below("evaluate") from None


@functools.lru_cache(maxsize=2)
def _learned(noise: Noise, dataset: Dataset) -> Mapping[str, Tensor]:
    """What a noise of `evaluate` learns from the data, once for all NFEs."""
    return noise.learn(load(dataset))


def picture(run: Run, trained: Trained, nfe: int, number: int, path: Path, label: int | None = None) -> None:
    """Draw samples as a picture of their kind of data; points are drawn with their paths."""
    visited: list[Tensor] = []
    follow = visited if run.data.kind == "points" else None
    shown = [batch.x for batch in samples(run, trained, nfe, number, label=label, visited=follow)]
    whole = [x for x in visited if len(x) == len(shown[0])][: len(visited) // len(shown)]
    draw(run.data, torch.cat(shown).cpu(), path, trajectories=whole)


def paths(run: Run, trained: Trained, steps: int, number: int) -> list[Tensor]:
    """Return the states of `number` samples before each of `steps` equal Euler steps and at the end, without guidance.

    Classes are drawn as in `samples`.
    """
    visited: list[Tensor] = []
    plain = SamplingConfig(batch_size=min(number, run.config.evaluate.batch_size))
    ends = generate(
        trained, plain, steps, run.data.shape, number, (run.config.seed, "paths"),
        classes=run.classes, visited=visited,
    )  # fmt: skip
    end = torch.cat([batch.x for batch in ends])
    return [*(torch.cat(visited[i::steps]) for i in range(steps)), end]
