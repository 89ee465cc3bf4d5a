"""The training loop: exact to resume, the same draws in every arm, nothing in the step that waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from harness.config import RUN_ONLY, Config, Count, Index, NonNegative, Positive, Range
from harness.data.base import Data
from harness.errors import Diverged, Stopped
from harness.objective import Objective
from harness.rng import stream, stream_seed
from harness.training.batches import DataOrder, batches
from harness.training.checkpoint import read_checkpoint, write_checkpoint
from harness.training.ema import EMA


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How long, how fast and on what a network is trained."""

    steps: Count = 100_000
    """Optimizer steps."""
    batch_size: Count = 128
    learning_rate: Positive = 2e-4
    """Peak, reached after the warm-up."""
    warmup_steps: Index = 1000
    """Linear rise from zero; a cosine to zero follows."""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled decay."""
    beta2: Annotated[float, Range(0, 1, ends="[)")] = 0.999
    """AdamW's memory of squared gradients; short runs want it shorter."""
    clip_norm: Positive | None = 1.0
    """Largest norm of the gradient; null turns clipping off."""
    ema_decay: Annotated[float, Range(0, 1, ends="[)")] = 0.9999
    """Decay of the averaged weights after their warm-up."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the network's forward pass; auto is bf16 on a GPU and fp32 on a CPU."""
    threads: Count = 1
    """CPU threads; results to the last digit depend on it."""
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=RUN_ONLY)
    log_every: Count = field(default=50, metadata=RUN_ONLY)
    """Steps between two lines of metrics.jsonl."""
    sample_every: Count = field(default=5000, metadata=RUN_ONLY)
    """Steps between two sample grids."""
    checkpoint_every: Count = field(default=1000, metadata=RUN_ONLY)
    """Steps between two checkpoints."""

    def resolved_device(self) -> str:
        """The device this machine trains on."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def resolved_precision(self) -> str:
        """fp32 or bf16."""
        return ("bf16" if self.resolved_device() == "cuda" else "fp32") if self.precision == "auto" else self.precision


@dataclass
class Callbacks:
    """What a run does while it is trained."""

    log: Callable[[dict[str, float]], None]
    """Takes step, time (Unix seconds) and the means since the last line."""
    sample: Callable[[nn.Module, int], None]
    """Takes the averaged network and the step."""
    resumed: Callable[[int, list[Path]], None]
    """Takes the step that training continues from and the damaged checkpoints passed over."""
    stop: Callable[[], bool]
    """True when training should save and end now."""


def fit(config: TrainConfig, seed: int, network: nn.Module, objective: Objective, data: Data, folder: Path, callbacks: Callbacks) -> EMA:
    """Train `network` in place and return its average; continues from the newest checkpoint in `folder`.

    Raises `Diverged` at a loss or gradient that is not finite (the step is not taken), `Stopped` once `callbacks.stop`.
    """
    device = config.resolved_device()
    ema = EMA(network, config.ema_decay)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True)
    totals, coupling_seconds = torch.zeros(4, dtype=torch.float64, device=device), 0.0
    step, saved, damaged = read_checkpoint(folder, device)
    if step:
        totals.copy_(_restore(saved, network, ema, optimizer, objective))
    callbacks.resumed(step, damaged)
    for path in damaged:
        path.unlink()
    order = DataOrder(len(data.train), config.batch_size, seed)
    fetched = batches(data, order, step, config.steps, device)
    logged, clock = step, time.perf_counter()
    network.train()
    while step < config.steps:
        if callbacks.stop():
            write_checkpoint(folder, step, _state(network, ema, optimizer, objective, data, totals))
            raise Stopped(f"stopped at step {step}")
        torch.manual_seed(stream_seed(seed, "layers", step))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        with torch.autocast(device, torch.bfloat16, enabled=config.resolved_precision() == "bf16"):
            stored, classes = next(fetched)
            if data.augment:
                stored = data.augment(stored, stream(seed, "augment", step, device=device))
            loss, cost, seconds = objective(network, data.encode(stored), seed, step, classes)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm or math.inf)
        bad = 1 - torch.isfinite(loss + norm).float()
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused step skips itself where this is 1
        optimizer.step()
        step += 1
        ema.update(step)
        totals += torch.stack([loss.detach(), norm, cost, torch.ones_like(norm)]).double()
        coupling_seconds += seconds
        at_end = step == config.steps
        if step % config.log_every == 0 or at_end:
            loss_mean, norm_mean, cost_mean, _ = (totals / totals[3]).tolist()
            if not math.isfinite(loss_mean + norm_mean):
                raise Diverged(_diagnosis(step, config))
            speed = (step - logged) * config.batch_size / (time.perf_counter() - clock)
            rate = learning_rate(config, step - 1)
            callbacks.log(
                {
                    "step": step,
                    "time": time.time(),
                    "loss": loss_mean,
                    "grad_norm": norm_mean,
                    "learning_rate": rate,
                    "transport_cost": cost_mean,
                    "coupling_seconds": coupling_seconds / (step - logged),
                    "samples_per_second": speed,
                }
            )
            totals.zero_()
            logged, clock, coupling_seconds = step, time.perf_counter(), 0.0
        if step % config.sample_every == 0 or at_end:
            callbacks.sample(ema.network, step)
        if step % config.checkpoint_every == 0 or at_end:
            write_checkpoint(folder, step, _state(network, ema, optimizer, objective, data, totals))
    return ema


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0: linear warm-up, then a cosine that ends at zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _state(
    network: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, objective: Objective, data: Data, totals: Tensor
) -> dict[str, Tensor]:
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in ema.network.state_dict().items()}
    tensors |= {f"noise/{name}": value for name, value in objective.noise_state.items()}
    tensors |= {f"data/{name}": value for name, value in data.statistics.items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{name}": value for name, value in values.items()}
    return tensors | {"totals": totals}


def _restore(saved: dict[str, Tensor], network: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, objective: Objective) -> Tensor:
    network.load_state_dict(part(saved, "network"))
    ema.network.load_state_dict(part(saved, "ema"))
    objective.noise_state = part(saved, "noise")
    state: dict[int, dict[str, Any]] = {}
    for name, value in part(saved, "optimizer").items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return saved["totals"]


def part(saved: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint below a prefix: network, ema, noise, data or optimizer."""
    return {name[len(prefix) + 1 :]: value for name, value in saved.items() if name.startswith(prefix + "/")}


def _diagnosis(step: int, config: TrainConfig) -> str:
    cause = "train.clip_norm is off: set it to 1" if config.clip_norm is None else "lower train.learning_rate or raise train.warmup_steps"
    return f"training diverged: the loss or its gradient was not finite by step {step}. The likely remedy: {cause}."
