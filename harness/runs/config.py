"""The configuration of one run: data, components, training, evaluation, and the flow that it learns from."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from harness.components.backbones.base import Backbone, Network
from harness.components.backbones.unet import UNet
from harness.components.couplings import Pairs
from harness.components.perceptual import Perceptual
from harness.components.solvers import Heun, Solver
from harness.components.time_samplers import Uniform as UniformTimes
from harness.components.weightings import Uniform as UniformWeight
from harness.core.config import ADDED, Calls, Count, Range, Seed
from harness.core.errors import ConfigError
from harness.core.fields import convert, hints
from harness.data.base import Data, Dataset, load
from harness.evaluation.protocol import EvaluateConfig, Protocol
from harness.flow.formulation import Formulation
from harness.flow.sampling import Guidance, SamplingConfig
from harness.runs.students import check_student
from harness.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Reflow(SamplingConfig):
    """Reflow: each round trains a flow on pairs of noise and sample that the flow before it, its teacher, makes.

    The flow trained on data is 1-rectified, so round k gives the (k + 1)-rectified flow.
    """

    source: ClassVar[str] = "Liu et al. 2023, algorithm 1, and their distillation"

    rounds: Annotated[int, Range(0, 20)] = 0
    """Reflow rounds that give this flow; 0: it is trained on data."""
    distil: bool = False
    """After the rounds, learn the pairs of the last flow at t = 1 only, for sampling with one Euler step."""
    perceptual: Perceptual | None = field(default=None, metadata=ADDED)
    """Loss of the distilled network's samples; null: `loss` of the error of its output."""
    teacher: RunConfig | None = None
    """Flow before the first round, trained with the run's seed; null: this configuration without rounds."""
    warm_start: bool = True
    """Start each round from its teacher's averaged weights."""
    number: Count = 50_000
    """Number of pairs; Liu et al. use a million or more for CIFAR-10."""
    solver: Solver = Heun()
    nfe: Calls = 100
    """Network calls of the teacher per pair; 0 lets an adaptive solver choose."""
    guidance: Guidance = Guidance()
    """Guidance for the pairs of the first round, whose teacher was trained on data. A flow that learns guided pairs
    learns the guidance."""
    later_guidance: Guidance = Guidance()
    """Guidance for the pairs of later rounds, and of a distillation after a round; it adds to the learned guidance."""
    checkpoint: Literal["last", "best"] = field(default="last", metadata=ADDED)
    """Weights of the first round's teacher: the last, or the best by held-out loss. Later teachers always use their
    last weights: they learned pairs, which have no held-out loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is not None and not (self.rounds or self.distil):
            raise ConfigError(
                "teacher", "without rounds or distil nothing is learned from it. Set reflow.rounds=1, or leave it out."
            )
        if self.solver.needs_score:
            raise ConfigError(
                "solver",
                f"{self.solver.name} adds noise while it samples, but pairs need one sample per noise. Choose heun.",
            )

    @property
    def every_nfe(self) -> tuple[int, ...]:
        return (self.nfe,)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Formulation):
    """One training run and its evaluation. `--set`, MLflow and tables use the paths of its fields."""

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
        """The flow whose pairs this flow learns; None for a flow trained on data."""
        if not (self.reflow.rounds or self.reflow.distil):
            return None
        rounds = self.reflow.rounds if self.reflow.distil else self.reflow.rounds - 1
        if rounds == 0 and self.reflow.teacher is not None:
            return dataclasses.replace(self.reflow.teacher, seed=self.seed)
        return dataclasses.replace(self, reflow=dataclasses.replace(self.reflow, rounds=rounds, distil=False))

    def seeded(self, seed: int) -> Self:
        """Return this configuration with another seed. No other check depends on the seed, so they do not run again."""
        parent = self.parent
        own = object.__new__(type(self))
        known = {"seed": convert(hints(type(self))["seed"], seed, "seed"), "parent": parent and parent.seeded(seed)}
        vars(own).update(vars(self) | known)
        return own

    @property
    def flows(self) -> list[RunConfig]:
        """The flow trained on data, then each flow that learns the pairs of the flow before, up to this flow."""
        return [*(self.parent.flows if self.parent else []), self]

    @property
    def pairs_sampling(self) -> Reflow:
        """How the parent makes the pairs that this flow learns; `ConfigError` if the settings do not allow it."""
        chosen: dict[str, Any] = {"teacher": None}
        if self.parent is not None and self.parent.parent is not None:
            chosen |= {"guidance": self.reflow.later_guidance, "checkpoint": "last"}
        try:
            return dataclasses.replace(self.reflow, **chosen)
        except ConfigError as error:
            raise error.below("reflow") from None

    @property
    def perceptual(self) -> Perceptual | None:
        """The perceptual loss that this flow is trained with; None unless it is distilled with one."""
        return self.reflow.perceptual if self.reflow.distil else None

    @property
    def learned_guidance(self) -> bool:
        """Whether this flow or an earlier flow learned guided pairs."""
        return self.parent is not None and (self.pairs_sampling.guidance.scale != 1 or self.parent.learned_guidance)

    @property
    def rectified(self) -> int:
        """The k of this k-rectified flow, or of the flow that it is distilled from."""
        return 1 if self.parent is None else self.parent.rectified + (not self.reflow.distil)

    @property
    def title(self) -> str:
        """The flow's place among the rounds, like `2-rectified distilled`."""
        return f"{self.rectified}-rectified{' distilled' if self.reflow.distil else ''}"

    def learned(self, pairs: Path = Path()) -> Formulation:
        """Return the formulation to train; with a parent, the pairs in the folder `pairs` replace the coupling.

        Distillation trains at t = 1 only and ignores the time sampler and the weighting.
        """
        changed: dict[str, Any] = {} if self.parent is None else {"coupling": Pairs(path=str(pairs))}
        if self.reflow.distil:
            changed |= {"weighting": UniformWeight(), "time_sampler": UniformTimes()}
        return dataclasses.replace(self.formulation, **changed) if changed else self.formulation

    @functools.cached_property
    def formulation(self) -> Formulation:
        """The fields of `Formulation` only."""
        return Formulation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Formulation)})

    def protocol(self, weights: bool = True) -> Protocol:
        """Return the evaluation's protocol; `ConfigError` if its data cannot be judged under it."""
        return Protocol.of(self.evaluate, load(self.dataset), weights)

    def build(self, data: Data) -> Network:
        """Return the network for these data; `ConfigError` if it does not fit them."""
        try:
            return self.backbone.build(data.shape, data.num_classes if self.conditional else 0)
        except ConfigError as error:
            raise error.below("backbone") from None
