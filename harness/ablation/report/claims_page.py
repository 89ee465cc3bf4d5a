"""The committed verdicts on claims: results/tables/claims.csv, and the same in words in claims.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.ablation.design.paper import PaperTable, load_paper, paper_names
from harness.ablation.report import beside
from harness.ablation.report.claims import FAILS, HOLDS, UNDECIDED, Judged, Measured, judge
from harness.ablation.report.committed import published_folder
from harness.ablation.report.origin import VERSIONS
from harness.core.files import write_atomic, write_json

HEAD = """# Which claims of papers hold at a small scale?

Each claim is an ordering, a tie or a trend over rows of a published table. It is judged on the seeds of a study in this
repository, by paired comparisons. The chance of a wrong verdict on a claim is at most 5 %: this level is divided over
its comparisons and over the looks of the study (two looks, at 5 and 10 seeds, in most), and the intervals are at the
level of the look. So at most one verdict in twenty is wrong on average.

- **holds**: every comparison shows the relation. Any proven difference shows an ordering; a tie is proven if the
  interval (of two one-sided tests) lies within the smallest difference of interest, 10 % if no other is named.
- **does not hold**: one comparison shows the opposite: another order, a tie where an ordering is claimed, or a
  difference above the smallest one where a tie is claimed.
- **undecided**: the seeds cannot tell. The interval says which differences they exclude, and "they find" which
  difference they would find with a power of 80 %. A study gives a decided arm no more seeds, so such a claim may stay.

A verdict is about this scale, not about the paper. Digits have 8x8 pixels and half a minute of training: the networks
are far from converged, the classes are easy, the features of FID are those of a small classifier, and batches of 64 are
large beside 1,438 images, which helps pairings by optimal transport. A claim about the last per cent of a converged
model, or about long training, may turn. One did: logit-normal times lead after 660 and 2,000 steps, and after 8,000
they tie with uniform times at 25 calls. "RK45" in the rows of Liu et al. stands for 128 steps of Euler's method here.
The claims of Cheng & Schwing are judged on points in the plane, as in their paper. Those of Tong et al. are judged on
points and on cells besides, by the sliced Wasserstein distance and without predictions: on cells, the OT coupling is
worse at many calls. The rates of Peebles & Xie's arms are tuned by six trials each. In an earlier study of these arms
(commit ab221be), every search took its largest rate, 0.0088, and patches of 2 pixels were worse than those of 4 pixels
and of 1. At the rates that the wider searches found, all three are close: the difference was one of rates, not of
patches.

No claim is judged on CIFAR-10 yet: its scale `cifar10_small` needs a GPU.

