"""The memory of training, computed and measured.

    python -m benchmarks.memory [--batch N]

Computed: the state has 4 bytes per parameter for each of weights, gradient, AdamW's two moments and every average. The
activations are the bytes that autograd saves for the backward pass of one step, counting each storage once and no
parameters (torch.autograd.graph.saved_tensors_hooks). Measured: the peak while the harness trains a few steps in a
separate process. On a GPU the peak is torch.cuda.max_memory_allocated. On a CPU it is the growth of the resident set
since the data were loaded (VmHWM of /proc), which includes copies inside convolutions and memory that malloc keeps. The
peak at the end includes the checkpoint, which is a second copy of the state, and four samples.

Prints both in MB and their ratios, for the digits scale and for the U-Net of torchcfm's CIFAR-10 (batch 4 on a CPU).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.loops import Settings, at_hand, fresh_results
from benchmarks.report import Row, publish
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.core.rng import Streams
from harness.data.base import load
from harness.flow.objective import Objective
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import train

MB = 1e6
STEPS = 4


def main() -> None:
    """Measure each scale in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, help="batch size instead of the scale's (on a CPU: 4 for CIFAR-10)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch)))
        return
    command = [sys.executable, "-m", "benchmarks.memory", "--measure"]
    cuda = torch.cuda.is_available()
    batches = {"digits": options.batch, "cifar10": options.batch or (None if cuda else 4)}
    given = {scale: ["--batch", str(batch)] if batch else [] for scale, batch in batches.items()}
    lines = [
        subprocess.run([*command, scale, *more], check=True, stdout=subprocess.PIPE).stdout
        for scale, more in given.items()
    ]
    notes = ["state: weights, gradient, two moments, averages; activations: the bytes that autograd saves."]
    publish(
        "memory",
        "Memory of training in MB, computed and measured",
        [json.loads(line.splitlines()[-1]) for line in lines],
        notes,
    )


def measure(scale: str, batch: int | None) -> Row:
    """Measure one scale: one row of the table."""
    changes = {"train.steps": STEPS, "train.warmup_steps": 1, "evaluate.nfe": [1], "evaluate.batch_size": 4} | (
        {"train.batch_size": batch} if batch else {}
    )
    config = override(at_hand(load_scale(scale)), changes)
    network = config.build(load(config.dataset))
    settings = Settings.of(config)
    number = sum(p.numel() for p in network.parameters())
    state = 4 * number * (4 + len(settings.decays)) / MB
    saved = activations(config, network.to(settings.device), settings) / MB
    del network
    steps, end = peaks(config)
    return {
        "scale": scale,
        "batch": settings.batch_size,
        "parameters": number,
        "averages": len(settings.decays),
        "state": round(state, 1),
        "activations": round(saved, 1),
        "computed": round(state + saved, 1),
        "peak of steps": round(steps, 1),
        "ratio": round(steps / (state + saved), 2),
        "peak at the end": round(end, 1),
    }


def activations(config: RunConfig, network: nn.Module, settings: Settings) -> int:
    """Return the bytes that one step's loss keeps for its backward pass."""
    data = load(config.dataset)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    x0 = data.encode(data.train[torch.arange(settings.batch_size)].to(settings.device))
    objective = Objective(config, config.noise.learn(data), device=settings.device)
    kept = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bf16):
            measured = objective.measure(network.train(), objective.task(x0, Streams(0)))
            loss = measured.loss  # alive until the count is over, so no storage is reused and counted wrongly
            del measured
        del loss
    return sum(kept.values())


def peaks(config: RunConfig) -> tuple[float, float]:
    """Return the peaks of the memory that training adds (MB): of its steps, and with checkpoint and samples."""
    tiny = {
        "backbone.channels": 4,
        "backbone.multipliers": [1],
        "backbone.attention": [],
        "backbone.groups": 4,
        "train.batch_size": 1,
    }
    with fresh_results():
        train(Run.of(override(config, tiny)), print, lambda: False)  # loads every library and the data
        before = reset_peak()
        seen = list[float]()

        def stop() -> bool:
            seen.append(peak() - before)
            return False

        train(Run.of(config), print, stop)
    return seen[-1], peak() - before


def reset_peak() -> float:
    """Reset the peak; return the MB in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MB
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Return the peak (MB) since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MB
    status: Mapping[str, str] = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / MB


if __name__ == "__main__":
    main()
