"""The run directory: what was trained, how far it is and what it scored. It is the truth; Optuna and MLflow index it.

    results/local/runs/<training digest>-s<seed>/
        config.json  environment.json  metrics.jsonl  checkpoints/  samples/  evaluations/<protocol digest>.json  diverged.json  pruned.json

The digest covers all that training depends on and nothing else, so no run is trained twice and a change of
`evaluate` retrains nothing. A run that learns another's pairs (`reflow`) names it by its configuration: its parent.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch

from harness.checkpoint import checkpoints, read_checkpoint, step_of
from harness.components.averages import Average, Ema
from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.unet import UNet
from harness.components.couplings import Pairs
from harness.components.solvers import Euler, Heun, Solver
from harness.components.time_grids import TimeGrid, UniformGrid
from harness.components.time_samplers import Uniform as UniformTimes
from harness.components.weightings import Uniform as UniformWeight
from harness.config import Config, Count, Index, Range, digest, to_dict
from harness.data.base import Data, Dataset, load
from harness.errors import ConfigError, Diverged, NoValue, UserError
from harness.evaluation.flow import FlowMetric
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.files import last_line, locked, read_json, read_lines, results_folder, runs_folder
from harness.formulation import Formulation, require_score
from harness.pairs import PairSet
from harness.registry import sources
from harness.sampling import Guidance
from harness.training.trainer import TrainConfig

NUMERICS_VERSION = 2
"""Raised by hand when a change of the code alters what the same configuration gives.

