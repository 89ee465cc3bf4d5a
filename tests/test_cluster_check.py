"""`harness cluster-check`: two jobs meet in a folder, and each finding says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.ablation.execute import node_check
from harness.ablation.execute.node_check import Found
from harness.cli import cluster_check, main
from harness.cli.cluster_check import findings
from harness.core.files import results_folder, write_json
from harness.core.provenance import commit, machine

OWN = """
import subprocess, sys
from harness.ablation.execute.launchers import Launcher


class Pair(Launcher, name="pair"):
    LOOK_EVERY_S = 0.1
    running = {}

    def submit(self, numbers):
        for number in numbers:
            self.log(number).parent.mkdir(exist_ok=True)
            with open(self.log(number), "ab") as out:
                self.running[number] = subprocess.Popen(self.command(number), stdout=out, stderr=out)

    def alive(self):
        return {number for number, process in self.running.items() if process.poll() is None}

    def cancel(self):
        for process in self.running.values():
            process.kill()
"""
NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None\n"


def jobs(folder: Path, *environments: dict[str, str]) -> list[Any]:
    """Run both jobs side by side, each with more environment; return what they found."""
    write_json(folder / "check.json", {})
    words = [sys.executable, "-m", "harness.ablation.execute.node_check", str(folder / "check.json")]
    started = [subprocess.Popen([*words, str(i)], env={**os.environ, **more}) for i, more in enumerate(environments)]
    assert [process.wait(60) for process in started] == [0, 0]
    return [node_check.found(folder, number) for number in (0, 1)]


def test_two_jobs_see_each_others_locks_and_files(tmp_path: Path) -> None:
    first, second = jobs(tmp_path, {"SLURMD_NODENAME": "n1"}, {"SLURMD_NODENAME": "n2"})
    assert (first["host"], second["host"]) == ("n1", "n2")
    assert (first["excluded"], second["excluded"]) == (None, True)
    assert second["seen_after"] < 5
    assert first["linked"]
    assert second["linked"]
    assert first["commit"] == second["commit"] == commit()
    assert first["packages"]["torch"] == second["packages"]["torch"] == machine()["torch"]
    assert abs(first["skew"]) < 1


def test_locks_that_do_nothing_are_noticed(tmp_path: Path) -> None:
    (idle := tmp_path / "idle").mkdir()
    (idle / "sitecustomize.py").write_text(NO_LOCKS)
    _, second = jobs(tmp_path, {"PYTHONPATH": str(idle)}, {"PYTHONPATH": str(idle)})
    assert second["excluded"] is False


def test_a_file_system_without_hard_links_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(node_check.os, "link", refuse)
    assert node_check._links(tmp_path, 0) is False


def test_a_job_without_its_partner_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "PATIENCE_S", 0.1)
    with pytest.raises(Exception, match="the other job did not come in 0 s"):
        node_check.check(tmp_path, 1)


def found(**changed: Any) -> Found:
    usual: dict[str, Any] = {
        "host": "n1", "commit": commit(), "packages": {"torch": "2.14.1", "numpy": "2.3"}, "hardware": "A100",
        "skew": 0.1, "excluded": True, "seen_after": 0.1, "linked": True,
    }  # fmt: skip
    made: Any = usual | changed
    return made


@pytest.mark.parametrize(
    ("changed", "what", "said", "hinders"),
    [
        ({"host": "n1"}, "nodes", "Both jobs ran on one node", False),
        ({"excluded": False}, "file locks", "run local studies on one results folder from one node only", False),
        ({"seen_after": 9.0}, "replaced files", "seen after 9.0 s", False),
        ({"seen_after": None}, "replaced files", "not seen in 60 s", True),
        ({"linked": False}, "hard links", "Put the results folder on a file system with hard links", True),
        ({"commit": "abc"}, "code", "Let all nodes use the same checkout, or install the same version.", True),
        ({"packages": {"torch": "2.11"}}, "packages", "numpy 2.3 and missing; torch 2.14.1 and 2.11", True),
        ({"hardware": "H100"}, "hardware", "A100 and H100", False),
        ({"skew": -3.0}, "clock", "3.0 s from the file system's", False),
    ],
    ids=str,
)
def test_each_finding_says_what_to_do(changed: dict[str, Any], what: str, said: str, hinders: bool) -> None:
    second = found(**{"host": "n2", **changed})
    (one,) = [finding for finding in findings(found(), second) if finding.advice]
    assert one.what == what
    assert said in f"{one.found} {one.advice}"
    assert one.hinders == hinders


def test_all_is_well_on_two_like_nodes() -> None:
    assert not [finding for finding in findings(found(), found(host="n2")) if finding.advice]


def test_the_command_prints_the_findings_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugin := tmp_path / "pair.py").write_text(OWN)
    assert main(["cluster-check", "--launcher", "pair", "--plugin", str(plugin)]) == 0
    said = capsys.readouterr().out
    assert "hold on this node" in said
    assert "nothing prevents studies on these nodes" in said
    assert not [*results_folder().rglob("*.json")]
    assert main(["cluster-check"]) == 2
    assert "--launcher: name the engine whose nodes to check, like slurm." in capsys.readouterr().err
    monkeypatch.setattr(cluster_check.node_check, "found", lambda *_: None)
    assert main(["cluster-check", "--launcher", "pair", "--plugin", str(plugin)]) == 2
    assert "both jobs have ended without a result." in capsys.readouterr().err
