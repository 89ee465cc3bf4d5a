"""A command's files are complete before anything about them is printed, whatever happens to the output."""

from __future__ import annotations

import contextlib
import errno
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.ablation.execute.toy import Combination
from harness.ablation.report import gallery, toy
from harness.cli import main, plans
from harness.core.config import to_dict
from harness.core.files import results_folder, write_json
from harness.evaluation.protocol import Protocol
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import judge_of


class Refusing(io.StringIO):
    """An output that accepts nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def refused(*command: str) -> bool:
    """Whether a command ends as it should when its output fails."""
    with contextlib.redirect_stdout(Refusing()):
        return main(command) == 2


def test_pictures(tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a formulation, of a study's arms, of data and of a lineage."""
    run = Run.of(tiny)
    write_json(run.folder / "config.json", to_dict(tiny))
    monkeypatch.setattr("harness.runs.lineage.lineage", lambda run: [SimpleNamespace(title="[/b]", facts=[], place="")])
    monkeypatch.setattr("harness.runs.lineage.draw", lambda links, path: path.touch())
    monkeypatch.setattr("harness.runs.lineage.described", lambda link: link.title)
    for number, command in enumerate(("explain", "explain time_sampler", "data moons", f"lineage {run.name}")):
        path = tmp_path / f"{number}.png"
        assert refused(*command.split(), "--out", str(path)), command
        assert path.exists(), command


def test_reports(tiny: RunConfig, score: Any, tmp_path: Path) -> None:
    """The files of reports."""
    arms: dict[str, dict[str, Any]] = {"a": {}, "b [/b]": {"weighting": "data_end"}}
    study = Study(name="toy", question="Which?", baseline="a", arms=arms, nfe=2, smallest_difference=0.05, looks=(3,))
    plan = Plan.of(study, "digits", tiny, {}, 2, [])
    for arm, seed in plan.trials():
        score(plan.run(arm, seed), plan.protocol(arm), {1: 9.0 + seed, 2: 7.0 + seed})

    def more() -> list[Path]:
        (tmp_path / "more.png").touch()
        return [tmp_path / "more.png"]

    with pytest.raises(OSError, match="No space left"):
        plans.report(plan, judge_of(plan.arms["a"]), tmp_path, "a command", Console(file=Refusing()), more=more)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if "results" not in path.parts}
    tables = {f"tables/toy-digits{ending}" for ending in ("-seeds.csv", ".csv", ".json", ".md")}
    assert found == {*tables, "figures/toy-digits.png", "more.png"}


def test_the_toy_and_the_gallery(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Combination("moons", "linear", "edm", 0.5, torch.zeros(2, 3, 2), "abc")
    monkeypatch.setattr("harness.cli.toy.combinations", lambda stop: [made])
    monkeypatch.setattr("harness.cli.toy.StopSignal", lambda: None)
    monkeypatch.setattr("harness.cli.toy.real_distances", lambda: {"moons": 0.1})
    own = results_folder() / "local"
    assert refused("toy")
    assert all((own / name).is_file() for name in toy.FILES)

    protocol: Protocol = tiny.protocol()
    ended = ("digits", Run.of(tiny), SimpleNamespace(protocol=protocol))
    monkeypatch.setattr("harness.cli.gallery._runs", lambda options, console: [ended])
    monkeypatch.setattr(gallery, "rows", lambda *_: [("digits", "fid", 1, 1.0, 1.0, 1.0, 1.0)])
    monkeypatch.setattr(gallery, "about", lambda *_: {"run": "x"})
    monkeypatch.setattr(gallery, "copy_picture", lambda *_: None)
    assert refused("gallery", "digits")
    assert (own / "tables" / "gallery.csv").is_file()
