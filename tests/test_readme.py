"""README, docs/ and the other pages agree with the committed files, and their commands and programs work."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import socket
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_iris

from harness.ablation.design.study import load_study
from harness.ablation.report.origin import VERSIONS
from harness.cli import main
from harness.cli.arguments import read
from harness.core import registry
from harness.core.registry import HOMES, load_plugin, members_of, names
from harness.testing import promises

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "results" / "tables"
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's text as published by the Apache Software Foundation."""
README = (ROOT / "README.md").read_text()
ANSWERS = README.partition("\n## The first table\n")[2].partition("\n## ")[0]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for pattern in ("*.md", "docs/*.md", "docs/how-to/*.md")
    for page in ROOT.glob(pattern)
}
PROGRAM = r"(?:\.venv/bin/)?(?:harness|pytest|python) "
COMMANDS = sorted(
    {line for text in PAGES.values() for line in re.findall(rf"^    ((?:make |{PROGRAM}).+)$", text, re.M)}
)
PROGRAMS = {
    found[1]: found[2]
    for text in PAGES.values()
    for found in re.finditer(r"```python\n# (?:studies/)?(\w+)\.py\n(.*?)```", text, re.S)
}


def tables(text: str) -> list[list[str]]:
    """Return the rows of every Markdown table, table by table."""
    found: list[list[str]] = []
    for above, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            found += [] if above.startswith("|") else [[]]
            found[-1].append(line)
    return found


def about(table: str) -> dict[str, Any]:
    return json.loads((TABLES / f"{table}.json").read_text())


def row(table: str, arm: str, nfe: int | None = None) -> Any:
    """Return an arm's row for the study's metric, at an NFE or at the primary one."""
    rows = pd.read_csv(TABLES / f"{table}.csv")
    return rows[(rows.arm == arm) & (rows.primary if nfe is None else (rows.nfe == nfe) & (rows.metric == "fid"))].iloc[
        0
    ]


def percent(value: float) -> str:
    return f"{100 * value:+.0f}"


def joined(text: str) -> str:
    return " ".join(text.split())


def told(found: Any) -> str:
    """Return a difference and its interval in whole per cent."""
    return f"{percent(found.difference)} %, {percent(found.low)} to {percent(found.high)} %"


def test_readme_is_short() -> None:
    assert len(README.split()) <= 1200


def test_its_table_of_weightings_is_the_committed_one() -> None:
    committed = (TABLES / "weighting-digits.md").read_text().partition("\n\nFID ↓ at NFE 32")[2]
    assert tables(ANSWERS) == [tables(committed)[0]]
    assert len(tables(ANSWERS)[0]) == 2 + 6


def test_the_line_under_it_is_the_committed_jsons() -> None:
    known = about("weighting-digits")
    machine = known["machine"]
    made = f"Made by `{known['command']}` at commit {', '.join(known['commits'])}"
    where = f"on two cores of an {machine['processor']} without a GPU (torch {machine['torch']}, "
    assert f"{made} {where}" in ANSWERS


def test_its_words_on_the_weighting_study_are_the_csvs() -> None:
    text = joined(ANSWERS)
    arms = {arm: row("weighting-digits", arm) for arm in ("min_snr", "noise_end", "clipped_snr", "data_end")}
    assert f"is {arms['min_snr'].verdict} ({told(arms['min_snr'])})" in text
    assert f"(`noise_end`) is {arms['noise_end'].verdict} ({told(arms['noise_end'])})" in text
    assert f"is a {arms['data_end'].verdict} with even weights ({told(arms['data_end'])})" in text
    assert f"stays {arms['clipped_snr'].verdict} ({told(arms['clipped_snr'])})" in text
    noise = about("weighting-digits")["references_at_primary"]["gaussian"]["fid"]
    assert row("weighting-digits", "inverse_snr")["mean"] > noise


