"""`harness new`: its files work at once, pass their tests, and replace nothing."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.design.study import load_scale
from harness.cli import main
from harness.cli.arguments import FAMILIES
from harness.core import registry
from harness.core.config import override
from harness.core.registry import HOMES, names
from harness.runs.validate import check

KINDS = [("component", family) for family in FAMILIES] + [(kind, kind) for kind in ("dataset", "metric", "study")]
DIGITS = ("extractor",)
"""Families whose components need images."""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget the components that a test declares."""
    before = {family: dict(registry._MEMBERS[family]) for family in HOMES if names(family)}
    yield
    for family, members in before.items():
        registry._MEMBERS[family].clear()
        registry._MEMBERS[family].update(members)


def own_tests(path: Path) -> int:
    """Run every test in a file as pytest would; return their number."""
    found = runpy.run_path(str(path))
    tests = [value for name, value in found.items() if name.startswith("test_")]
    given: list[dict[str, Any]] = [{"component": one} for one in found.get("COMPONENTS", [])] or [{}]
    for test in tests:
        for arguments in given:
            test(**arguments)
    return len(tests) * len(given)


def test_every_family_has_a_skeleton() -> None:
    assert {*FAMILIES, "dataset", "metric"} == {*HOMES}


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_the_written_file_works_at_once(
    kind: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file passes its test and `harness check`, and a run accepts it."""
    name = f"my_{family}"
    assert (
        main(["new", kind, name, "--out", str(tmp_path), *(["--family", family] if kind == "component" else [])]) == 0
    )
    said = capsys.readouterr().out
    place = tmp_path / f"{name}.py"
    assert "mine" not in place.read_text().lower()
    assert f"pytest {tmp_path / f'test_{name}.py'}" in said
    assert own_tests(tmp_path / f"test_{name}.py") == 1
    if kind == "study":
        return
    assert main(["check", str(place)]) == 0
    path, equals, value = said.rpartition("--set ")[2].strip().strip("'").partition("=")
    assert equals
    scale = load_scale("digits" if family in DIGITS else "points")
    config = override(scale, {path: ["my_metric"] if family == "metric" else value})
    check(config)
    assert config != scale


@pytest.mark.parametrize("name", ["My-Thing", "class", "2nd", "../up", "torch", "min_snr", ""])
def test_an_impossible_name_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["new", "component", name, "--out", str(tmp_path)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert "error: " in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / there).write_text("precious")
    assert main(["new", "study", "mine", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / there}: already exists" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
