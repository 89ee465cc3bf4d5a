"""What all that surrounds a training step costs: `harness train` against the same training written out bare.

    python -m benchmarks.step_time [--repeat 5] [--quick]

Network, batch, precision, compilation, fused AdamW, clipping and averages are the same. The harness's side does what
`harness train` does in a terminal, at the scale's own intervals: metrics.jsonl, MLflow's mirror on SQLite, the progress bar,
sample grids, checkpoints. Each is a process of its own; the two take turns of a second, and only the one whose turn it is
runs. Start-up and the closing of the MLflow record are left out.

Prints for each network the time of a step, the ratio of the two over the whole training (median, and smallest to largest
over the repetitions) and how much of the bare loop's time went into steps alone, log lines, checkpoints and sample grids.
`--quick` trains a tenth of the steps with the intervals as they are, so the last step's grid weighs ten times as much: it
shows that the benchmark works, and no more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

from benchmarks.loops import at_hand, fresh_results, logged, marks_bare
from benchmarks.report import Row, Spread, publish
from benchmarks.turns import in_turns
from harness.ablation.study import load_scale
from harness.config import override
from harness.runs import RunConfig

SCALES = {"digits": 520, "points": 2000, "fashion_small": 750}
"""{scale: steps}: a whole training of the small ones, and of the large one up to its first grid of samples."""
GOAL = 1.03
LOOPS = {"bare": marks_bare, "harness": logged}


def main() -> None:
    """Measure every scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scales", nargs="*", default=list(SCALES), choices=SCALES)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--only", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    configs = {name: config_of(name, options.quick) for name in options.scales}
    if options.only:
        (config,) = configs.values()
        print(json.dumps(LOOPS[options.only](config)))
        return
    rows = [row(name, config, options.repeat, ["--quick"] * options.quick) for name, config in configs.items()]
    notes = [
        f"Goal on a CPU: a ratio of at most {GOAL}.",
        "Shares are of the bare loop's time, medians; `plain` is the steps that end in no report.",
    ]
    publish("step_time", "Time of a training step, harness over bare loop", rows, notes)


def config_of(scale: str, quick: bool) -> RunConfig:
    """A scale with the steps to measure."""
    return override(at_hand(load_scale(scale)), {"train.steps": SCALES[scale] // 10 if quick else SCALES[scale]})


def row(scale: str, config: RunConfig, repeat: int, how: list[str]) -> Row:
    """One network's line of the table."""
    steps, bare, whole, spent = config.train.steps, list[float](), list[float](), list[dict[str, float]]()
    for i in range(repeat):
        first = [*LOOPS] if i % 2 else [*reversed(LOOPS)]
        commands = {one: [sys.executable, "-m", "benchmarks.step_time", "--scales", scale, *how, "--only", one] for one in first}
        with fresh_results():
            crew = in_turns(commands)
        took = {name: crew[name].durations(json.loads(crew[name].said())) for name in LOOPS}
        bare.append(sum(took["bare"]) * steps / len(took["bare"]))
        whole.append(sum(took["harness"]))
        spent.append(parts(config, took["harness"]))
    shares = {name: statistics.median(s[name] / b for s, b in zip(spent, bare, strict=True)) for name in spent[0]}
    return {
        "network": scale,
        "steps": steps,
        "bare ms": 1000 * statistics.median(bare) / steps,
        "harness ms": 1000 * statistics.median(whole) / steps,
        "ratio": Spread.of_ratios(whole, bare),
        **{f"{name} %": round(100 * share, 1) for name, share in shares.items()},
    }


def parts(config: RunConfig, took: Sequence[float]) -> dict[str, float]:
    """Seconds of a training by what they went into; what a step took beyond the median belongs to the rarest report it ended in."""
    every = {"samples": config.train.sample_every, "checkpoints": config.train.checkpoint_every, "log": config.train.log_every}
    spent: dict[str, list[float]] = {"plain": [], "log": [], "checkpoints": [], "samples": []}
    for step, seconds in enumerate(took, 1):
        due = (name for name, n in every.items() if step % n == 0 or step == config.train.steps)
        spent[next(due, "plain")].append(seconds)
    plain = statistics.median(spent["plain"])
    excess = {name: sum(each) - plain * len(each) for name, each in spent.items()}
    return {**excess, "plain": plain * config.train.steps + excess["plain"]}


if __name__ == "__main__":
    main()
