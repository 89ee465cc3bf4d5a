"""The list that `make` prints: every target, with the options of its recipe."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


def listed() -> tuple[dict[str, str], dict[str, str]]:
    """Return {target: its line} and {option: its line}, as `make` alone prints them."""
    made = ["make", "--no-print-directory"]  # inside `make test`, make would print the names of folders
    said = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets, options = said.split("\n\n")
    return (
        {line.split()[1]: line for line in targets.splitlines()},
        {line.split()[0]: line for line in options.splitlines()[1:]},
    )


def recipes() -> dict[str, str]:
    """Return {target: its recipe, with the variables that contain options expanded}."""
    shared = dict(re.findall(r"^([A-Z]+) = (.*)$", MAKEFILE, re.MULTILINE))
    found = {}
    for block in MAKEFILE.partition("\n.PHONY:")[2].split("\n\n"):
        if target := re.search(r"^([a-z-]+):", block, re.MULTILINE):
            found[target[1]] = re.sub(r"\$\(([A-Z]+)\)", lambda name: shared.get(name[1], name[0]), block)
    return found


def test_every_target_that_users_call_is_listed() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert [*listed()[0]] == phony.split()


def test_a_target_names_the_options_that_its_recipe_uses() -> None:
    targets, options = listed()
    using = recipes()
    named = {target: set(line.rpartition(": ")[2].split()) & options.keys() for target, line in targets.items()}
    assert named == {target: {option for option in options if f"$({option})" in using[target]} for target in targets}
    assert {"STUDY", "PAPER", "SCALE", "SEEDS", "FORMAT", "SET", "PLUGIN"} == named["table"]
    assert set().union(*named.values()) == options.keys() - {"PYTHON"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ablation SEED=5", "SEED is not an option of `make ablation`, which has: STUDY SCALE SEEDS"),
        ("fuzz SEED=5", ""),
        ("table PAPER=tong2024_table5 SET=a=1", "A published table takes no STUDY and no SET"),
        ("table PAPER=tong2024_table5 SCALE=digits FORMAT=csv", ""),
        ("table FORMAT=csv", "Name a table, like make table STUDY=weighting"),
        ("ablation STUDY=weighting SET=a=1 HARNESS_DATA=x PYTHON=python3.12", ""),
        ("STUDY=weighting", "STUDY is not an option of `make help`, which has: none"),
    ],
)
def test_an_option_of_another_target_is_refused(words: str, said: str) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    made = subprocess.run(
        ["make", "-n", *words.split()], cwd=ROOT, capture_output=True, text=True, check=False, env=alone
    )
    assert (made.returncode, said in made.stderr) == (2 if said else 0, True)


def test_an_option_shows_its_default() -> None:
    options = listed()[1]
    for name, default in re.findall(r"^([A-Z]+) \?= (.+)$", MAKEFILE, re.MULTILINE):
        assert options[name].endswith(f" (default: {default})")
