"""What all that surrounds a training step costs: `harness train` against the same training written out bare.

    python -m benchmarks.step_time [--repeat 5] [--quick]

Network, batch, precision, compilation, fused AdamW, clipping and averages are the same. The harness's side does what
`harness train` does in a terminal, at the scale's own intervals: metrics.jsonl, MLflow's mirror on SQLite, the progress bar,
sample grids, checkpoints. The two train in turns in one process, each from its start, which of them first changing from
repetition to repetition; start-up and the closing of the MLflow record are left out.

Prints for each network the time of a step, the ratio of the two over the whole training (median, and smallest to largest
over the repetitions) and how much of the bare loop's time went into steps alone, log lines, checkpoints and sample grids.
`--quick` trains a tenth of the steps with the intervals as they are, so the last step's grid weighs ten times as much: it
shows that the benchmark works, and no more.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence

from benchmarks.loops import at_hand, fresh_results, logged, seconds_bare
from benchmarks.report import Row, Spread, publish
from harness.ablation.study import load_scale
from harness.config import override
from harness.runs import RunConfig

SCALES = {"digits": 520, "points": 2000, "fashion_small": 750}
"""{scale: steps}: a whole training of the small ones, and of the large one up to its first grid of samples."""
GOAL = 1.03


def main() -> None:
    """Measure every scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scales", nargs="*", default=list(SCALES), choices=SCALES)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    options = parser.parse_args()
    rows = [row(name, SCALES[name] // 10 if options.quick else SCALES[name], options.repeat) for name in options.scales]
    notes = [
        f"Goal on a CPU: a ratio of at most {GOAL}.",
        "Shares are of the bare loop's time, medians; `plain` is the steps that end in no report.",
    ]
    publish("step_time", "Time of a training step, harness over bare loop", rows, notes)


def row(scale: str, steps: int, repeat: int) -> Row:
    """One network's line of the table."""
    config = override(at_hand(load_scale(scale)), {"train.steps": steps})
    bare, whole, spent = [], [], list[dict[str, float]]()
    for i in range(-1, repeat):  # the first warms caches up
        small = override(config, {"train.steps": 3}) if i < 0 else config
        first = seconds_bare(small) if i % 2 else 0.0
        with fresh_results():
            marks = logged(small)
        first = first or seconds_bare(small)
        if i >= 0:
            bare.append(first)
            whole.append(marks[-1] - marks[0])
            spent.append(parts(config, marks))
    shares = {name: statistics.median(s[name] / b for s, b in zip(spent, bare, strict=True)) for name in spent[0]}
    return {
        "network": scale,
        "steps": steps,
        "bare ms": 1000 * statistics.median(bare) / steps,
        "harness ms": 1000 * statistics.median(whole) / steps,
        "ratio": Spread.of_ratios(whole, bare),
        **{f"{name} %": round(100 * share, 1) for name, share in shares.items()},
    }


def parts(config: RunConfig, marks: Sequence[float]) -> dict[str, float]:
    """Seconds of a training by what they went into; what a step took beyond the median belongs to the rarest report it ended in."""
    every = {"samples": config.train.sample_every, "checkpoints": config.train.checkpoint_every, "log": config.train.log_every}
    spent: dict[str, list[float]] = {"plain": [], "log": [], "checkpoints": [], "samples": []}
    for step, (start, end) in enumerate(itertools.pairwise(marks), 1):
        due = (name for name, n in every.items() if step % n == 0 or step == config.train.steps)
        spent[next(due, "plain")].append(end - start)
    plain = statistics.median(spent["plain"])
    excess = {name: sum(seconds) - plain * len(seconds) for name, seconds in spent.items()}
    return {**excess, "plain": plain * config.train.steps + excess["plain"]}


if __name__ == "__main__":
    main()
