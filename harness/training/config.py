"""The settings of a training (`train.*`): how long, how fast and on what a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from harness.core.config import ADDED, RUN_ONLY, Config, Count, Index, Positive, Range
from harness.core.errors import ConfigError
from harness.training.optimizers import AdamW, Decay, Optimizer
from harness.training.schedules import Cosine, Schedule


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How long, how fast and on what a network is trained."""

    steps: Annotated[int, Range(1, 999_999_999, why="checkpoints are numbered with nine digits")] = 100_000
    """Number of optimizer steps."""
    batch_size: Count = 128
    """Samples per step, over all processes and micro-batches."""
    accumulate: Count = 1
    """Micro-batches per step and process, for batches that do not fit into memory; a divisor of batch_size."""
    optimizer: Optimizer = AdamW()
    learning_rate: Positive = 2e-4
    """Peak learning rate, reached after the warm-up."""
    warmup_steps: Index = 1000
    """Steps of linear rise of the learning rate from zero, before the schedule."""
    schedule: Schedule = Cosine()
    clip_norm: Positive | None = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down. null turns clipping off."""
    ema_decay: Decay | None = 0.9999
    """Decay per step of the weight average that sampling uses; null keeps none."""
    ema_warmup: bool = field(default=True, metadata=ADDED)
    """Whether averages begin short: at step n, the decay is at most (n - 1) / (n + 9). Without it, a short training
    averages over its initial weights too."""
    more_ema_decays: tuple[Decay, ...] = ()
    """Decays of further averages, which can be evaluated after training (evaluate.average.decay)."""
    snapshot_every: Index = 0
    """Steps between two snapshots, from which evaluate.average=posthoc makes averages of any length; 0 takes none."""
    on_divergence: Literal["stop", "restore_and_lower_lr"] = "stop"
    """If a loss or gradient is not finite or explodes: stop, or go back to the last checkpoint with half the learning
    rate. After that, results depend on checkpoint_every, and on the step at which the run was interrupted."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Precision of the network's forward pass; auto is bf16 on a GPU and fp32 on a CPU."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """Mode of torch.compile; auto is `default` on a GPU for at least 5,000 steps, and `off` otherwise."""
    channels_last: bool = True
    """Whether images have the channels-last memory format, in training and in sampling."""
    threads: Annotated[int, Range(1, 1024, why="no machine has more cores for one training")] = 1
    """CPU threads; the last digits of results depend on them."""
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=RUN_ONLY)
    """Device to train on; auto is the GPU if there is one."""
    recompute: bool = field(default=False, metadata=RUN_ONLY)
    """Activation checkpointing: the backward pass recomputes blocks instead of storing their activations."""
    graph: Literal["auto", "on", "off"] = field(default="auto", metadata=RUN_ONLY)
    """Whether a GPU repeats the steps after the first 100 as one CUDA graph, and sampling the network's calls, with the
    same results. auto is off: the tests of it have not run on a GPU yet."""
    log_every: Count = field(default=50, metadata=RUN_ONLY)
    """Steps between two lines of metrics.jsonl."""
    sample_every: Count = field(default=5000, metadata=RUN_ONLY)
    """Steps between two measurements of samples, gradients by noise level, straightness and held-out loss."""
    checkpoint_every: Count = field(default=1000, metadata=RUN_ONLY)
    """Steps between two checkpoints."""
    keep_checkpoints: Count = field(default=2, metadata=RUN_ONLY)
    """Number of newest checkpoints to keep; the best one by held-out loss is kept too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            reason = (
                f"the batch of {self.batch_size} cannot be divided into {self.accumulate} micro-batches of equal size"
            )
            raise ConfigError("accumulate", f"{reason}. Choose a divisor.")
        if len(set(self.decays)) < len(self.decays):
            raise ConfigError("more_ema_decays", f"{list(self.decays)} has a decay twice. Name each once.")

    @property
    def decays(self) -> tuple[float, ...]:
        """Decays of all averages; the average to sample from comes first."""
        return (() if self.ema_decay is None else (self.ema_decay,)) + self.more_ema_decays

    def resolved_device(self) -> str:
        """Return the device that this machine trains on: cpu or cuda."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def usable_device(self) -> str:
        """Return the device that this machine trains on; `ConfigError` if it is a GPU and there is none."""
        device = self.resolved_device()
        if device == "cuda" and not torch.cuda.is_available():
            advice = "Set train.device=cpu, or see what `harness doctor` says about it."
            raise ConfigError("train.device", f"torch finds no GPU on this machine. {advice}")
        return device

    def resolved(self) -> dict[str, str]:
        """Return device, precision and compile mode, with the values that "auto" has on this machine."""
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
