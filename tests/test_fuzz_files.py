"""Hypothesis over files: with any damage to data or to finished runs, commands end as promised."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_files import KINDS, Made
from hostile import Damage, as_options, damages, shares
from hypothesis import given
from hypothesis import strategies as st
from orderly import content, examples, held, laboratory, results, run

LAZY = ("pictures", "zip", "latents")
"""Kinds whose files are read during training."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with laboratory(tmp_path_factory.mktemp("files")) as folder:
        yield folder


def files(folder: Path) -> list[Path]:
    """Return the files to damage: all except locks."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "mlflow.db"))


def test_data(lab: Path) -> None:
    """Data of every kind."""
    made: dict[str, Made] = {}
    for kind, make in KINDS.items():
        (lab / "good" / kind).mkdir(parents=True)
        made[kind] = make(lab / "good" / kind)

    @examples(50)
    @given(st.sampled_from(sorted(KINDS)), shares, damages)
    def train(kind: str, which: float, damage: Damage) -> None:
        scale, typed = made[kind]
        with results() as folder:
            own = folder / "data"
            shutil.copytree(lab / "good" / kind, own)
            found = files(own)
            damage(found[int(which * (len(found) - 1))])
            there = [each.replace(str(lab / "good" / kind), str(own)) for each in typed]
            held(folder, "train", "--scale", scale, *as_options(there), lazily=kind in LAZY)

    train()


def finished() -> dict[str, str]:
    """Return {weighting, or student of the even one: run}: three judged and compared runs in the present results
    folder.
    """
    made = {"even": [], "min_snr": ["weighting=min_snr"], "student": ["reflow.rounds=1"]}
    names = {}
    for name, typed in made.items():
        trained = run("train", "--scale", "points", *as_options(typed))
        names[name] = trained.out.split()[-2].rstrip(":")
        assert run("evaluate", names[name]).code == 0
    assert run("table", "two", "--scale", "points").code == 0
    return names


def test_runs(lab: Path) -> None:
    """One damaged file costs at most its run."""
    with results() as folder:
        names = finished()
        shutil.copytree(folder, lab / "finished")
    even, student = names["even"], names["student"]
    commands = {
        ("train", "--scale", "points"): [even],
        ("train", "--scale", "points", "--set", "reflow.rounds=1"): [even, student, "pairs"],
        ("evaluate", even): [even],
        ("evaluate", student, "--set", "evaluate.nfe=[1]"): [student],
        ("sample", student, "--number", "4", "--nfe", "2", "--out", "x.npz"): [],
        ("lineage", student): [],
        ("lineage", student, "--out", "x.png"): [],
        ("table", "two", "--scale", "points"): ["tables", "figures", "reports", "references", "index"],
        ("publish", "two", "--scale", "points"): ["references", "index"],
        ("reflow", even, "--workers", "1"): ["references", "index"],
    }
    known = files(lab / "finished")
    facts = [path for path in known if path.suffix in (".json", ".jsonl")]

    @examples(25)
    @given(st.data(), st.sampled_from(facts) | st.sampled_from(known), damages)
    def use(data: st.DataObject, path: Path, damage: Damage) -> None:
        near = [words for words, its in commands.items() if {*words, *its} & {*path.parts}]
        command = data.draw(st.sampled_from(near or [*commands]) | st.sampled_from([*commands]))
        with results(lab / "finished") as folder:
            own = folder / path.relative_to(lab / "finished")
            damage(own)
            before = content(folder)
            held(folder, *command)
            after = content(folder)
            for name, kept in before.items():
                its = name == str(own.relative_to(folder)) or any(part in name.split("/") for part in commands[command])
                assert its or after.get(name) == kept, name

    use()
