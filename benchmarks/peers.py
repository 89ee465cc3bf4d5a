"""Images a second in training: the harness beside torchcfm, flow_matching and rectified-flow-pytorch.

    python -m benchmarks.peers [--blocks 5] [--steps N] [--batch N] [--threads 1]

Needs `pip install -e .[bench]`. All train on the same pictures (CIFAR-10 where it is at hand, else noise of its shape),
with the same batch, number of threads and, unless a line says "own U-Net", the same network: on a GPU the U-Net of
torchcfm's CIFAR-10 (35.7M parameters, batch 128), on a CPU a small one of its kind. They take turns in blocks: each
starts anew with its loader, warms up, and is timed over the same number of steps. Sample grids and checkpoints fall
into no block. benchmarks/peer_loops.py tells how each of them trains.

Prints images a second (median over the blocks, smallest and largest) and the ratio of the harness's to each, block by
block.
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
"""Of the kind of torchcfm's, for a CPU."""
DIFFERS = {
    "harness": "fp32 on a CPU; bf16 and torch.compile on a GPU",
    "harness, eager": "TF32, no torch.compile",
    "torchcfm": "fp32, 4 loader processes",
    "torchcfm, own U-Net": "fp32, 4 loader processes",
    "flow_matching": "skewed times, no clipping; fp16 on a GPU; 10 loader processes",
    "rectified-flow-pytorch": "fp32, average every 10 steps, no loader process",
}


def main() -> None:
    """All loops in turns."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200 if cuda else 10, help="timed steps a block")
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
    publish("peers", "Images a second in training", rows(taken, options.batch * options.steps), notes(block))


def configuration(batch: int, cuda: bool) -> RunConfig:
    """The scale of CIFAR-10, with a small network on a CPU."""
    return override(
        at_hand(load_scale("cifar10")), {"train.batch_size": batch, **({} if cuda else {"backbone": SMALL})}
    )


def rows(taken: dict[str, list[float]], images: int) -> list[Row]:
    """The table."""
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
    """What was compared."""
    number = sum(p.numel() for p in block.network().parameters())
    s = Settings.of(block.config)
    return [
        f"U-Net of {number:,} parameters, batch {s.batch_size}, {block.threads} thread(s), "
        f"{block.steps} steps a block, {block.device}.",
        f"Data: {block.config.dataset.name}; a set named npz is noise of CIFAR-10's shape.",
        "A ratio above 1: the harness trains on more images a second.",
    ]


if __name__ == "__main__":
    main()
