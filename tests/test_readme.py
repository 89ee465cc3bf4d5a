"""The README says what the committed files say: its numbers, its commands and the licence."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

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


def test_its_weighting_tables_are_the_committed_ones() -> None:
    committed = tables((TABLES / "weighting-digits.md").read_text())
    assert tables(ANSWERS) == committed[:3]
    assert [len(table) for table in committed[:3]] == [2 + 5, 2 + 5, 2 + 4]


def test_what_stands_under_them_is_the_committed_jsons() -> None:
    known = about("weighting-digits")
    assert re.findall(r"`make ablation STUDY=weighting` at commit ([0-9a-f, ]+) on", ANSWERS) == [
        ", ".join(known["commits"])
    ]
    named = {"resampled": "training images drawn with replacement", "gaussian": "Gaussian noise"}
    for kind, what in named.items():
        assert f"- FID of {what}, as many as the samples: {known['references'][kind]['fid']:.4g}.\n" in ANSWERS, kind
    machine = known["machine"]
    assert f"{machine['processor']} without a GPU (torch {machine['torch']}, " in ANSWERS


def test_its_words_on_the_weighting_study_are_the_csvs() -> None:
    text = joined(ANSWERS)
    low = row("weighting-digits", "data_end", 2)
    high = row("weighting-digits", "min_snr", 2)
    found = [f"{-100 * arm.high:.0f} to {-100 * arm.low:.0f} %" for arm in (low, high)]
    less = f"{-100 * low.difference:.0f} % and {-100 * high.difference:.0f} %"
    assert f"they lie {less} below uniform (unadjusted 95 % intervals: {found[0]} and {found[1]}; " in text
    worse = row("weighting-digits", "noise_end")
    assert f"t^2 raises FID by {100 * worse.low:.0f} to {100 * worse.high:.0f} %" in text
    undecided = [arm for arm in ("data_end", "min_snr") if row("weighting-digits", arm).verdict == "undecided"]
    assert (len(undecided) == 2) == ("differ from uniform at NFE 32 these five seeds cannot say" in text)


def test_its_words_on_the_other_studies_are_their_csvs() -> None:
    text = joined(ANSWERS)
    wanted = {
        ("solver-digits", "heun"): "Heun {}",
        ("coupling-digits", "exact_ot"): "network ({}",
        ("time_sampler-digits", "logit_normal"): "than even ones ({}",
        ("time_sampler-digits", "logit_normal_weight"): "do not ({}",
    }
    for (table, arm), sentence in wanted.items():
        found = row(table, arm)
        numbers = f"{percent(found.difference)} %, {percent(found.low)} to {percent(found.high)} %"
        assert sentence.format(numbers) in text, (table, arm)
    assert row("interpolant-digits", "fm_ot").verdict == "tie"
    noises = pd.read_csv(TABLES / "noise-digits.csv")
    assert set(noises[noises.primary].verdict) == {"baseline", "undecided"}
    assert len(noises[noises.primary]) == 6
    commits = {
        table: about(f"{table}-digits")["commits"]
        for table in ("interpolant", "prediction", "time_sampler", "coupling", "noise")
    }
    named = re.search(r"beside other work, at commit ([0-9a-f]+),", text)
    assert named
    assert commits == {table: [named[1]] for table in commits}


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
