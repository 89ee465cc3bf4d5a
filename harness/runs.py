"""The run directory: what was trained, how far it is and what it scored. It is the truth; Optuna and MLflow index it.

    results/local/runs/<training digest>-s<seed>/
        config.json  environment.json  metrics.jsonl  checkpoints/  samples/  evaluations/<protocol digest>.json  diverged.json  pruned.json

The digest covers all that training depends on and nothing else, so no run is trained twice and a change of
`evaluate` retrains nothing.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from harness.checkpoint import checkpoints, read_checkpoint, step_of
from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.unet import UNet
from harness.components.interpolants import Interpolant
from harness.config import Index, digest, to_dict
from harness.data.base import Data, Dataset, load
from harness.errors import ConfigError, UserError
from harness.evaluation.flow import FlowMetric
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.files import last_line, locked, read_json, read_lines, runs_folder
from harness.formulation import Formulation, require_score
from harness.registry import sources
from harness.sampling import steps_of
from harness.training.trainer import TrainConfig

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
        try:
            self.evaluate.average.check(self.train.decays, self.train.snapshot_every > 0)
        except ConfigError as error:
            raise error.below("evaluate.average") from None
        if self.evaluate.solver.needs_score:
            require_score("evaluate.solver", self.evaluate.solver.name, "euler", self)
            self.refuse_unbounded("score")
        if self.evaluate.guidance.scale != 1 and not self.objective.label_dropout:
            state = "is told no classes" if self.objective.label_dropout is None else "always sees them"
            raise ConfigError("evaluate.guidance", f"the network {state}. Train it with objective.label_dropout above 0, like 0.1.")
        for i, metric in enumerate(self.evaluate.metrics):
            try:
                metric.check(self)
            except ConfigError as error:
                raise error.below(f"evaluate.metrics[{i}]") from None
            if metric.needs_classes and not self.conditional:
                reason = f"{metric.name} needs a network that is told classes"
                raise ConfigError(f"evaluate.metrics[{i}]", f"{reason}. Set objective.label_dropout, like 0.1.")

    def build(self, data: Data) -> Network:
        """The network for these data; `ConfigError` when it does not fit."""
        try:
            return self.backbone.build(data.shape, data.num_classes if self.conditional else 0)
        except ConfigError as error:
            raise error.below("backbone") from None


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
        """What is known under a protocol: values {metric: {NFE as text: value}} and intervals; by NFE: seconds in all
        and of sampling, (Unix) time and the network's calls a sample (mean and sd); why it failed, or None; commits."""
        path = self.folder / "evaluations" / f"{protocol.digest}.json"
        by_nfe: dict[str, Any] = {name: {} for name in ("values", "intervals", "seconds", "sampling_seconds", "time", "calls")}
        unknown = {"protocol": vars(protocol), **by_nfe, "failed": None, "commits": []}
        return {**unknown, **read_json(path)} if path.exists() else unknown

    def missing(self, protocol: Protocol) -> list[int]:
        """The NFEs of the configuration at which a metric of samples is not known under a protocol."""
        values, config = self.evaluation(protocol)["values"], self.config.evaluate
        judged = [metric for metric in config.metrics if not isinstance(metric, FlowMetric)]
        return [nfe for nfe in config.nfe if any(str(nfe) not in values.get(m.name, {}) for m in judged)]

    def judged(self, protocol: Protocol) -> float:
        """How much of the evaluation under a protocol is done, from 0 to 1, samples that wait for their metrics included."""
        config, missing = self.config.evaluate, self.missing(protocol)
        flows = sum(isinstance(metric, FlowMetric) for metric in config.metrics)
        left = float(len(missing) + len(self.flow_missing(protocol)))
        if missing and (parts := checkpoints(self.parts(protocol, missing[0]))):
            left -= min(1.0, step_of(parts[0]) * config.batch_size / config.num_samples)
        return 1 - left / (len(config.nfe) + flows)

    def parts(self, protocol: Protocol, nfe: int) -> Path:
        """Where an evaluation at one NFE keeps what it has until all is known."""
        logits = "-logits" if any(metric.reads == "logits" for metric in self.config.evaluate.metrics) else ""
        return self.folder / "evaluations" / f"{protocol.digest}-nfe-{nfe:04d}{logits}"

    def flow_missing(self, protocol: Protocol) -> list[FlowMetric]:
        """The metrics of the flow that are not known under a protocol."""
        values, metrics = self.evaluation(protocol)["values"], self.config.evaluate.metrics
        return [metric for metric in metrics if isinstance(metric, FlowMetric) and str(metric.nfe) not in values.get(metric.name, {})]

    def evaluated(self, protocol: Protocol) -> bool:
        """Whether every metric is known at every NFE, under a protocol."""
        return not self.missing(protocol) and not self.flow_missing(protocol)

    @property
    def environment(self) -> dict[str, Any]:
        """Commits that trained it, machine, number of parameters, mean weight, the data's fingerprint; empty before it starts."""
        path = self.folder / "environment.json"
        return read_json(path) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether training has ended and its last checkpoint is intact."""
        return read_checkpoint(self.folder / "checkpoints", "cpu")[0] == self.config.train.steps

    @property
    def diverged(self) -> str | None:
        """Why training gave up, or None."""
        return self._reason("diverged.json")

    def failure(self, protocol: Protocol) -> str | None:
        """Why there is no value under a protocol and will be none, or None."""
        return self.diverged or self.evaluation(protocol)["failed"]

    @property
    def pruned(self) -> str | None:
        """Why a search gave it up, or None; training it further takes that back."""
        return self._reason("pruned.json")

    def _reason(self, name: str) -> str | None:
        path = self.folder / name
        return read_json(path)["reason"] if path.exists() else None


def training_digest(config: RunConfig) -> str:
    """12 hex digits over all that the trained weights depend on, the seed aside.

    The device belongs to it: the random streams of a CPU and a GPU differ.
    """
    identity = to_dict(config, run_only=False)
    del identity["evaluate"], identity["seed"]
    identity["train"] |= config.train.resolved()
    return digest(
        {
            **identity,
            "data": load(config.dataset).fingerprint,
            "files": {**config.coupling.fingerprint(), **config.noise.fingerprint()},
            "sources": sources(dataclasses.replace(config, evaluate=EvaluateConfig())),
            "numerics_version": NUMERICS_VERSION,
        }
    )


def check(config: RunConfig) -> None:
    """Raise what training would trip over: data that cannot be read, a network that does not fit, an impossible protocol."""
    data = load(config.dataset)
    Protocol.of(config.evaluate, data)
    config.coupling.check(data.shape, data.classes is not None)
    config.noise.check(data)
    if config.conditional and data.num_classes < 2:
        raise ConfigError("objective.label_dropout", f"the data have {data.num_classes or 'no'} classes. Set it to null, or take others.")
    if config.train.batch_size > len(data.train):
        reason = f"{config.train.batch_size} is more than the {len(data.train)} training samples"
        raise ConfigError("train.batch_size", f"{reason}. Choose a smaller one.")
    path = config.path(config.noise.learn(data))
    for nfe in config.evaluate.nfe:
        config.evaluate.time_grid.times(_steps(config, path, nfe), path)
    with torch.device("meta"):
        config.build(data)


def _steps(config: RunConfig, path: Interpolant, nfe: int) -> int:
    return steps_of(config.evaluate.solver, config.evaluate.time_grid, path, config.evaluate.guidance, nfe)
