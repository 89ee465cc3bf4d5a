"""The recorded machine and code if the system does not name them."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.core import provenance
from harness.core.provenance import commit, machine, named

HASH = "7921be1537eac1e97bc40179a57f0349c2aee67d"
"""The commit of PEP 610's first example."""


@pytest.mark.parametrize(
    ("source", "state"),
    [
        (None, "flow-ablation 9.8"),
        ({"url": "https://x/y.zip", "archive_info": {"hash": "sha256=2dc6"}}, "flow-ablation 9.8"),
        (
            {"url": "https://x/y.git", "vcs_info": {"vcs": "git", "requested_revision": "1.3", "commit_id": HASH}},
            HASH[:12],
        ),
        ({"url": "file:///home/user/project", "dir_info": {"editable": True}}, "flow-ablation 9.8 (editable)"),
    ],
)
def test_without_git_the_installation_says_what_the_code_is(
    source: dict[str, Any] | None, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the file that PEP 610 specifies. An editable installation may have been changed."""
    about = tmp_path / "flow_ablation-9.8.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flow-ablation\nVersion: 9.8\n")
    if source:
        (about / "direct_url.json").write_text(json.dumps(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit.__wrapped__() == state


def test_a_repository_around_an_environment_is_not_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody's project, whose environment holds the installed code untracked."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "harness" / "core" / "provenance.py"))
    monkeypatch.setattr(provenance, "DISTRIBUTION", "no-such-distribution")
    (tmp_path / "mine.py").touch()
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@host"]
    for words in (["init", "--quiet"], ["add", "mine.py"], ["commit", "--quiet", "--message", "mine"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert commit.__wrapped__() == "unknown"


def test_code_that_is_not_installed_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "DISTRIBUTION", "no-such-distribution")
    assert (commit.__wrapped__(), provenance.version()) == ("unknown", "unknown")


def test_a_sentence_calls_only_commits_so() -> None:
    assert named(["abc", "def-dirty"]) == "commit abc, def-dirty"
    assert named(["abc", "def"], " or ") == "commit abc or def"
    assert named(["flow-ablation 0.1.0"]) == "flow-ablation 0.1.0"
    assert named([]) == "commit none"


def test_a_processor_without_a_name_is_recorded_by_its_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other systems have no list of processors, and the list of ARM has no names."""
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(provenance, "Path", lambda _: tmp_path / "cpuinfo")
    assert machine.__wrapped__()["processor"] == platform.machine()
    for text, processor in (
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.machine()),
        ("processor\t: 0\nmodel name\t: Cray-1 at 80 MHz\n", "Cray-1 at 80 MHz"),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        assert machine.__wrapped__()["processor"] == processor
