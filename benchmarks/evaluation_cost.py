"""The cost of an evaluation beyond the calls of the network and of the extractor.

    python -m benchmarks.evaluation_cost [--repeat 5] [--scale digits]

The harness judges three arms (the same network with three sets of initial weights) at six NFEs, as `harness evaluate`
does: Euler, features, FID, a picture, a JSON file. The bare sum has the same number of forward passes of the network
and of the extractor, on batches of the same size, one after the other. The two take turns.

Prints both times and the ratio. Goal: at most 1.1. The ratio can fall below 1, because the harness extracts features
while it generates the next batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch

from benchmarks.loops import at_hand, fresh_results
from benchmarks.report import Row, Spread, publish
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.data.base import load
from harness.evaluation.extractors import features
from harness.evaluation.judge import Judge
from harness.runs.folder import Run
from harness.runs.judge import evaluate
from harness.runs.sample import Trained, restore
from harness.runs.train import train

NFES = (1, 2, 4, 8, 16, 32)
GOAL = 1.1


def main() -> None:
    """Measure one scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scale", default="digits")
    options = parser.parse_args()
    publish(
        "evaluation_cost",
        "Time of evaluations: harness over bare forward passes",
        [row(options)],
        [f"Goal: {GOAL}."],
    )


def row(options: argparse.Namespace) -> Row:
    """Measure three arms at six NFEs."""
    base = override(
        at_hand(load_scale(options.scale)), {"train.steps": 1, "train.warmup_steps": 0, "evaluate.nfe": NFES}
    )
    config = base.evaluate
    spent = list[float]()
    bare = list[float]()
    with fresh_results():
        runs = [Run.of(dataclasses.replace(base, seed=seed)) for seed in range(3)]
        for run in runs:
            train(run, lambda text: None, lambda: False)
        judge = Judge(config, load(base.dataset), base.train.resolved_device())
        arms = [(run, restore(run)) for run in runs]
        for i in range(-1, options.repeat):  # the first repetition warms the caches
            first = seconds_bare(arms, judge) if i % 2 else 0.0
            started = time.perf_counter()
            for run, trained in arms:
                evaluate(run, trained, judge, lambda: False)
            taken = time.perf_counter() - started
            for run, _ in arms:
                (run.folder / "evaluations" / f"{judge.protocol.digest}.json").unlink()
            if i >= 0:
                spent.append(taken)
                bare.append(first or seconds_bare(arms, judge))
    return {
        "network": options.scale,
        "samples": config.num_samples,
        "bare s": Spread.of(bare),
        "harness s": Spread.of(spent),
        "ratio": Spread.of_ratios(spent, bare),
    }


@torch.no_grad()
def seconds_bare(arms: list[tuple[Run, Trained]], judge: Judge) -> float:
    """Return the seconds of as many forward passes of the networks and of the extractor."""
    config = judge.config
    shape = judge.data.shape
    device = judge.device
    torch.set_num_threads(arms[0][0].config.train.threads)
    started = time.perf_counter()
    for _, trained in arms:
        for nfe in NFES:
            for start in range(0, config.num_samples, config.batch_size):
                size = min(config.batch_size, config.num_samples - start)
                x = torch.randn(size, *shape, device=device)
                t = torch.rand(size, device=device)
                for _ in range(nfe):
                    trained.network(x, t)
                if judge.extractor is not None:
                    features(judge.extractor, judge.data.decode(x), device)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
