"""The settings of a training (`train.*`): how long, how fast and on what a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from harness.core.config import RUN_ONLY, Config, Count, Index, Positive, Range
from harness.core.errors import ConfigError
from harness.training.optimizers import AdamW, Decay, Optimizer
from harness.training.schedules import Cosine, Schedule


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How long, how fast and on what a network is trained."""

    steps: Annotated[int, Range(1, 999_999_999, why="checkpoints are numbered with nine digits")] = 100_000
    """Optimizer steps."""
    batch_size: Count = 128
    """Samples a step, over all processes and micro-batches."""
    accumulate: Count = 1
    """Micro-batches that the network sees one after another, for batches that do not fit into memory."""
    optimizer: Optimizer = AdamW()
    learning_rate: Positive = 2e-4
    """Peak, reached after the warm-up."""
    warmup_steps: Index = 1000
    """Linear rise from zero, before the schedule."""
    schedule: Schedule = Cosine()
    clip_norm: Positive | None = 1.0
    """Largest norm of the gradient; null turns clipping off."""
    ema_decay: Decay | None = 0.9999
    """Decay, after a warm-up, of the averaged weights that are sampled from; null keeps none."""
    more_ema_decays: tuple[Decay, ...] = ()
    """Of further averages, kept beside it to be judged afterwards (evaluate.average.decay)."""
    snapshot_every: Index = 0
    """Steps between two snapshots for an average of any length afterwards (evaluate.average=posthoc); 0 takes none."""
    on_divergence: Literal["stop", "restore_and_lower_lr"] = "stop"
    """At a loss or gradient that is not finite or explodes: give up, or go back to the last checkpoint with half the
    rate. What follows then depends on how often checkpoints are written, and on where the run was stopped."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Of the network's forward pass; auto is bf16 on a GPU and fp32 on a CPU."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """torch.compile's mode; auto is default on a GPU from 5,000 steps on, and off elsewhere."""
    channels_last: bool = True
    """Whether images lie in memory with their channels last, in training and in sampling."""
    threads: Annotated[int, Range(1, 1024, why="no machine has more cores for one training")] = 1
    """CPU threads; results to the last digit depend on it."""
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=RUN_ONLY)
    recompute: bool = field(default=False, metadata=RUN_ONLY)
    """Activation checkpointing: blocks are computed a second time in the backward pass instead of being remembered."""
    log_every: Count = field(default=50, metadata=RUN_ONLY)
    """Steps between two lines of metrics.jsonl."""
    sample_every: Count = field(default=5000, metadata=RUN_ONLY)
    """Steps between two looks: samples, gradients by noise level, straightness, held-out loss."""
    checkpoint_every: Count = field(default=1000, metadata=RUN_ONLY)
    """Steps between two checkpoints."""
    keep_checkpoints: Count = field(default=2, metadata=RUN_ONLY)
    """How many of the newest stay; the best by held-out loss stays beside them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            reason = (
                f"the batch of {self.batch_size} cannot be divided into {self.accumulate} micro-batches of equal size"
            )
            raise ConfigError("accumulate", f"{reason}. Choose a divisor.")
        if len(set(self.decays)) < len(self.decays):
            raise ConfigError("more_ema_decays", f"{list(self.decays)} names one twice. Name each once.")

    @property
    def decays(self) -> tuple[float, ...]:
        """Of all averages, the one to sample from first."""
        return (() if self.ema_decay is None else (self.ema_decay,)) + self.more_ema_decays

    def resolved_device(self) -> str:
        """The device this machine trains on."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def resolved(self) -> dict[str, str]:
        """What stands for every "auto" here."""
        on_gpu = self.resolved_device() == "cuda"
        auto = {
            "precision": "bf16" if on_gpu else "fp32",
            "compile": "default" if on_gpu and self.steps >= 5000 else "off",
        }
        chosen = {name: given if (given := getattr(self, name)) != "auto" else value for name, value in auto.items()}
        return {"device": self.resolved_device(), **chosen}

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0: linear warm-up, then the schedule."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        return self.learning_rate * self.schedule.share(step, self.warmup_steps, self.steps)
