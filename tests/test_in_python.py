"""`harness.run_study`: the same study as on the command line, with tables and figures; it restores the process's
settings.
"""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from harness import Study, run_study
from harness.cli import main
from harness.components.weightings import Weighting
from harness.core import registry
from harness.core.errors import UserError
from harness.core.files import results_folder
from harness.core.signals import StopSignal
from harness.runs.config import RunConfig

ARMS: dict[str, dict[str, Any]] = {"a": {}, "x & <y>": {"weighting": "data_end"}}
STUDY = Study(name="mine", question="Which <end>?", baseline="a", arms=ARMS, nfe=2, looks=(4, 6))
VALUES = {"a": [10.0, 11.0, 12.0, 10.5], "x & <y>": [5.0, 5.4, 6.3, 5.2]}
MINE = """from dataclasses import dataclass

from harness.components.weightings import Weighting


@dataclass(frozen=True, kw_only=True)
class Mine(Weighting, name="mine_in_a_file"):
    def weight(self, t, interpolant):
        return 1 + t
"""
SCRIPT = """from harness import Study, run_study

study = Study(name="scripted", question="?", baseline="a", arms={"a": {}, "b": {"weighting": "mine_in_a_file"}}, nfe=2)
changes = {"train.steps": 4, "evaluate.num_samples": 50, "evaluate.nfe": [2], "evaluate.metrics": ["energy"]}
report = run_study(study, "points", seeds=1, workers=2, changes=changes, plugins=["mine.py"])
print("values", *report.values.value)
"""