def test_its_words_on_the_digits_scale_are_the_searchs() -> None:
    text = joined(README)
    trials = pd.read_csv(TABLES / "digits_scale-digits-trials.csv")
    assert f"{len(trials)} trials on seed {about('digits_scale-digits-trials')['seed']}" in text
    assert f"The best scored {trials.value.min():.2f}, the settings before it {trials.value[0]:.2f}." in text
    again = row("digits_scale-digits", "tuned")
    ends = f"{percent(again.low)} to {percent(again.high)} %, {again.verdict}"
    assert f"On seeds 0 to {again.pairs - 1:.0f} it is {percent(again.difference)} % ({ends})" in text


def test_its_words_on_longer_training_are_the_csvs() -> None:
    text = joined(README)
    twice, eight = (row("length-digits", arm) for arm in ("2x", "8x"))
    assert f"half the FID to held-out images ({told(twice)}), eight times a quarter ({told(eight)})" in text
    assert f"twice the steps gain {percent(twice.difference)} %" in text
    rows = pd.read_csv(TABLES / "length-digits.csv")
    authentic = rows[(rows.metric == "authenticity") & (rows.nfe == 32)].set_index("arm")["mean"]
    assert f"no copies falls from {authentic['1x']:.2f} to {authentic['8x']:.2f}" in text


def test_the_words_on_reflow_are_its_csvs() -> None:
    text = joined(PAGES["docs/reflow.md"])
    reflow = "reflow-digits"
    one = row(reflow, "1-rectified", 1)
    two = row(reflow, "2-rectified", 1)
    assert f"FID {one['mean']:.0f} to {two['mean']:.1f}" in text
    four = row(reflow, "2-rectified")
    assert f"({percent(four.difference)} %, {percent(four.low)} to {percent(four.high)} %)" in text
    last = [row(reflow, arm, 128)["mean"] for arm in ("2-rectified", "1-rectified")]
    assert f"worse than its teacher, {last[0]:.2f} against {last[1]:.2f}" in text


def test_the_table_of_the_gallery_is_its_csv() -> None:
    gallery = pd.read_csv(TABLES / "gallery.csv").set_index(["scale", "metric"])
    scales = {
        "digits, U-Net": "digits", "digits, DiT": "digits_dit", "Fashion-MNIST, 256 samples": "fashion_small",
        "eight Gaussians": "points", "healthy bone marrow": "cells", "healthy to leukaemia": "transport",
        "the economy's quarters": "sequences",
    }  # fmt: skip
    shown = tables(PAGES["docs/data.md"])[0][2:]
    assert len(shown) == len(scales)
    for line in shown:
        name, metric, *values = [cell.strip() for cell in line.strip("|").split("|")]
        known: Any = gallery.loc[(scales[name], {"FID": "fid", "sliced Wasserstein": "sliced_wasserstein"}[metric])]
        kind = re.search(r"\((held out|resampled)\)", values[1])
        assert kind is not None
        for value, column in zip(values, ("value", kind[1].replace(" ", "_"), "gaussian"), strict=True):
            number = value.partition(" ")[0]
            assert float(number) == round(float(str(known[column])), len(number.partition(".")[2])), (line, column)


def headings(text: str) -> set[str]:
    """Return the names by which links lead to the headings of a page."""
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)}


