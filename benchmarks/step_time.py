"""What all that surrounds a training step costs: `harness train` against the same training written out bare.

    python -m benchmarks.step_time [--repeat 5] [--quick]

Network, batch, precision, fused AdamW, clipping and averages are the same, and neither compiles; on a GPU the last line
has the harness compile as it does by itself, beside the bare loop that does not. The harness's side does what `harness
train` does in a terminal, at the scale's own intervals: metrics.jsonl, MLflow's mirror on SQLite, the progress bar,
sample grids, checkpoints. Each is a process of its own; the two take turns of a second (on a GPU of four), and only the
one whose turn it is runs. All that comes before the end of the first step is left out, and so is the closing of the
MLflow record.

Prints for each network the time of a step, the ratio of the two over the whole training (median, and smallest to
largest over the repetitions) and how much of the bare loop's time went into steps alone, log lines, checkpoints and
sample grids. `--quick` takes a tenth of the steps, up to no grid: it shows that the benchmark works, and no more.
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
"""{scale: steps}: a whole training of the small ones, fashion_small up to its first grid of samples, cifar10 less."""
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
        "Shares are of the bare loop's time, medians; `plain` is the steps that end in no report.",
    ]
    publish("step_time", "Time of a training step, harness over bare loop", rows, notes)


def config_of(scale: str, mode: str) -> RunConfig:
    """A scale, compiled or not."""
    return override(at_hand(load_scale(scale)), {"train.compile": mode})


def steps_of(scale: str, quick: bool) -> int:
    """How many steps are measured."""
    return SCALES[scale] // 10 if quick else SCALES[scale]


def row(scale: str, mode: str, options: argparse.Namespace) -> Row:
    """One line of the table."""
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
    """Seconds of a training, from those of its second step and all after it, by what they went into.

    What a step took beyond the median belongs to the rarest report that it ended in.
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