Predictions and smallest differences stand in [studies/papers](../../studies/papers). A test compares each with the
commits of its runs; a claim that is marked "stated after the runs" is exempt. `harness compare TABLE` prints all values
beside the published ones. `harness publish` writes this page."""
TITLES = {
    HOLDS: "Claims that hold",
    FAILS: "Claims that do not hold",
    UNDECIDED: "Claims that these seeds cannot decide",
}
COLUMNS = [
    "table", "claim", "says", "scale", "expected", "stated", "comparison", "published", "difference", "low", "high",
    "level", "seeds", "finds_fall", "finds_rise", "verdict",
]  # fmt: skip
"""Columns of claims.csv, a row for each comparison; differences are relative, the interval is at 1 - level."""


class Known(NamedTuple):
    """A judged claim with its table and scale."""

    table: PaperTable
    scale: str
    judged: Judged
    commits: tuple[str, ...]


def write(folder: Path) -> list[Path]:
    """Judge all claims on the committed tables; write claims.md, claims.csv and claims.json to `folder`/tables."""
    known, missing = all_claims()
    paths = [folder / "tables" / f"claims{ending}" for ending in (".md", ".csv", ".json")]
    write_atomic(paths[0], page(known, missing))
    write_atomic(paths[1], rows(known).to_csv(index=False))
    commits = sorted({commit for each in known for commit in each.commits})
    write_json(
        paths[2],
        {"question": HEAD[2:].partition("\n")[0], "command": "harness publish", "commits": commits, **VERSIONS},
    )
    return paths


def all_claims() -> tuple[list[Known], list[tuple[PaperTable, str]]]:
    """Return the claims that the committed tables judge, and (table, claim) of those that wait for their studies.

    Only a table's first scale is waited for.
    """
    known = list[Known]()
    missing = list[tuple[PaperTable, str]]()
    for declared, scale in ((table, scale) for table in map(load_paper, paper_names()) for scale in table.scales):
        table = declared.at(scale)
        found = {study: Measured.read(published_folder(), study, scale) for study in table.studies}
        measured = {study: values for study, values in found.items() if values}
        for key, claim in table.claims.items():
            studies = {table.columns[part.column].study for part in claim.parts}
            if studies <= measured.keys():
                commits = {commit for study in studies for commit in measured[study].commits}
                known.append(Known(table, scale, judge(table, key, measured), tuple(commits)))
            elif scale == declared.scales[0]:
                missing.append((table, key))
    return known, missing


def rows(known: Sequence[Known]) -> pd.DataFrame:
    """Return all comparisons, in `COLUMNS`."""
    found = []
    for table, scale, judged, _ in known:
        claim = judged.claim
        about = [table.name, judged.key, claim.says, scale, claim.expected, claim.stated]
        for effect in judged.effects:
            own = effect.comparison
            numbers = [own.difference, own.low, own.high, own.level, own.n] if own else [None, None, None, None, 0]
            power = effect.power
            sees = list(power.found) if power else [None, None]
            found.append([*about, effect.compared, effect.published, *numbers, *sees, judged.word])
    return pd.DataFrame(found, columns=COLUMNS)


def page(known: Sequence[Known], missing: Sequence[tuple[PaperTable, str]]) -> str:
    """Return the page of all claims in words, by verdict."""
    before = [each.judged for each in known if each.judged.claim.stated == "before" and each.judged.word != UNDECIDED]
    right = sum(judged.word == judged.claim.expected for judged in before)
    counts = beside.counted([each.judged for each in known])
    foretold = f"Of the {len(before)} decided ones that were stated before their runs, {right} came out as predicted."
    parts = [HEAD, *single_runs(), f"{counts}. {foretold}"]
    for word, title in TITLES.items():
        own = [each for each in known if each.judged.word == word]
        lines = [f"- `{each.table.name}`{_elsewhere(each)} {beside.told(each.judged)}" for each in own]
        parts += [f"## {title}", "\n".join(lines)] if lines else []
    if missing:
        lines = [f"- `{table.name}` {key}: {table.claims[key].says}" for table, key in missing]
        parts += ["## Claims that wait for their studies", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _elsewhere(known: Known) -> str:
    """Return the scale in words, unless it is the table's first one."""
    return "" if known.scale == known.table.scales[0] else f" at the scale {known.scale},"


def single_runs() -> list[str]:
    """Return a sentence on how far two single runs of one training are apart, from the seeds of a committed study."""
    known = Measured.read(published_folder(), "weighting", "digits")
    if not known or "uniform" not in {*known.rows.arm}:
        return []
    values = known.values("uniform", "fid", 32)
    apart = [abs(math.log(a / b)) for a, b in itertools.combinations(values.dropna(), 2)]
    usual, most = (math.expm1(float(np.quantile(apart, share))) for share in (0.5, 0.95))
    return [
        f"**Two single runs of one training** differ here by {usual:.0%} at the median, by up to {most:.0%} in 95 % "
        f"of the pairs of {len(values)} seeds (`uniform` in [weighting](weighting-digits.md), FID at NFE 32). A "
        "published difference of single runs contains the same kind of noise: Tong et al. trained one method twice "
        "under two names (`tong2024_table5` a)."
    ]