2: held-out samples are drawn by class instead of taken at equal distances; evenly spaced rows are exact. Cells are normalised
over all genes of their folder, and of equally variable genes no more are chosen than asked for. The held-out loss, by which the
best checkpoint is chosen, is of the true classes; looks change no buffers.
"""
ONE_STEP = 1e-3
"""How near one step of a perfect distilled network must come, from noise 2 to a sample of 1."""
ONE_STEP_ONLY = {"solver": Euler(), "time_grid": UniformGrid(), "guidance": Guidance(), "nfe": (1,)}
"""What `evaluate` of a distilled network must be."""
_NAME = re.compile(r"[0-9a-f]{12}-s\d+")


@dataclass(frozen=True, kw_only=True)
class Reflow(Config):
    """Learning the pairs of noise and sample that an earlier flow makes, in rounds: the flow before is the teacher of each.

    The flow that was trained on data is 1-rectified, so round k gives the (k + 1)-rectified flow.
    """

    source: ClassVar[str] = "Liu et al. 2023, algorithm 1, and their distillation"

    rounds: Annotated[int, Range(0, 20)] = 0
    """How many lie behind this flow; 0 is one that was trained on data."""
    distil: bool = False
    """One step more: learn the pairs of the last round at t = 1 alone, to be sampled by one step of Euler's method."""
    teacher: RunConfig | None = None
    """The flow before the first round, whose seed is the run's; null is this very configuration without rounds."""
    warm_start: bool = True
    """Begin each round with its teacher's averaged weights."""
    number: Count = 50_000
    """Pairs; Liu et al. take a million or more for CIFAR-10."""
    solver: Solver = Heun()
    time_grid: TimeGrid = UniformGrid()
    nfe: Index = 100
    """The teacher's calls for each pair; 0 lets an adaptive solver choose."""
    guidance: Guidance = Guidance()
    average: Average = Ema()
    """Of the teacher's weights."""
    batch_size: Count = 500
    """Pairs made at once; each batch has its own stream of noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and not (self.rounds or self.distil):
            raise ConfigError("teacher", "without rounds or distil nothing is learned from it. Set reflow.rounds=1, or leave it out.")
        if self.solver.needs_score:
            raise ConfigError(
                "solver", f"{self.solver.name} draws noise on its way, and pairs need one sample for each noise. Choose heun."
            )
        if not self.solver.adaptive and self.guidance.scale == 1:
            self.solver.steps(self.nfe)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Formulation):
    """One training run and how it is judged. Its paths are what `--set` takes, MLflow shows and tables name."""

    dataset: Dataset
    backbone: Backbone = UNet()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    reflow: Reflow = field(default_factory=Reflow)
    seed: Index = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if parent := self.parent:
            self._check_reflow(parent)
        learned = self.learned()
        try:
            self.evaluate.average.check(self.train.decays, self.train.snapshot_every > 0)
        except ConfigError as error:
            raise error.below("evaluate.average") from None
        if self.evaluate.solver.needs_score:
            require_score("evaluate.solver", self.evaluate.solver.name, "euler", learned)
            self.refuse_unbounded("score")
        if self.evaluate.checkpoint == "best" and learned.coupling.brings_data:
            raise ConfigError("evaluate.checkpoint", "pairs have no held-out loss by which a checkpoint could be the best. Set it to last.")
        if self.evaluate.guidance.scale != 1 and not self.objective.label_dropout:
            state = "is told no classes" if self.objective.label_dropout is None else "always sees them"
            raise ConfigError("evaluate.guidance", f"the network {state}. Train it with objective.label_dropout above 0, like 0.1.")
        for i, metric in enumerate(self.evaluate.metrics):
            try:
                metric.check(learned)
            except ConfigError as error:
                raise error.below(f"evaluate.metrics[{i}]") from None
            if metric.needs_classes and not self.conditional:
                reason = f"{metric.name} needs a network that is told classes"
                raise ConfigError(f"evaluate.metrics[{i}]", f"{reason}. Set objective.label_dropout, like 0.1.")

    def _check_reflow(self, parent: RunConfig) -> None:
        """Refuse what cannot be learned from the parent's pairs."""
        for name in ("dataset", "noise", "coupling", *(("interpolant", "prediction") if self.reflow.warm_start else ())):
            if getattr(self, name) != getattr(parent, name):
                why = "its pairs replace it" if name == "coupling" else "the pairs and the first weights are the teacher's"
                raise ConfigError(name, f"the teacher's is another, and {why}. Leave it as it is there.")
        if parent.reflow.distil:
            raise ConfigError("reflow.teacher", "it is distilled to one step, and no flow any more. Take the flow that it learned from.")
        if self.conditional and not parent.conditional:
            raise ConfigError("objective.label_dropout", "the teacher knows no classes, so its pairs have none. Set it to null.")
        if self.reflow.guidance.scale != 1 and not parent.objective.label_dropout:
            state = "is told no classes" if parent.objective.label_dropout is None else "always sees them"
            raise ConfigError("reflow.guidance", f"the teacher {state}. Train it with objective.label_dropout above 0, like 0.1.")
        try:
            self.reflow.average.check(parent.train.decays, parent.train.snapshot_every > 0)
        except ConfigError as error:
            raise error.below("reflow.average") from None
        if self.reflow.distil:
            self._check_distilled()

    def _check_distilled(self) -> None:
        """Refuse what one step of Euler's method does not turn into samples, even from a perfect network."""
        x0, x1, t = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.ones(1)
        target = self.prediction.target(x0, x1, t, self.interpolant)
        xt = self.interpolant.interpolate(x0, x1, t)
        end = xt - self.prediction.convert(target, xt, t, self.interpolant, "velocity")
        if not (end - x0).abs().item() < ONE_STEP:
            advice = "Choose interpolant=linear and prediction=velocity, or another prediction with prediction.t_max=1."
            reason = f"one Euler step from t = 1 is no sample with {self.interpolant.name} and {self.prediction.name}"
            raise ConfigError("reflow.distil", f"{reason}. {advice}")
        for name, value in ONE_STEP_ONLY.items():
            if getattr(self.evaluate, name) != value:
                reason = "a distilled network knows t = 1 alone, and gives samples by one step of Euler's method without guidance"
                raise ConfigError(f"evaluate.{name}", f"{reason}. Leave {name} as it is by default, with evaluate.nfe=[1].")
        for i, metric in enumerate(self.evaluate.metrics):
            if isinstance(metric, FlowMetric):
                raise ConfigError(f"evaluate.metrics[{i}]", f"{metric.name} is of a flow, and a distilled network is none. Leave it out.")

    @functools.cached_property
    def parent(self) -> RunConfig | None:
        """The flow whose pairs this one learns; None for one that is trained on data."""
        if not (self.reflow.rounds or self.reflow.distil):
            return None
        rounds = self.reflow.rounds if self.reflow.distil else self.reflow.rounds - 1
        if rounds == 0 and self.reflow.teacher is not None:
            return dataclasses.replace(self.reflow.teacher, seed=self.seed)
        return dataclasses.replace(self, reflow=dataclasses.replace(self.reflow, rounds=rounds, distil=False))

    @property
    def rectified(self) -> int:
        """k of the k-rectified flow that this is, or is distilled from."""
        return 1 if self.parent is None else self.parent.rectified + (not self.reflow.distil)

    def learned(self, pairs: Path = Path()) -> Formulation:
        """What is trained: these components, with the pairs in a folder as the coupling of one that has a parent.

        Distillation asks at t = 1 alone, whatever the times and their weights.
        """
        parts = {part.name: getattr(self, part.name) for part in dataclasses.fields(Formulation)}
        parts |= {} if self.parent is None else {"coupling": Pairs(path=str(pairs))}
        parts |= {"weighting": UniformWeight(), "time_sampler": UniformTimes()} if self.reflow.distil else {}
        return Formulation(**parts)

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
        and of sampling, (Unix) time and the network's calls a sample (mean and sd); what failed, by NFE or by metric of
        the flow (`NoValue.note`); commits."""
        path = self.folder / "evaluations" / f"{protocol.digest}.json"
        by_nfe: dict[str, Any] = {name: {} for name in ("values", "intervals", "seconds", "sampling_seconds", "time", "calls")}
        unknown = {"protocol": vars(protocol), **by_nfe, "failures": {}, "commits": []}
        return {**unknown, **read_json(path)} if path.exists() else unknown

    def missing(self, protocol: Protocol) -> list[int]:
        """The NFEs of the configuration at which a metric of samples is not known under a protocol, and has not failed."""
        known, config = self.evaluation(protocol), self.config.evaluate
        judged = [metric for metric in config.metrics if not isinstance(metric, FlowMetric)]
        open_ = [nfe for nfe in config.nfe if str(nfe) not in known["failures"]]
        return [nfe for nfe in open_ if any(str(nfe) not in known["values"].get(m.name, {}) for m in judged)]

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
        """The metrics of the flow that are not known under a protocol, and have not failed."""
        known, metrics = self.evaluation(protocol), self.config.evaluate.metrics
        flows = [metric for metric in metrics if isinstance(metric, FlowMetric) and metric.name not in known["failures"]]
        return [metric for metric in flows if str(metric.nfe) not in known["values"].get(metric.name, {})]

    def failed(self, protocol: Protocol) -> dict[str, NoValue]:
        """{NFE as text, or metric of the flow: why it has no value under a protocol} of what the configuration asks for."""
        asked = {*map(str, self.config.evaluate.nfe), *(metric.name for metric in self.config.evaluate.metrics)}
        return {place: NoValue.of(note) for place, note in self.evaluation(protocol)["failures"].items() if place in asked}

    def settled(self, protocol: Protocol) -> bool:
        """Whether nothing is left to be measured under a protocol: every metric is known at every NFE, or has failed."""
        return not self.missing(protocol) and not self.flow_missing(protocol)

    def evaluated(self, protocol: Protocol) -> bool:
        """Whether every metric is known at every NFE, under a protocol."""
        return self.settled(protocol) and not self.failed(protocol)

    @property
    def environment(self) -> dict[str, Any]:
        """Commits that trained it, machine, number of parameters, mean weight, the data's fingerprint; empty before it starts."""
        path = self.folder / "environment.json"
        return read_json(path) if path.exists() else {}

    @property
    def parent(self) -> Run | None:
        """The run whose pairs this one learns."""
        return None if self.config.parent is None else Run.of(self.config.parent)

    @property
    def pairs(self) -> PairSet:
        """The pairs that this run learns; it has a parent."""
        assert self.parent is not None
        reflow, data = self.config.reflow, load(self.config.dataset)
        folder = results_folder() / "local" / "pairs" / f"{digest(_pairs_identity(self.config))}-s{self.config.seed}"
        return PairSet(folder, reflow.number, data.shape, self.parent.config.conditional)

    @property
    def finished(self) -> bool:
        """Whether training has ended and its last checkpoint is intact."""
        return read_checkpoint(self.folder / "checkpoints", "cpu")[0] == self.config.train.steps

    @property
    def gave_up(self) -> NoValue | None:
        """Why training gave up, its own or that of a flow before it, or why there are no pairs to learn; or None."""
        if (parent := self.parent) and (error := parent.gave_up):
            return error.told(f"its teacher {parent.name}: {error}")
        reason = self._reason("diverged.json")
        return (self.pairs.failed if parent else None) or (Diverged(reason) if reason else None)

    def failure(self, protocol: Protocol) -> NoValue | None:
        """Why a value that is asked for under a protocol is missing and will be, or None."""
        if error := self.gave_up:
            return error
        places: dict[str, list[str]] = {}
        failed = self.failed(protocol)
        for place, error in failed.items():
            places.setdefault(str(error), []).append(place)
        said = " ".join(f"at NFE {', '.join(nfes)}: {reason}" if nfes[0].isdigit() else reason for reason, nfes in places.items())
        worst = sorted(failed.values(), key=lambda error: not isinstance(error, Diverged))
        return worst[0].told(said) if worst else None

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
    del identity["evaluate"], identity["seed"], identity["reflow"]
    identity["train"] |= config.train.resolved()
    if config.parent is not None:
        del identity["coupling"]
        identity |= {"pairs": _pairs_identity(config), "warm_start": config.reflow.warm_start}
    if config.reflow.distil:
        del identity["weighting"], identity["time_sampler"], identity["objective"]["normalise_weight"]
        identity["distil"] = True
    return digest(
        {
            **identity,
            "data": load(config.dataset).fingerprint,
            "files": {**config.coupling.fingerprint(), **config.noise.fingerprint()},
            "sources": sources(config.learned()) | sources(config.dataset) | sources(config.backbone) | sources(config.train),
            "numerics_version": NUMERICS_VERSION,
        }
    )


def _pairs_identity(config: RunConfig) -> dict[str, Any]:
    """All that the pairs which a run learns depend on, the seed aside."""
    assert config.parent is not None
    making = to_dict(config.reflow, run_only=False)
    for name in ("rounds", "distil", "teacher", "warm_start"):
        del making[name]
    return {**making, "teacher": training_digest(config.parent), "sources": sources(dataclasses.replace(config.reflow, teacher=None))}
