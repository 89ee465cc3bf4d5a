"""Which looks a study should have: which differences they can show, their errors, their decisions and their runs.

    python -m benchmarks.looks [--sd 0.111] [--arms 4] [--difference 0.1] [--studies 4000]

Simulates studies. The log ratios of the arms are normal with standard deviation `--sd` over seeds and share the
baseline's noise, as paired seeds do (half of the variance each). All arms have the same true difference from the
baseline: zero, half the smallest difference of interest, the smallest difference itself, or twice it. An arm keeps its
first verdict and gets no more seeds; the baseline runs while any arm is undecided. Fixed numbers of seeds, which are
designs of one look, are there for comparison.

Prints the difference that each look can show (half of the time). For each true difference it prints the share of
decided arms, the share of studies with any wrong verdict, and the mean number of runs, baseline included. A tie is
wrong at the smallest difference and above it; "better" and "worse" are wrong at zero. The default looks come from this
table.
"""

from __future__ import annotations

import argparse
import math

from benchmarks.report import Row, publish
from harness.ablation.design.looks import Looks
from harness.ablation.design.simulation import simulate

DESIGNS = (
    Looks((5, 10, 20, 40)), Looks((5, 10, 20, 40), "equal"), Looks((6, 20, 40), "equal"), Looks((5, 20, 40)),
    Looks((10, 20, 40)), Looks((5, 10, 20)), Looks((5,)), Looks((20,)), Looks((40,)),
)  # fmt: skip
SHARES = (0.0, 0.5, 1.0, 2.0)
"""True differences, in units of the smallest difference of interest."""


def main() -> None:
    """Simulate every design at every true difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd", type=float, default=0.111, help="standard deviation of the log ratios over seeds")
    parser.add_argument("--arms", type=int, default=4, help="number of arms besides the baseline")
    parser.add_argument("--difference", type=float, default=0.1, help="the smallest difference of interest")
    parser.add_argument("--studies", type=int, default=4000)
    options = parser.parse_args()
    rows = [row(looks, share * options.difference, options) for looks in DESIGNS for share in SHARES]
    title = f"Looks, at sd {options.sd:g}, {options.arms} arms and a smallest difference of {options.difference:.0%}"
    publish("looks", title, rows, [f"{options.studies} studies per row, seed 0"])


def row(looks: Looks, true: float, options: argparse.Namespace) -> Row:
    """Simulate a design at one true difference."""
    shown = (looks.provable(look, options.arms, options.sd) for look in range(1, len(looks.seeds) + 1))
    sds = [options.sd] * options.arms
    found = simulate(looks, sds, math.log1p(true), options.difference, options.studies)
    return {
        "looks": ", ".join(map(str, looks.seeds)),
        "spending": looks.spending if len(looks.seeds) > 1 else "one look",
        "can show, %": ", ".join(f"{100 * size:.3g}" for size in shown),
        "true": f"{true:+.0%}",
        "arms decided": found.decided.mean(),
        "studies wrong": found.wrong.any(1).mean(),
        "runs": found.trials.mean(),
    }


if __name__ == "__main__":
    main()
