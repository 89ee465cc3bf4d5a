"""The run directory: what was trained, how far it is and what it scored. It is the truth; Optuna and MLflow index it.

    results/local/runs/<training digest>-s<seed>/
        config.json  environment.json  metrics.jsonl  checkpoints/  samples/  evaluations/<protocol digest>.json  diverged.json

The digest covers all that training depends on and nothing else, so no run is trained twice and a change of
`evaluate` retrains nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from harness.components.backbones.base import Backbone
from harness.components.backbones.unet import UNet
from harness.config import Index, digest, to_dict
from harness.data.base import Dataset, load
from harness.data.images import save_grid
from harness.environment import commit, machine
from harness.errors import ConfigError, Diverged, Stopped, UserError
from harness.evaluation.judge import Judge
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.files import drop_torn_line, last_line, locked, read_json, read_lines, remove_leftovers, runs_folder, write_json
from harness.formulation import Formulation, require_score
from harness.objective import Objective
from harness.registry import sources
from harness.rng import stream_seed
from harness.sampling import generate
from harness.training.checkpoint import read_checkpoint
from harness.training.trainer import Callbacks, TrainConfig, fit, part

NUMERICS_VERSION = 1
"""Raised by hand when a change of the code alters what the same configuration gives."""
_NAME = re.compile(r"[0-9a-f]{12}-s\d+")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Formulation):
    """One training run and how it is judged. Its paths are what `--set` takes, MLflow shows and tables name."""

    dataset: Dataset
    backbone: Backbone = UNet()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: Index = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate.solver.needs_score:
            require_score("evaluate.solver", self.evaluate.solver.name, "euler", self)
            self.refuse_unbounded("score")


@dataclass(frozen=True)
class Run:
    """A run directory with its configuration."""

    config: RunConfig
    folder: Path

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The run that a configuration names; nothing is written."""
        return cls(config, runs_folder() / f"{training_digest(config)}-s{config.seed}")

    @classmethod
    def open(cls, name: str) -> Self:
        """An existing run by its name, or by the path of its directory."""
        folder = runs_folder() / name if _NAME.fullmatch(name) else Path(name)
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: no such run. The runs are the folders in {runs_folder()}.")
        return cls(RunConfig.parse(read_json(folder / "config.json")), folder)

    @property
    def name(self) -> str:
        return self.folder.name

    def lock(self, wait: bool = True) -> AbstractContextManager[bool]:
        """Held by the one process that may write here."""
        return locked(self.folder / "lock", wait)

    @property
    def steps_done(self) -> int:
        """The last step in metrics.jsonl."""
        line = last_line(self.folder / "metrics.jsonl")
        return line["step"] if line else 0

    def metrics(self, start: int = 0) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl from number `start` on."""
        return read_lines(self.folder / "metrics.jsonl", start)

    def evaluation(self, protocol: Protocol) -> dict[str, Any]:
        """What is known under a protocol: values {metric: {NFE as text: value}}; seconds, (Unix) time and the network's
        calls a sample (mean and sd) by NFE; commits."""
        path = self.folder / "evaluations" / f"{protocol.digest}.json"
        unknown = {"protocol": vars(protocol), "values": {}, "seconds": {}, "time": {}, "calls": {}, "commits": []}
        return read_json(path) if path.exists() else unknown

    def missing(self, protocol: Protocol) -> list[int]:
        """The NFEs of the configuration at which a metric is not known under a protocol."""
        values, config = self.evaluation(protocol)["values"], self.config.evaluate
        return [nfe for nfe in config.nfe if any(str(nfe) not in values.get(m.name, {}) for m in config.metrics)]

    @property
    def environment(self) -> dict[str, Any]:
        """Commits that trained it, machine, number of parameters, mean weight; empty before it starts."""
        path = self.folder / "environment.json"
        return read_json(path) if path.exists() else {}

    @property
    def diverged(self) -> str | None:
        """Why training gave up, or None."""
        path = self.folder / "diverged.json"
        return read_json(path)["reason"] if path.exists() else None


def training_digest(config: RunConfig) -> str:
    """12 hex digits over all that the trained weights depend on, the seed aside.

    The device belongs to it: the random streams of a CPU and a GPU differ.
    """
    identity = to_dict(config, run_only=False)
    del identity["evaluate"], identity["seed"]
    identity["train"]["precision"] = config.train.resolved_precision()
    return digest(
        {
            **identity,
            "device": config.train.resolved_device(),
            "data": load(config.dataset).fingerprint,
            "files": config.coupling.fingerprint(),
            "sources": sources(dataclasses.replace(config, evaluate=EvaluateConfig())),
            "numerics_version": NUMERICS_VERSION,
        }
    )


Say = Callable[[str], None]
Stop = Callable[[], bool]


@dataclass
class Trained:
    """A trained network with what sampling needs beside it."""

    network: nn.Module
    noise_state: Mapping[str, Tensor]


def ensure(config: RunConfig, say: Say, stop: Stop) -> Run:
    """The run of a configuration, trained and evaluated: what is done is kept, what was begun continues.

    Raises `Diverged` (a second time without training again) and `Stopped`.
    """
    run, data = Run.of(config), load(config.dataset)
    protocol = Protocol.of(config.evaluate, data)
    if not run.diverged and not run.missing(protocol):
        return run
    trained = train(run, say, stop)
    evaluate(run, trained, Judge(config.evaluate, data, config.train.resolved_device()), stop)
    return run


def check(config: RunConfig) -> None:
    """Raise what training would trip over: data that cannot be read, a network that does not fit, an impossible protocol."""
    data = load(config.dataset)
    Protocol.of(config.evaluate, data)
    config.coupling.check(data.shape, data.classes is not None)
    path = config.path(config.noise.fit(data.encode(data.train)))
    for nfe in config.evaluate.nfe:
        config.evaluate.time_grid.times(config.evaluate.solver.steps(nfe), path)
    try:
        with torch.device("meta"):
            config.backbone.build(data.shape)
    except ConfigError as error:
        raise error.below("backbone") from None


def train(run: Run, say: Say, stop: Stop) -> Trained:
    """Train a run from where it stands; at once when it is finished."""
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    torch.set_num_threads(config.train.threads)
    with run.lock(), threadpool_limits(config.train.threads):
        if run.diverged:
            raise Diverged(f"{run.diverged} (Remove {run.folder} to train it again.)")
        remove_leftovers(run.folder)
        drop_torn_line(run.folder / "metrics.jsonl")
        torch.manual_seed(stream_seed(config.seed, "initial weights"))
        network = config.backbone.build(data.shape).to(device)
        noise_state = config.noise.fit(data.encode(data.train))
        objective = Objective(config, noise_state)
        if not (run.folder / "config.json").exists():
            write_json(run.folder / "config.json", to_dict(config))
        if run.steps_done < config.train.steps:
            _write_environment(run, network, objective)
        try:
            ema = fit(
                config.train, config.seed, network, objective, data, run.folder / "checkpoints", _callbacks(run, objective, say, stop)
            )
        except Diverged as error:
            write_json(run.folder / "diverged.json", {"reason": str(error)})
            raise
        return Trained(ema.network, objective.noise_state)


def restore(run: Run) -> Trained:
    """The averaged network of a finished run, from its checkpoint."""
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    step, saved, _ = read_checkpoint(run.folder / "checkpoints", device)
    if step < config.train.steps:
        raise UserError(f"{run.name}: trained for {step} of {config.train.steps} steps. Run `harness train` with its settings first.")
    network = config.backbone.build(data.shape).to(device)
    network.load_state_dict(part(saved, "ema"))
    return Trained(network.eval(), part(saved, "noise"))


def evaluate(run: Run, trained: Trained, judge: Judge, stop: Stop) -> None:
    """Add to the run what `judge` says at every NFE that it has not been judged at; each is written when it is known."""
    config = run.config.evaluate
    torch.set_num_threads(run.config.train.threads)
    with run.lock(), threadpool_limits(run.config.train.threads):
        for nfe in run.missing(judge.protocol):
            started, calls = time.perf_counter(), list[int]()
            images = _counted(samples(run, trained, nfe, config.num_samples), calls)
            picture = run.folder / "samples" / f"{judge.protocol.digest}-nfe-{nfe:04d}.png"
            try:
                values = judge(_with_grid(_stoppable(images, stop), picture))
            except Diverged as error:
                write_json(run.folder / "diverged.json", {"reason": str(error)})
                raise
            known = run.evaluation(judge.protocol)
            for metric, value in values.items():
                known["values"].setdefault(metric, {})[str(nfe)] = value
            known["seconds"][str(nfe)], known["time"][str(nfe)] = time.perf_counter() - started, time.time()
            known["calls"][str(nfe)] = {"mean": statistics.fmean(calls), "sd": statistics.pstdev(calls)}
            known["commits"] = sorted({*known["commits"], commit()})
            write_json(run.folder / "evaluations" / f"{judge.protocol.digest}.json", known)


def samples(run: Run, trained: Trained, nfe: int, number: int) -> Iterator[tuple[Tensor, int]]:
    """Batches of decoded samples, on the CPU, with the calls each took; the noise depends on the run's seed alone."""
    config, data, device = run.config, load(run.config.dataset), run.config.train.resolved_device()
    batches = generate(
        trained.network, config, trained.noise_state, config.evaluate.solver, config.evaluate.time_grid, nfe, data.shape,
        number, config.evaluate.batch_size, (config.seed, "evaluation"), device,
    )  # fmt: skip
    return ((data.decode(batch).cpu(), calls) for batch, calls in batches)


