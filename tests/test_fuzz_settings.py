"""Hypothesis over settings, studies and arguments: for any input, a command ends as promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import CODE, HEADER, arguments, as_options, assignments, searches, studies
from hypothesis import given
from hypothesis import strategies as st
from orderly import examples, held, laboratory, results

from harness.ablation.design.study import load_scale

SCALES = ("points", "points", "points", "points", "sequences", "images")


@pytest.fixture(scope="module", autouse=True)
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with laboratory(tmp_path_factory.mktemp("settings")) as folder:
        yield folder


def test_settings(lab: Path) -> None:
    """At least two in five settings are accepted and train two steps."""
    ended = Counter[Any]()
    scales = {name: load_scale(name) for name in SCALES}

    @examples(30)
    @given(st.data())
    def train(data: st.DataObject) -> None:
        scale = data.draw(st.sampled_from(SCALES))
        typed = data.draw(assignments(scales[scale]))
        with results() as folder:
            code = held(folder, "train", "--scale", scale, *as_options(typed)).code
            lines = [*folder.glob("local/runs/*/metrics.jsonl")]
            ended[code if code or not lines else "trained"] += 1

    train()
    print(ended)
    assert ended["trained"] >= 0.4 * ended.total(), ended


def test_studies(lab: Path) -> None:
    """Every command that reads a study or a search."""
    config = load_scale("points")
    code = st.sampled_from(CODE).map(f"{HEADER}\n{{}}\n".format)
    commands = ("explain", "plan", "table", "ablate", "publish")
    asked = st.one_of(
        st.tuples(st.sampled_from(commands), studies(config)),
        st.tuples(st.sampled_from(["tune", "tune", "publish"]), searches(config)),
        st.tuples(st.sampled_from([*commands, "tune"]), st.one_of(studies(config), searches(config), code)),
    )

    @examples(70)
    @given(asked)
    def read(asked: tuple[str, str]) -> None:
        command, text = asked
        with results() as folder:
            path = folder / "study.py"
            path.write_text(text, errors="surrogateescape")
            sharing = ["--workers", "1"] if command in ("ablate", "plan", "tune") else []
            held(folder, command, str(path), "--scale", "points", *sharing)

    read()


def test_arguments(lab: Path) -> None:
    """Every command except the one that serves pages."""
    given_ = [str(lab / "studies" / "two.py"), "points", "two", "rate", "absent", "x.png", "weighting=snr", "1"]

    @examples(25)
    @given(arguments(given_))
    def command(words: list[str]) -> None:
        with results() as folder:
            held(folder, *words)

    command()
