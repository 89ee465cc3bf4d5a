"""Images per second in training: the harness compared with torchcfm, flow_matching and rectified-flow-pytorch.

    python -m benchmarks.peers [--blocks 5] [--steps N] [--batch N] [--threads 1]

Needs `pip install -e .[bench]`. All train on the same images (CIFAR-10 if it is on this machine, otherwise noise of its
shape), with the same batch, number of threads and, unless a row says "own U-Net", the same network: on a GPU the U-Net
of torchcfm's CIFAR-10 example (35.7M parameters, batch 128), on a CPU a small U-Net of the same kind. The loops take
turns in blocks. In each block, a loop starts again with its loader, warms up, and is timed over the same number of
steps. No block includes sample grids or checkpoints. benchmarks/peer_loops.py describes how each loop trains.

Prints images per second (median, smallest and largest over the blocks) and the ratio of the harness to each loop, block
by block.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import torch

from benchmarks.loops import Settings, at_hand
from benchmarks.peer_loops import LOOPS, Block, harness_eager
from benchmarks.report import Row, Spread, publish
from harness.ablation.design.study import load_scale
from harness.components.backbones.unet import UNet
from harness.core.config import override
from harness.runs.config import RunConfig

SMALL = UNet(channels=32, multipliers=(1, 2), blocks=1, attention=(16,), conditioning="add", groups=32, dropout=0.1)
"""A small U-Net of the same kind as torchcfm's, for a CPU."""
DIFFERS = {
    "harness": "fp32 on a CPU; bf16 and torch.compile on a GPU",
    "harness, eager": "TF32, no torch.compile",
    "torchcfm": "fp32, 4 loader processes",
    "torchcfm, own U-Net": "fp32, 4 loader processes",
    "flow_matching": "skewed times, no clipping; fp16 on a GPU; 10 loader processes",
    "rectified-flow-pytorch": "fp32, average every 10 steps, no loader process",
}


def main() -> None:
    """Time all loops in turns."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200 if cuda else 10, help="timed steps per block")
    parser.add_argument("--batch", type=int, default=128 if cuda else 16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    warm_up = 30 if cuda else 3
    block = Block(configuration(options.batch, cuda), warm_up, options.steps, options.threads)
    chosen = {name: loop for name, loop in LOOPS.items() if cuda or loop is not harness_eager}
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(options.blocks):
        for name in [*chosen][turn % len(chosen) :] + [*chosen][: turn % len(chosen)]:
            torch.set_num_threads(options.threads)
            taken[name].append(chosen[name](block))
    publish("peers", "Images per second in training", rows(taken, options.batch * options.steps), notes(block))


def configuration(batch: int, cuda: bool) -> RunConfig:
    """Return the scale cifar10, with a small network on a CPU."""
    return override(
        at_hand(load_scale("cifar10")), {"train.batch_size": batch, **({} if cuda else {"backbone": SMALL})}
    )


def rows(taken: dict[str, list[float]], images: int) -> list[Row]:
    """Return the rows of the table."""
    return [
        {
            "training loop": name,
            "images/s": Spread.of([images / s for s in seconds]),
            "harness over it": Spread.of_ratios(seconds, taken["harness"]),
            "differs in": DIFFERS[name],
        }
        for name, seconds in taken.items()
    ]


def notes(block: Block) -> Sequence[str]:
    """Describe the comparison."""
    number = sum(p.numel() for p in block.network().parameters())
    s = Settings.of(block.config)
    return [
        f"U-Net of {number:,} parameters, batch {s.batch_size}, {block.threads} thread(s), "
        f"{block.steps} steps per block, {block.device}.",
        f"Data: {block.config.dataset.name}; npz means noise of CIFAR-10's shape.",
        "A ratio above 1: the harness trains on more images per second.",
    ]


if __name__ == "__main__":
    main()