@pytest.fixture
def launched(tiny: RunConfig, score: Any, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> list[str]:
    """Make studies of the digits scale train `tiny` and end without training; returns the names of the plans. It sets
    threads and requests a stop, as a command would.
    """
    names = list[str]()

    def run(board: Any, placement: Any, console: Any, stop: Any, report: Callable[[], Any], *_: Any) -> bool:
        names.append(board.plan.name)
        for arm, seed in board.plan.unfinished():
            value = VALUES[arm][seed]
            score(board.plan.run(arm, seed), board.plan.protocol(arm), {1: 2 * value, 2: value})
        report()
        return True

    monkeypatch.setattr("harness.cli.plans.launch", run)
    monkeypatch.setattr("harness.cli.plans.load_scale", lambda name: tiny)
    return names


def test_its_report_has_values_verdicts_figures_and_files(launched: list[str]) -> None:
    report = run_study(STUDY, workers=1)
    values = report.values.query("metric == 'fid' and nfe == 2").pivot(index="seed", columns="arm", values="value")
    assert {arm: values[arm].tolist() for arm in ARMS} == VALUES
    found = report.verdicts.loc["x & <y>"]
    logs = [np.log(VALUES[arm]) for arm in ("x & <y>", "a")]
    expected = stats.ttest_rel(*logs).confidence_interval(1 - found.level)
    assert [found.low, found.high] == pytest.approx([np.expm1(expected.low), np.expm1(expected.high)])
    assert found.difference == pytest.approx(np.expm1(np.mean(logs[0] - logs[1])))
    assert report.verdicts.verdict.to_dict() == {"a": "baseline", "x & <y>": "better"}
    assert isinstance(report.figures["mine-digits"], Figure)
    folder = results_folder() / "local"
    endings = ("tables/mine-digits.md", "tables/mine-digits.csv", "tables/mine-digits.json")
    expected_paths = [*endings, "tables/mine-digits-seeds.csv", "figures/mine-digits.png", "reports/mine-digits.html"]
    assert report.paths == tuple(folder / path for path in expected_paths)
    assert all(path.is_file() for path in report.paths)
    assert "harness.run_study(mine, scale='digits')" in report.paths[0].read_text()


def test_a_notebook_shows_it(launched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = run_study(STUDY, workers=1)
    page = report._repr_html_()
    assert "<h3>Which &lt;end&gt;?</h3>" in page
    assert "x &amp; &lt;y&gt;" in page
    assert "<y>" not in page
    assert page.count('<img src="data:image/png;base64,iVBOR') == 1
    text = report._repr_markdown_()
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", text)
    (drawn,) = (path for path in report.paths if path.suffix == ".png")
    assert Path(picture).samefile(drawn)
    lines = repr(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split()[-1] == "better"


def test_it_is_the_study_of_the_command_line(
    launched: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same changes give the same names, from a study's file or from memory."""
    (file := tmp_path / "mine.py").write_text(
        f"from harness import Study\n\nSTUDY = Study(question={STUDY.question!r}, baseline='a', arms={ARMS}, nfe=2, "
        "looks=(4, 6))\n"
    )
    words = ["--set", "train.steps=9", "--set", "weighting=edm", "--set", "evaluate.nfe=[1,2]"]
    changes = {"train.steps": 9, "weighting": "edm", "evaluate.nfe": [1, 2]}
    arms = {"a": {"time_sampler": "uniform"}, "x & <y>": {"time_sampler": "logit_normal"}}
    file.write_text(file.read_text().replace(str(ARMS), str(arms)))
    assert main(["ablate", str(file), "--workers", "1", *words]) == 0
    made = [run_study(file, workers=1, changes=changes)]
    made += [run_study(dataclasses.replace(STUDY, arms=arms), workers=1, changes=changes)]
    assert len(set(launched)) == 1, launched
    assert {report.found.plan.digest for report in made} == {made[0].found.plan.digest}
    assert made[0].command.startswith(f"harness ablate {file} ")
    assert {**made[1].found.plan.changes} == {"train.steps": "9", "weighting": "edm"}


def test_a_process_goes_on_as_before(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers and threads are restored, and the requested stop is over."""
    heard = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr("harness.cli.plans.usable_cores", lambda: 3)
    threads = list[int]()

    def stopped(*_: Any) -> None:
        threads.append(torch.get_num_threads())
        stop = StopSignal()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        raise UserError("stopped")

    monkeypatch.setattr("harness.cli.plans.launch", stopped)
    with pytest.raises(UserError, match=r"^stopped$"):
        run_study(STUDY, workers=1)
    assert threads == [3]
    assert torch.get_num_threads() == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == heard
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["", "../mine", "Mine", "a b"])
def test_a_study_needs_a_name_that_is_valid_for_a_file(name: str) -> None:
    with pytest.raises(UserError, match=rf"^name: '{name}' cannot name the files of a study\. Write it like Study"):
        run_study(dataclasses.replace(STUDY, name=name))


def test_a_mistake_is_reported_before_any_training(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    members = {family: dict(own) for family, own in registry._MEMBERS.items()}
    monkeypatch.setattr(registry, "_MEMBERS", members)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Typed(Weighting, name="typed_in"):
        def weight(self, t: torch.Tensor, interpolant: Any) -> torch.Tensor:
            return 1 + t

    arms = {"a": {}, "b": {"weighting": "typed_in"}}
    where = (
        rf"weighting 'typed_in': .* cannot load its class \({re.escape(__file__)}, line \d+\)\. .*plugins=\['mine.py'\]"
    )
    with pytest.raises(UserError, match=where):
        run_study(dataclasses.replace(STUDY, arms=arms))
    with pytest.raises(UserError, match=r"^until: seeds=4 already sets the last look"):
        run_study(STUDY, seeds=4, until="decided")
    with pytest.raises(UserError, match=r"^until: 'done' is not a choice\. Pass 'decided'"):
        run_study(STUDY, until="done")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^workers: 0 is outside \[1, 1024\]"):
        run_study(STUDY, workers=0)
    with pytest.raises(UserError, match=r"'weightin' is not a known study\. Did you mean 'weighting'"):
        run_study("weightin")
    said = list[UserError]()

    def elsewhere() -> None:
        with pytest.raises(UserError, match="Call it from the main thread") as caught:
            run_study(STUDY)
        said.append(caught.value)

    (thread := threading.Thread(target=elsewhere)).start()
    thread.join()
    assert len(said) == 1
    assert launched == []


@pytest.mark.slow
def test_a_script_needs_no_guard_and_brings_its_components_in_a_file(tmp_path: Path, isolated: None) -> None:
    """Workers neither run the script nor import from its folder."""
    for name, text in {"script.py": SCRIPT, "mine.py": MINE, "secrets.py": "raise SystemExit('here')\n"}.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-P", "script.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("values ")]
    assert len(line.split()) == 3
