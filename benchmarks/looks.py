"""Which looks a study should have: what each can show, how often it is wrong, what it decides, and the runs it takes.

    python -m benchmarks.looks [--sd 0.111] [--arms 4] [--difference 0.1] [--studies 4000]

Simulates studies whose arms' log ratios are normal with this sd over seeds and share the baseline's noise as paired
seeds do (half of the variance each). All arms differ from the baseline by the same true difference: none, half of the
smallest difference of interest, all of it, and twice. An arm keeps its first verdict and gets no more seeds; the
baseline runs while any arm is open. Beside the looks stand fixed numbers of seeds, which are designs of one look.

Prints what each look can show (half of the time), and for each true difference the share of arms that are decided, the
share of studies with any wrong verdict, and the mean number of runs, baseline included. A tie is wrong at the smallest
difference and beyond it, a difference is wrong where there is none. The default looks were chosen from this table.
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
"""True differences, in smallest differences."""


def main() -> None:
    """Simulate every design at every true difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd", type=float, default=0.111, help="of the log ratios over seeds")
    parser.add_argument("--arms", type=int, default=4, help="beside the baseline")
    parser.add_argument("--difference", type=float, default=0.1, help="the smallest of interest")
    parser.add_argument("--studies", type=int, default=4000)
    options = parser.parse_args()
    rows = [row(looks, share * options.difference, options) for looks in DESIGNS for share in SHARES]
    title = f"Looks, at sd {options.sd:g}, {options.arms} arms and a smallest difference of {options.difference:.0%}"
    publish("looks", title, rows, [f"{options.studies} studies a row, seed 0"])


def row(looks: Looks, true: float, options: argparse.Namespace) -> Row:
    """A design at a true difference."""
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
