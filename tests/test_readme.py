"""The README says what the committed files say: its numbers, its commands and the licence."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from harness.ablation.report import statistics

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "results" / "tables"
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's text as its foundation publishes it."""
README = (ROOT / "README.md").read_text()
ANSWERS = README.partition("\n## What it answers\n")[2].partition("\n## ")[0]


def tables(text: str) -> list[list[str]]:
    """The rows of every Markdown table, table by table."""
    found: list[list[str]] = []
    for above, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            found += [] if above.startswith("|") else [[]]
            found[-1].append(line)
    return found


def about(table: str) -> dict[str, Any]:
    return json.loads((TABLES / f"{table}.json").read_text())


def row(table: str, arm: str, nfe: int | None = None) -> Any:
    """An arm's row of the study's metric, at an NFE or at the primary one."""
    rows = pd.read_csv(TABLES / f"{table}.csv")
    return rows[(rows.arm == arm) & (rows.primary if nfe is None else (rows.nfe == nfe) & (rows.metric == "fid"))].iloc[
        0
    ]


def percent(value: float) -> str:
    return f"{100 * value:+.0f}"


def joined(text: str) -> str:
    return " ".join(text.split())


def told(found: Any) -> str:
    """A difference and its interval, in whole per cent."""
    return f"{percent(found.difference)} %, {percent(found.low)} to {percent(found.high)} %"


def test_its_weighting_tables_are_the_committed_ones() -> None:
    _, *parts = re.split(r"\n\n(?=FID ↓ (?:by NFE,|at NFE 32))", (TABLES / "weighting-digits.md").read_text())
    assert tables(ANSWERS) == [tables(part)[0] for part in parts[:2]]
    assert [len(table) for table in tables(ANSWERS)] == [2 + 6, 2 + 6]


def test_what_stands_under_them_is_the_committed_jsons() -> None:
    known = about("weighting-digits")
    machine = known["machine"]
    made = f"Made by `{known['command']}` at commit {', '.join(known['commits'])}"
    where = f"on two cores of an {machine['processor']} without a GPU (torch {machine['torch']}, "
    assert f"{made} {where}" in ANSWERS
    real = "FID of training images drawn with replacement, as many as the samples elsewhere than at NFE 32"
    assert f"- {real}: {known['references']['resampled']['fid']:.4g}.\n" in ANSWERS
    assert f"- FID of Gaussian noise, as many: {known['references']['gaussian']['fid']:.4g}.\n" in ANSWERS


def test_its_words_on_the_weighting_study_are_the_csvs() -> None:
    text = joined(ANSWERS)
    arms = {arm: row("weighting-digits", arm) for arm in ("min_snr", "noise_end", "clipped_snr", "data_end")}
    assert f"is {arms['min_snr'].verdict} ({told(arms['min_snr'])})" in text
    assert f"(`noise_end`) {arms['noise_end'].verdict} ({told(arms['noise_end'])})" in text
    assert f"is a {arms['data_end'].verdict} with even weights ({told(arms['data_end'])})" in text
    assert f"stays {arms['clipped_snr'].verdict} ({told(arms['clipped_snr'])})" in text
    seeds = pd.read_csv(TABLES / "weighting-digits-seeds.csv")
    own = seeds[(seeds.metric == "fid") & (seeds.nfe == 32)].pivot(index="seed", columns="arm", values="value").dropna()
    both = statistics.compare(own["min_snr"].tolist(), own["data_end"].tolist())
    assert f"over the {len(own)} seeds that both have, `min_snr` is at {told(both)}" in text
    noise = about("weighting-digits")["references_at_primary"]["gaussian"]["fid"]
    assert row("weighting-digits", "inverse_snr")["mean"] > noise


def test_its_words_on_the_digits_scale_are_the_searchs() -> None:
    text = joined(ANSWERS)
    trials = pd.read_csv(TABLES / "digits_scale-digits-trials.csv")
    best = f"{len(trials)} trials on seed {about('digits_scale-digits-trials')['seed']}"
    assert best in text
    assert f"The best scored {trials.value.min():.2f}, the settings before it {trials.value[0]:.2f}." in text
    again = row("digits_scale-digits", "tuned")
    ends = f"{percent(again.low)} to {percent(again.high)} %, {again.verdict}"
    assert f"On seeds 0 to {again.pairs - 1:.0f} it is {percent(again.difference)} % ({ends})" in text


def test_its_words_on_reflow_and_the_gallery_are_their_csvs() -> None:
    text = joined(README)
    reflow = "reflow-digits"
    one = row(reflow, "1-rectified", 1)
    two = row(reflow, "2-rectified", 1)
    assert f"FID {one['mean']:.0f} to {two['mean']:.1f}" in text
    four = row(reflow, "2-rectified")
    assert f"({percent(four.difference)} %, {percent(four.low)} to {percent(four.high)} %)" in text
    last = [row(reflow, arm, 128)["mean"] for arm in ("2-rectified", "1-rectified")]
    assert f"worse than its teacher, {last[0]:.2f} against {last[1]:.2f}" in text
    gallery = pd.read_csv(TABLES / "gallery.csv").set_index(["scale", "metric"])

    def fid(scale: str, kind: str = "value") -> str:
        return f"{float(str(gallery.loc[(scale, 'fid'), kind])):.1f}"

    digits = (
        f"digits {fid('digits')} with the U-Net and {fid('digits_dit')} with a DiT (resampled real digits "
        f"{fid('digits', 'resampled')}"
    )
    assert f"{digits}, noise {fid('digits', 'gaussian')})" in text
    fashion = (
        f"Fashion-MNIST {fid('fashion_small')}, from 256 samples (real held-out pictures "
        f"{fid('fashion_small', 'held_out')}"
    )
    assert f"{fashion}, noise {fid('fashion_small', 'gaussian')})" in text


def test_the_check_gives_its_first_two_commands_in_their_order() -> None:
    commands = re.findall(r"^    (make .+)$", README, re.MULTILINE)[:2]
    assert commands == ["make ablation STUDY=weighting", "make test"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    first, second = (next(i for i, line in enumerate(lines) if line.startswith(command)) for command in commands)
    assert first < second < next(i for i, line in enumerate(lines) if "git status" in line and i > second)


def test_the_licence_is_apaches_whole_text_and_its_field_says_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
