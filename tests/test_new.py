"""`harness new`: its files work at once, pass their tests, and replace nothing."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.design.study import load_scale
from harness.cli import main, train
from harness.cli.arguments import FAMILIES, read
from harness.core import registry
from harness.core.registry import HOMES, names

KINDS = [("component", family) for family in FAMILIES] + [(kind, kind) for kind in ("dataset", "metric", "study")]


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
    assert f"pytest -n 0 {tmp_path / f'test_{name}.py'}" in said
    assert own_tests(tmp_path / f"test_{name}.py") == 1
    if kind == "study":
        return
    assert main(["check", str(place)]) == 0
    _, *words = shlex.split(said.splitlines()[-1])
    options = read(words)
    config, _ = train._asked(options)
    assert config != load_scale(options.scale)


def tools(said: str) -> set[str]:
    return {shlex.split(line)[0] for line in said.splitlines() if line.startswith("  ")}


@pytest.mark.slow
def test_the_next_commands_run_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They name the folder of this environment's commands, unless the shell finds the same commands by name."""
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", os.defpath)
    assert main(["new", "component", "my_first", "--out", str(tmp_path / "my files")]) == 0
    said = capsys.readouterr().out
    assert {Path.cwd() / tool for tool in tools(said)} == {folder / "harness", folder / "pytest"}
    line = next(line for line in said.splitlines() if "pytest" in line.split()[0])
    ended = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert (ended.returncode, "1 passed" in ended.stdout) == (0, True), ended.stdout
    monkeypatch.chdir(folder.parent)
    assert main(["new", "component", "my_second", "--out", str(tmp_path)]) == 0
    assert tools(capsys.readouterr().out) == {f"{folder.name}/harness", f"{folder.name}/pytest"}
    monkeypatch.setenv("PATH", str(folder))
    assert main(["new", "component", "my_third", "--out", str(tmp_path)]) == 0
    assert tools(capsys.readouterr().out) == {"harness", "pytest"}


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
