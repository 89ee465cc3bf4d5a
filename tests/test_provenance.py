"""The recorded machine and code if the system does not name them."""

import platform
from pathlib import Path

import pytest

from harness.core import provenance
from harness.core.provenance import commit, machine


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit.__wrapped__() == "unknown"


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
