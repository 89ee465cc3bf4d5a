"""An A/A test: how often a study calls one half of a training's seeds better or worse than the other half.

    python -m benchmarks.aa [--seeds 40] [--splits 2000]

Trains the baseline of the weighting study at the points scale on 40 seeds and measures it at the primary NFE. If it is
interrupted, the same command continues. Each of many random splits takes 20 seeds as the baseline and 20 as an arm; a
study of one arm then looks at 5, 10 and 20 of them. Every verdict "better" or "worse" is wrong. All splits use the same
40 values, so they depend on each other: the rate is a mean over splits, not a count of independent studies. At most 5 %
is expected.

The file also holds the 40 values; a test computes the rates from them.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.report import publish
from harness.ablation.design.looks import Looks
from harness.ablation.design.study import load_scale, load_study
from harness.ablation.report.statistics import compare, verdict
from harness.core.config import override
from harness.core.progress import shown
from harness.core.signals import StopSignal
from harness.runs.config import RunConfig
from harness.runs.train import ensure

STUDY, SCALE = "weighting", "points"
METRICS = ("sliced_wasserstein", "mmd", "energy")
LOOKS = Looks((5, 10, 20))
SMALLEST = 0.05
"""The smallest difference of interest. A tie ends the looks."""


def main() -> None:
    """Train the missing seeds, split them and publish the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2 * LOOKS.last)
    parser.add_argument("--splits", type=int, default=2000)
    options = parser.parse_args()
    study = load_study(STUDY)
    changes = {"evaluate.nfe": [study.nfe], "evaluate.metrics": list(METRICS)}
    base = override(override(load_scale(SCALE), study.arms[study.baseline]), changes)
    found = measured(base, options.seeds, study.nfe)
    rows = [row(metric, values, options.splits) for metric, values in found.items()]
    notes = [
        f"{options.splits} splits of the same {options.seeds} seeds, which depend on each other.",
        f"At NFE {study.nfe}, smallest difference {SMALLEST:.0%}.",
        *(f"{metric}: {', '.join(f'{value:.6g}' for value in values)}" for metric, values in found.items()),
    ]
    publish("aa", f"A/A test of {options.seeds} seeds of {study.baseline}, {SCALE}", rows, notes)


def measured(base: RunConfig, seeds: int, nfe: int) -> dict[str, list[float]]:
    """Return {metric: values by seed}; train and measure the missing seeds."""
    stop = StopSignal()
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for seed in shown(range(seeds), f"seeds of {SCALE}", seeds):
        config = override(base, {"seed": seed})
        known = ensure(config, lambda text: None, stop).evaluation(config.protocol())["values"]
        for metric, values in found.items():
            values.append(known[metric][str(nfe)])
    return found


def row(metric: str, values: list[float], splits: int) -> dict[str, str | float]:
    """Return the share of splits with each verdict."""
    words = split_verdicts(values, splits, SMALLEST)
    wrong = float(np.mean([word in ("better", "worse") for word in words]))
    return {"metric": metric, "better or worse": wrong, "tie": float(np.mean([word == "tie" for word in words]))}


def split_verdicts(values: list[float], splits: int, smallest: float) -> list[str]:
    """Return the first verdict of each split other than "undecided", or "undecided"."""
    rng = np.random.default_rng(0)
    words = []
    for _ in range(splits):
        order = rng.permutation(np.asarray(values))
        arm, baseline = order[: 2 * LOOKS.last].reshape(2, -1).tolist()
        word = "undecided"
        for look, n in enumerate(LOOKS.seeds, 1):
            if word == "undecided":
                word = verdict(compare(arm[:n], baseline[:n], LOOKS.level(look, 1)), smallest, lower_is_better=True)
        words.append(word)
    return words


if __name__ == "__main__":
    main()