def _callbacks(run: Run, objective: Objective, say: Say, stop: Stop) -> Callbacks:
    last, path = run.steps_done, run.folder / "metrics.jsonl"

    def log(line: dict[str, float]) -> None:
        if line["step"] > last:  # a resumed run repeats what it had logged after its checkpoint
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def sample(network: nn.Module, step: int) -> None:
        images = samples(run, Trained(network, objective.noise_state), max(run.config.evaluate.nfe), 64)
        save_grid(next(images)[0], run.folder / "samples" / f"step-{step:07d}.png")

    def resumed(step: int, damaged: list[Path]) -> None:
        for checkpoint in damaged:
            say(f"{checkpoint} is damaged and was passed over.")
        if damaged or 0 < step < run.config.train.steps:
            say(f"{run.name} continues from step {step} of {run.config.train.steps}.")

    return Callbacks(log, sample, resumed, stop)


def _write_environment(run: Run, network: nn.Module, objective: Objective) -> None:
    earlier = run.environment.get("commits", [])
    write_json(
        run.folder / "environment.json",
        {
            "commits": sorted({*earlier, commit()}),
            "machine": machine(),
            "parameters": sum(p.numel() for p in network.parameters()),
            "weight_mean": objective.weight_mean,
        },
    )


def _counted(batches: Iterable[tuple[Tensor, int]], calls: list[int]) -> Iterator[Tensor]:
    """The images alone; the calls that each of them took are added to `calls`."""
    for images, spent in batches:
        calls += [spent] * len(images)
        yield images


def _stoppable(batches: Iterable[Tensor], stop: Stop) -> Iterator[Tensor]:
    for batch in batches:
        if stop():
            raise Stopped("stopped while evaluating")
        yield batch


def _with_grid(batches: Iterable[Tensor], path: Path) -> Iterator[Tensor]:
    """The same batches; the first 64 images are kept as a picture."""
    for i, batch in enumerate(batches):
        if i == 0:
            save_grid(batch[:64], path)
        yield batch
