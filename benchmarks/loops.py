"""The two training loops that the benchmarks compare: that of `harness train`, and a bare loop of the same training.

Only `Settings.of` reads `TrainConfig`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from harness.core.config import override
from harness.core.errors import Stopped, UserError
from harness.data.base import data_folder, load
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.mlflow_mirror import Mirror
from harness.runs.progress import Followed, Watch
from harness.runs.train import train
from harness.training.optimizers import AdamW

os.environ.setdefault("HARNESS_DATA", str(data_folder()))  # so that nothing is downloaded
_KEPT = tempfile.TemporaryDirectory()
Weight = Callable[[Tensor], Tensor]
"""Maps times t [B] to the weights of the samples [B]."""


@dataclass(frozen=True)
class Settings:
    """The settings that the bare loop takes from a configuration."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    clip_norm: float
    decays: tuple[float, ...]
    threads: int
    device: str
    bf16: bool
    compile: str
    """A mode of torch.compile, or off."""
    channels_last: bool

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Return the settings of a run."""
        train = config.train
        chosen = config.train.resolved()
        assert isinstance(train.optimizer, AdamW)
        assert train.ema_decay is not None
        return cls(
            steps=train.steps,
            batch_size=train.batch_size,
            learning_rate=train.learning_rate,
            warmup_steps=train.warmup_steps,
            betas=(train.optimizer.beta1, train.optimizer.beta2),
            weight_decay=train.optimizer.weight_decay,
            clip_norm=train.clip_norm or math.inf,
            decays=train.decays,
            threads=train.threads,
            device=chosen["device"],
            bf16=chosen["precision"] == "bf16",
            compile=chosen["compile"],
            channels_last=train.channels_last,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then a cosine to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def bare(config: RunConfig, weight: Weight | None = None, threads: int | None = None) -> Iterator[nn.Module]:
    """Train on the straight path, predicting the velocity, with stratified times.

    Yields the first average after each step. There are no checks, no random streams and no logging: a script for this
    one training.
    """
    s = Settings.of(config)
    data = load(config.dataset)
    torch.set_num_threads(threads or s.threads)
    torch.manual_seed(config.seed)
    stored = data.train.to(s.device)  # type: ignore[union-attr]
    network = config.build(data).to(s.device).train()
    if s.channels_last:
        network.to(memory_format=torch.channels_last)
    forward = network if s.compile == "off" else torch.compile(network, mode=s.compile)
    averages = [copy.deepcopy(network).requires_grad_(False).eval() for _ in s.decays]
    optimizer = torch.optim.AdamW(network.parameters(), betas=s.betas, weight_decay=s.weight_decay, fused=True)
    for step in range(s.steps):
        optimizer.param_groups[0]["lr"] = s.rate(step)
        x0 = data.encode(stored[torch.randint(len(stored), (s.batch_size,), device=s.device)])
        x1 = torch.randn_like(x0)
        t = (torch.arange(s.batch_size, device=s.device) + torch.rand(s.batch_size, device=s.device)) / s.batch_size
        with torch.autocast(s.device, torch.bfloat16, enabled=s.bf16):
            error = forward(torch.lerp(x0, x1, t.view(-1, *[1] * (x0.ndim - 1))), t) - (x1 - x0)
        squared = error.float().square().flatten(1).mean(1)
        loss = squared.mean() if weight is None else (weight(t) * squared).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), s.clip_norm)
        optimizer.step()
        with torch.no_grad():
            for decay, average in zip(s.decays, averages, strict=True):
                torch._foreach_lerp_(
                    list(average.parameters()), list(network.parameters()), 1 - min(decay, step / (step + 10))
                )
        yield averages[0]


def logged(config: RunConfig, steps: int) -> list[float]:
    """Train for the first steps as `harness train` does in a terminal.

    This includes metrics.jsonl, MLflow, progress bar, sample grids and checkpoints. Returns the times (s) at which the
    second and later steps began, and the time of the end; only the first and the last time wait for the GPU.
    """
    run = Run.of(config)
    marks = list[float]()

    def stop() -> bool:
        marks.append(now() if len(marks) in (1, steps) else time.perf_counter())
        return len(marks) > steps

    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True)
        trial = Followed(run.name, run, config.protocol(), {}, evaluated=False)
        with Watch(run.name, [trial], Mirror("train"), console):
            with contextlib.suppress(Stopped):
                train(run, console.print, stop)
            marks[steps:] = marks[steps:] or [now()]
    return marks[1:]


def marks_bare(config: RunConfig, steps: int) -> list[float]:
    """Return the times (s) at which the bare loop's steps ended; only the first and the last wait for the GPU."""
    return [
        now() if step in (1, steps) else time.perf_counter()
        for step, _ in zip(range(1, steps + 1), bare(config), strict=False)
    ]


def seconds_bare(config: RunConfig) -> float:
    """Return the seconds of all steps of the bare loop, estimated without the first, which includes the start."""
    marks = marks_bare(config, config.train.steps)
    return (marks[-1] - marks[0]) * config.train.steps / (config.train.steps - 1)


def at_hand(config: RunConfig) -> RunConfig:
    """Replace Inception by raw values, and missing images by noise: neither changes the speed."""
    if config.evaluate.extractor == "inception":
        config = override(config, {"evaluate.extractor": "values", "evaluate.metrics": ["sliced_wasserstein"]})
    try:
        load(config.dataset)
    except UserError:
        config = override(config, {"dataset": {"name": "npz", "path": str(noise(config.dataset.name))}})
    return config


@functools.cache
def noise(like: str) -> Path:
    """Return a file of 10,000 images of noise, of CIFAR-10's size or otherwise of MNIST's."""
    path = Path(_KEPT.name) / f"{like}.npz"
    size = (32, 32, 3) if like == "cifar10" else (28, 28, 1)
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (10_000, *size), dtype=np.uint8))
    return path


@contextlib.contextmanager
def fresh_results() -> Iterator[Path]:
    """Put results and MLflow's SQLite file into a temporary folder."""
    kept = {name: os.environ.pop(name, None) for name in ("HARNESS_RESULTS", "MLFLOW_TRACKING_URI")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HARNESS_RESULTS"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["HARNESS_RESULTS"]
            os.environ.update({name: value for name, value in kept.items() if value is not None})


def now() -> float:
    """Return the time once the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