def test_every_link_of_a_page_leads_to_a_file_or_to_a_heading() -> None:
    links = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)]+)\)", text)]
    local = [(page, link) for page, link in links if not link.startswith("https://")]
    assert len(local) > 20
    for page, link in local:
        path, _, heading = link.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), (page, link)
        assert not heading or heading in headings(place.read_text()), (page, link)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_a_page_is_one(command: str) -> None:
    """The parser knows its options, and no shell expands one of its words."""
    assert not re.search(r"[][{}*?]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command))
    lines = [command]
    if command.startswith("make "):
        dry = subprocess.run(
            ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
        )
        lines = dry.stdout.splitlines()
    ours = [shlex.split(line)[1:] for line in lines if re.match(r"(?:\.venv/bin/)?harness ", line)]
    assert ours or command.startswith(("make test", "make lint", "make bench", "make .venv/ready", "pytest", "python"))
    for words in ours:
        read(words)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the components that a program registers."""
    for family in HOMES:
        names(family)
        monkeypatch.setitem(registry._MEMBERS, family, dict(registry._MEMBERS[family]))


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", [name for name, text in PROGRAMS.items() if not re.search("Study|Launcher", text)])
def test_every_component_of_a_page_keeps_its_promises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    load_iris(as_frame=True).data.to_parquet(tmp_path / "flowers.parquet")
    (tmp_path / f"{name}.py").write_text(PROGRAMS[name])
    components = members_of(load_plugin(tmp_path / f"{name}.py"))
    assert [promise for component in components for promise, kept in promises(component) if not kept] == []
    assert components


@pytest.mark.parametrize("name", [name for name, text in PROGRAMS.items() if "Study" in text])
def test_every_study_of_a_page_can_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(PROGRAMS[name])
    assert load_study(str(tmp_path / f"{name}.py")).question.endswith("?")


@pytest.mark.usefixtures("registered")
def test_readmes_own_study_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its two commands as written, with its two files, but fewer and smaller trainings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    for name in ("my_weighting", "my_study"):
        (tmp_path / f"{name}.py").write_text(PROGRAMS[name])
    own = [shlex.split(line)[1:] for line in COMMANDS if line in README and "my_" in line]
    assert [words[0] for words in own] == ["ablate", "check"]
    assert main(own[1]) == 0
    trained = ["backbone.channels=8", "train.batch_size=8", "train.steps=4", "train.warmup_steps=1"]
    judged = ["evaluate.nfe=[32]", "evaluate.num_samples=8", "evaluate.more_samples=[]"]
    changes = [word for change in [*trained, *judged] for word in ("--set", change)]
    assert main([*own[0], "--seeds", "1", "--workers", "1", *changes]) == 0
    assert "linear" in capsys.readouterr().out


def _folder_of_pictures(folder: Path) -> None:
    """Write 40 pictures of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 20, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        place = folder / "my_pictures" / ("cat", "dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{i}.png")


def _flowers(folder: Path) -> None:
    """Write scikit-learn's 150 irises."""
    flowers = load_iris(as_frame=True)
    flowers.data.assign(species=flowers.target_names[flowers.target]).to_csv(folder / "flowers.csv", index=False)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "write"), [("my_pictures", _folder_of_pictures), ("flowers.csv", _flowers)])
def test_the_commands_for_small_data_train_and_are_judged(
    path: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unmeasured: None
) -> None:
    """As written, without a download, but for two steps of training and one NFE."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it downloads"))
    write(tmp_path)
    commands = [line for line in COMMANDS if line in PAGES["docs/data.md"] and "num_reference=null" in line]
    known = [shlex.split(line)[1:] for line in commands if f'"{path}"' in line]
    (words,) = known
    short = ("train.steps=2", "train.warmup_steps=1", "train.sample_every=2", "evaluate.nfe=[2]")
    assert main([*words, *(word for change in short for word in ("--set", change))]) == 0
    (run,) = (tmp_path / "results" / "local" / "runs").iterdir()
    assert main(["evaluate", str(run)]) == 0
    (found,) = (run / "evaluations").glob("*.json")
    assert {*json.loads(found.read_text())["values"]} >= {"sliced_wasserstein", "mmd", "energy"}


def test_the_check_gives_its_first_two_commands_in_their_order() -> None:
    commands = re.findall(r"^    (make .+)$", README, re.MULTILINE)[:2]
    assert commands == ["make ablation STUDY=weighting", "make test"]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    first, second = (next(i for i, line in enumerate(lines) if line.startswith(command)) for command in commands)
    assert first < second < next(i for i, line in enumerate(lines) if "git status" in line and i > second)


def test_the_licence_is_the_whole_text_of_apache_2_and_its_field_says_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["license"], citation["authors"]) == (project["license"], project["authors"])


def test_the_changelog_has_the_versions_of_the_numbers() -> None:
    for name, version in VERSIONS.items():
        assert f"\n| `{name.upper()}` {version} | " in PAGES["CHANGELOG.md"]
