"""The cost of everything around a training step: `harness train` against a bare loop of the same training.

    python -m benchmarks.step_time [--repeat 5] [--quick]

Network, batch, precision, fused AdamW, clipping and averages are the same, and neither loop compiles. On a GPU, one
more row has the harness compile, as it does by default, against the bare loop without compilation. The harness does
everything that `harness train` does in a terminal, at the scale's intervals: metrics.jsonl, MLflow's mirror on SQLite,
the progress bar, sample grids, checkpoints. Each loop is a separate process; the two take turns of a second (four on a
GPU), and only one runs at a time. The measurement starts at the end of the first step and does not include the closing
of the MLflow record.

Prints for each network the time of a step, the ratio of the two over the whole training (median, and smallest to
largest over the repetitions), and the harness's time for plain steps, log lines, checkpoints and sample grids as shares
of the bare loop's time. `--quick` takes a tenth of the steps and reaches no sample grid: it only shows that the
benchmark works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

import torch

from benchmarks.loops import at_hand, fresh_results, logged, marks_bare
from benchmarks.report import Row, Spread, publish
from benchmarks.turns import in_turns
from harness.ablation.design.study import load_scale
from harness.core.config import override
from harness.runs.config import RunConfig
from harness.training.config import TrainConfig

CUDA = torch.cuda.is_available()
SCALES = {"digits": 520, "points": 2000, **({"cifar10": 400} if CUDA else {"fashion_small": 750})}
"""{scale: steps}: digits and points a whole training, fashion_small to its first sample grid, cifar10 fewer."""
CASES = [(scale, "off") for scale in SCALES] + [("cifar10", "default")] * CUDA
"""A scale and the mode of torch.compile."""
TURN_S = 4.0 if CUDA else 1.0
GOAL = 1.03
LOOPS = {"bare": marks_bare, "harness": logged}


def main() -> None:
    """Measure every scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scales", nargs="*", default=list(SCALES), choices=SCALES)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--only", nargs=2, metavar=("LOOP", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        (scale,) = options.scales
        loop, mode = options.only
        print(json.dumps(LOOPS[loop](config_of(scale, mode), steps_of(scale, options.quick))))
        return
    rows = [row(scale, mode, options) for scale, mode in CASES if scale in options.scales]
    notes = [
        f"Goal: a ratio of at most {1.0 if CUDA else GOAL}, torch.compile off.",
        "Percentages are medians, as shares of the bare loop's time; `plain` counts the steps without a report.",
    ]
    publish("step_time", "Time of a training step, harness over bare loop", rows, notes)


def config_of(scale: str, mode: str) -> RunConfig:
    """Return a scale's configuration with a mode of torch.compile."""
    return override(at_hand(load_scale(scale)), {"train.compile": mode})


def steps_of(scale: str, quick: bool) -> int:
    """Return the number of measured steps."""
    return SCALES[scale] // 10 if quick else SCALES[scale]


def row(scale: str, mode: str, options: argparse.Namespace) -> Row:
    """Measure one row of the table."""
    train = config_of(scale, mode).train
    steps = steps_of(scale, options.quick)
    bare = list[float]()
    whole = list[float]()
    spent = list[dict[str, float]]()
    for i in range(options.repeat):
        modes = {"bare": "off", "harness": mode}
        command = [sys.executable, "-m", "benchmarks.step_time", "--scales", scale, *["--quick"] * options.quick]
        with fresh_results():
            crew = in_turns(
                {name: [*command, "--only", name, modes[name]] for name in sorted(LOOPS, reverse=bool(i % 2))}, TURN_S
            )
        took = {name: crew[name].durations(json.loads(crew[name].said().splitlines()[-1])) for name in LOOPS}
        bare.append(sum(took["bare"]))
        whole.append(sum(took["harness"]))
        spent.append(parts(train, took["harness"]))
    shares = {name: statistics.median(s[name] / b for s, b in zip(spent, bare, strict=True)) for name in spent[0]}
    return {
        "network": scale,
        "torch.compile": mode,
        "steps": steps,
        "bare ms": 1000 * statistics.median(bare) / (steps - 1),
        "harness ms": 1000 * statistics.median(whole) / (steps - 1),
        "ratio": Spread.of_ratios(whole, bare),
        **{f"{name} %": round(100 * share, 1) for name, share in shares.items()},
    }


def parts(train: TrainConfig, took: Sequence[float]) -> dict[str, float]:
    """Return {purpose: seconds} of a training, from the durations of its second and later steps.

    The time of a step beyond the median belongs to the rarest report at the end of this step.
    """
    every = {"samples": train.sample_every, "checkpoints": train.checkpoint_every, "log": train.log_every}
    spent: dict[str, list[float]] = {"plain": [], "log": [], "checkpoints": [], "samples": []}
    for step, seconds in enumerate(took, 2):
        due = (name for name, n in every.items() if step % n == 0 or step == train.steps)
        spent[next(due, "plain")].append(seconds)
    plain = statistics.median(spent["plain"])
    excess = {name: sum(each) - plain * len(each) for name, each in spent.items()}
    return {**excess, "plain": plain * len(took) + excess["plain"]}


if __name__ == "__main__":
    main()
