"""An A/A test: how often seeds of one and the same training are told better or worse than each other.

    python -m benchmarks.aa [--seeds 40] [--splits 2000]

Trains the baseline of the weighting study at the points scale on 40 seeds and measures it at the primary NFE; the same
command continues. The seeds are then split at random, again and again, into 20 that play the baseline and 20 that play
an arm, which a study of one arm looks at with 5, 10 and 20 of them. Whatever it calls better or worse is wrong. The
splits are of the same 40 values, so they depend on each other: the rate is a mean over them, and no count of
independent studies. At most 5 % is expected.

The file keeps the values, from which a test computes the rates again.
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
"""The smallest difference of interest: an arm that ties within it is not looked at again."""


def main() -> None:
    """Train what is missing, split, and tell the rates."""
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
        f"{options.splits} splits of the same {options.seeds} seeds: they depend on each other.",
        f"At NFE {study.nfe}, smallest difference {SMALLEST:.0%}.",
        *(f"{metric}: {', '.join(f'{value:.6g}' for value in values)}" for metric, values in found.items()),
    ]
    publish("aa", f"A/A test of {options.seeds} seeds of {study.baseline}, {SCALE}", rows, notes)


def measured(base: RunConfig, seeds: int, nfe: int) -> dict[str, list[float]]:
    """{metric: its value by seed}; trains and measures what is missing."""
    stop = StopSignal()
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for seed in shown(range(seeds), f"seeds of {SCALE}", seeds):
        config = override(base, {"seed": seed})
        known = ensure(config, lambda text: None, stop).evaluation(config.protocol())["values"]
        for metric, values in found.items():
            values.append(known[metric][str(nfe)])
    return found


def row(metric: str, values: list[float], splits: int) -> dict[str, str | float]:
    """How often each verdict is given over the splits."""
    words = split_verdicts(values, splits, SMALLEST)
    wrong = float(np.mean([word in ("better", "worse") for word in words]))
    return {"metric": metric, "better or worse": wrong, "tie": float(np.mean([word == "tie" for word in words]))}


def split_verdicts(values: list[float], splits: int, smallest: float) -> list[str]:
    """The first verdict of each split, or that of the last look."""
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
