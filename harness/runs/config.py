"""One run as a configuration: what is trained, on what, how it is judged, and which flow it learns from."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.unet import UNet
from harness.components.couplings import Pairs
from harness.components.solvers import Heun, Solver
from harness.components.time_samplers import Uniform as UniformTimes
from harness.components.weightings import Uniform as UniformWeight
from harness.core.config import ADDED, Calls, Count, Range, Seed
from harness.core.errors import ConfigError
from harness.data.base import Data, Dataset, load
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.flow.formulation import Formulation
from harness.flow.sampling import Guidance, SamplingConfig
from harness.runs.students import check_student
from harness.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Reflow(SamplingConfig):
    """Learning the pairs of noise and sample that an earlier flow makes, in rounds: the flow before teaches each.

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
    nfe: Calls = 100
    """The teacher's calls for each pair; 0 lets an adaptive solver choose."""
    guidance: Guidance = Guidance()
    """Of the first round's pairs, whose teacher was trained on data. A flow that has learned guided pairs has them in
    it."""
    later_guidance: Guidance = Guidance()
    """Of the pairs of later rounds, and of what is distilled of them; it comes on top of the guidance that was
    learned."""
    checkpoint: Literal["last", "best"] = field(default="last", metadata=ADDED)
    """Of the first round's teacher: its last weights, or those with the lowest held-out loss. A later teacher has
    learned pairs, which have no such loss, and its last weights are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and not (self.rounds or self.distil):
            raise ConfigError(
                "teacher", "without rounds or distil nothing is learned from it. Set reflow.rounds=1, or leave it out."
            )
        if self.solver.needs_score:
            raise ConfigError(
                "solver",
                f"{self.solver.name} draws noise on its way, and pairs need one sample for each noise. Choose heun.",
            )

    @property
    def every_nfe(self) -> tuple[int, ...]:
        return (self.nfe,)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Formulation):
    """One training run and how it is judged. Its paths are what `--set` takes, MLflow shows and tables name."""

    dataset: Dataset
    backbone: Backbone = UNet()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    reflow: Reflow = field(default_factory=Reflow)
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if parent := self.parent:
            check_student(self, parent)
        learned = self.learned()
        self.evaluate.check("evaluate", learned, self.train.decays, 0 < self.train.snapshot_every <= self.train.steps)
        for i, metric in enumerate(self.evaluate.metrics):
            try:
                metric.check(learned)
            except ConfigError as error:
                raise error.below(f"evaluate.metrics[{i}]") from None

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
    def flows(self) -> list[RunConfig]:
        """The flow that is trained on data, and each that learns the pairs of the one before, up to this one."""
        return [*(self.parent.flows if self.parent else []), self]

    @property
    def pairs_sampling(self) -> Reflow:
        """How the pairs that this flow learns are made by its parent; `ConfigError` where they cannot be made so."""
        chosen: dict[str, Any] = {"teacher": None}
        if self.parent is not None and self.parent.parent is not None:
            chosen |= {"guidance": self.reflow.later_guidance, "checkpoint": "last"}
        try:
            return dataclasses.replace(self.reflow, **chosen)
        except ConfigError as error:
            raise error.below("reflow") from None

    @property
    def learned_guidance(self) -> bool:
        """Whether this flow, or one before it, learned guided pairs."""
        return self.parent is not None and (self.pairs_sampling.guidance.scale != 1 or self.parent.learned_guidance)

    @property
    def rectified(self) -> int:
        """k of the k-rectified flow that this is, or is distilled from."""
        return 1 if self.parent is None else self.parent.rectified + (not self.reflow.distil)

    @property
    def title(self) -> str:
        """Which of a row of rounds it is, like `2-rectified distilled`."""
        return f"{self.rectified}-rectified{' distilled' if self.reflow.distil else ''}"

    def learned(self, pairs: Path = Path()) -> Formulation:
        """What is trained: these components, with the pairs in a folder as the coupling of one that has a parent.

        Distillation asks at t = 1 alone, whatever the times and their weights.
        """
        changed: dict[str, Any] = {} if self.parent is None else {"coupling": Pairs(path=str(pairs))}
        if self.reflow.distil:
            changed |= {"weighting": UniformWeight(), "time_sampler": UniformTimes()}
        return dataclasses.replace(self.formulation, **changed)

    @property
    def formulation(self) -> Formulation:
        """What is learned, without the rest."""
        return Formulation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Formulation)})

    def protocol(self, weights: bool = True) -> Protocol:
        """What makes its values comparable; `ConfigError` when its data cannot be judged so."""
        return Protocol.of(self.evaluate, load(self.dataset), weights)

    def build(self, data: Data) -> Network:
        """The network for these data; `ConfigError` when it does not fit."""
        try:
            return self.backbone.build(data.shape, data.num_classes if self.conditional else 0)
        except ConfigError as error:
            raise error.below("backbone") from None
