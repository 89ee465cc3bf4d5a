"""The speed of making pairs for reflow, compared with a bare loop of the same solver on the same network.

    python -m benchmarks.pair_generation [--repeat 5] [--scale digits] [--number 4000] [--nfe 40]

The harness makes pairs as a round of reflow does: noise from its random streams, Heun's method, checks for finite
values, hashes, files. The bare loop has Heun's method with the same network, batch and NFE, takes noise from
torch.randn, and saves nothing. The two take turns.

Prints both speeds in pairs per second, the ratio, and the hours for a million pairs. Goal: 0.95 or more.
"""

from __future__ import annotations

import argparse
import shutil
import time

import torch

from benchmarks.loops import at_hand, fresh_results
from benchmarks.report import Row, Spread, publish
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.data.base import load
from harness.runs.folder import Run
from harness.runs.sample import Trained, restore
from harness.runs.train import make_pairs, train

GOAL = 0.95


def main() -> None:
    """Measure one scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scale", default="digits")
    parser.add_argument("--number", type=int, default=4000)
    parser.add_argument("--nfe", type=int, default=40)
    options = parser.parse_args()
    publish(
        "pair_generation",
        "Pairs per second: harness over a bare solver loop",
        [row(options)],
        [f"Goal: {GOAL} or more."],
    )


def row(options: argparse.Namespace) -> Row:
    """Measure the pairs of a flow after one training step; they cost as much as those of a trained flow."""
    changes = {
        "train.steps": 1,
        "train.warmup_steps": 0,
        "reflow.rounds": 1,
        "reflow.number": options.number,
        "reflow.nfe": options.nfe,
    }
    made = list[float]()
    bare = list[float]()
    with fresh_results():
        run = Run.of(override(at_hand(load_scale(options.scale)), changes))
        assert run.parent is not None
        train(run.parent, lambda text: None, lambda: False)
        trained = restore(run.parent)
        for i in range(-1, options.repeat):  # the first repetition warms the caches
            first = seconds_bare(run, trained) if i % 2 else 0.0
            started = time.perf_counter()
            make_pairs(run, lambda text: None, lambda: False)
            taken = time.perf_counter() - started
            shutil.rmtree(run.pairs.folder)
            if i >= 0:
                made.append(options.number / taken)
                bare.append(options.number / (first or seconds_bare(run, trained)))
    return {
        "network": options.scale,
        "pairs": options.number,
        "NFE": options.nfe,
        "bare pairs/s": Spread.of(bare),
        "harness pairs/s": Spread.of(made),
        "ratio": Spread.of_ratios(made, bare),
        "hours for 1,000,000": 1e6 / Spread.of(made).median / 3600,
    }


@torch.no_grad()
def seconds_bare(run: Run, trained: Trained) -> float:
    """Return the seconds of Heun's method alone."""
    reflow = run.config.reflow
    shape = load(run.config.dataset).shape
    device = run.config.train.resolved_device()
    torch.set_num_threads(run.config.train.threads)
    steps = reflow.nfe // 2
    started = time.perf_counter()
    for start in range(0, reflow.number, reflow.batch_size):
        size = min(reflow.batch_size, reflow.number - start)
        x = torch.randn(size, *shape, device=device)
        h = 1 / steps
        for i in range(steps):
            now, then = (torch.full((size,), 1 - (i + j) * h, device=device) for j in (0, 1))
            first = trained.network(x, now)
            x = x - h / 2 * (first + trained.network(x - h * first, then))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
