"""Whether the channels-last memory format is faster, for a training step and for a sampling step.

    python -m benchmarks.layout [--repeat 5] [--steps 200]

Each layout runs in a separate process; the two take turns of a second. The training step is that of the bare loop. A
sampling step is one call of the network, without gradients, on a batch of the scale's `evaluate.batch_size`. Prints the
time of a step with channels first and the speed-up with channels last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch

from benchmarks.loops import at_hand, marks_bare, now
from benchmarks.report import Row, Spread, publish
from benchmarks.turns import in_turns
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.data.base import load
from harness.runs.config import RunConfig
from harness.training.hardware import laid_out

SCALES = ("digits", "fashion_small", "digits_dit")


def marks_sampling(config: RunConfig, steps: int) -> list[float]:
    """Return the time (s) at which each call of the network ended."""
    data = load(config.dataset)
    device = config.train.resolved_device()
    torch.set_num_threads(config.train.threads)
    network = laid_out(config.build(data).to(device).eval(), data.shape, config.train.channels_last)
    x = torch.randn(config.evaluate.batch_size, *data.shape, device=device)
    t = torch.rand(config.evaluate.batch_size, device=device)
    marks = list[float]()
    with torch.no_grad():
        for _ in range(steps):
            network(x, t)
            marks.append(now() if len(marks) in (0, steps - 1) else time.perf_counter())
    return marks


LOOPS = {"training": marks_bare, "sampling": marks_sampling}


def main() -> None:
    """Measure every scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scales", nargs="*", default=list(SCALES), choices=SCALES)
    parser.add_argument("--only", nargs=2, metavar=("LOOP", "LAYOUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        (scale,) = options.scales
        loop, choice = options.only
        config = override(at_hand(load_scale(scale)), {"train.channels_last": choice == "last", "train.compile": "off"})
        print(json.dumps(LOOPS[loop](config, options.steps)))
        return
    rows = [row(scale, loop, options) for scale in options.scales for loop in LOOPS]
    publish(
        "layout", "Channels last over channels first", rows, ["Above 1: channels last is faster. torch.compile off."]
    )


def row(scale: str, loop: str, options: argparse.Namespace) -> Row:
    """Measure one row of the table."""
    first = list[float]()
    last = list[float]()
    for i in range(options.repeat):
        command = [
            sys.executable,
            "-m",
            "benchmarks.layout",
            "--scales",
            scale,
            "--steps",
            str(options.steps),
            "--only",
            loop,
        ]
        crew = in_turns({choice: [*command, choice] for choice in sorted(("first", "last"), reverse=bool(i % 2))})
        took = {
            choice: sum(crew[choice].durations(json.loads(crew[choice].said().splitlines()[-1]))) for choice in crew
        }
        first.append(took["first"])
        last.append(took["last"])
    return {
        "network": scale,
        "step": loop,
        "channels first, ms": 1000 * statistics.median(first) / (options.steps - 1),
        "times as fast with channels last": Spread.of_ratios(first, last),
    }


if __name__ == "__main__":
    main()
