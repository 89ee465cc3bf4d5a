import errno
import fcntl
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from harness.core.appending import Lines
from harness.core.errors import UserError
from harness.core.fence import hold
from harness.core.files import (
    LEFT_S,
    NO_LOCKS,
    drop_torn_line,
    last_line,
    locked,
    npz,
    read_json,
    read_json_if_there,
    read_lines,
    remove_leftovers,
    short_hash,
    write_all,
    write_atomic,
    write_json,
)

HOLD = """
import pathlib, sys, time
from harness.core.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "below" / "file"
    write_atomic(path, "old")

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_line_that_does_not_fit_on_the_disk_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with Lines(path) as lines, open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), lines._file.fileno())
        with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
            lines.add({"step": 1})


def test_a_write_of_the_system_may_write_only_a_part() -> None:
    written: list[bytes] = []

    def write(content: memoryview) -> int:
        written.append(bytes(content[:3]))
        return len(written[-1])

    write_all(Mock(write=write), np.arange(8, dtype=np.uint8).reshape(2, 4).data)
    assert b"".join(written) == bytes(range(8))
    assert len(written) == 3


@pytest.mark.parametrize("content", [None, b"", b"1\n", b"1\n2", b"1"])
def test_lines_begin_with_the_complete_lines_and_earlier_writers_reach_them_no_more(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "lines"
    if content is not None:
        path.write_bytes(content)
    with Lines(path) as old:
        whole = b"1\n" if content and b"1\n" in content else b""
        assert path.read_bytes() == whole
        old.add(2)
        with Lines(path) as new:
            old.add(3)
            new.add(4)
            new.sync()
    assert path.read_bytes() == whole + b"2\n4\n"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Behind a fence, the work goes on; any other error of a lock is raised as it is."""
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, "no locks")))
    path = tmp_path / "lock"
    with pytest.raises(UserError, match=rf"^{path}: its file system has no file locks \(no locks\), "), locked(path):
        pass
    with hold(tmp_path / "owner.json", {"job": "1"}), locked(path) as ours:
        assert ours
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"), hold(tmp_path / "owner.json", {"job": "1"}), locked(path):
        pass


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice for a damaged file is to remove it, which would lose the content."""

    def forbid(path: Path, *_: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("harness.core.files.bytes_of", forbid)
    with pytest.raises(PermissionError):
        read_json(tmp_path / "value.json")


def test_a_value_that_json_cannot_hold_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_damaged_json_is_reported_to_the_user(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"value\.json: cannot be read"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"", b""), (b"one\n", b"one\n"), (b"one\ntw", b"one\n"), (b"on", b""), (b"one\ntwo\n", b"one\ntwo\n")],
)
def test_a_torn_line_is_cut_off(tmp_path: Path, content: bytes, kept: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    drop_torn_line(path)
    assert path.read_bytes() == kept


def test_readers_ignore_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert (read_lines(path), last_line(path)) == ([], None)
    path.write_text('{"step": 1')
    assert (read_lines(path), last_line(path)) == ([], None)
    lines = [{"step": step, "text": "x" * 100} for step in range(200)]  # more than last_line reads at once
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')
    assert read_lines(path) == lines
    assert read_lines(path, start=198) == lines[198:]
    assert last_line(path) == lines[-1]


def test_a_text_with_a_name_in_no_encoding_is_written(tmp_path: Path) -> None:
    """The command in a table contains paths; half of a two-byte letter, and half of a UTF-16 pair, are
    not valid UTF-8.
    """
    for text, content in (("s\udce9rie", b"s\\udce9rie"), ("\ud83d", b"\\ud83d"), ("é", b"\xc3\xa9")):
        write_atomic(tmp_path / "table.md", text)
        assert (tmp_path / "table.md").read_bytes() == content


def test_leftovers_go_and_files_stay(tmp_path: Path) -> None:
    """Young temporary files also stay, because another process, perhaps of another host, may be writing them."""
    (tmp_path / "below").mkdir()
    old = time.time() - LEFT_S - 60
    for name in ("kept", "below/kept", ".torn.host-1.part", "below/.torn.host-2.part", ".new.host-3.part", ".hidden"):
        (tmp_path / name).touch()
        if "new" not in name:
            os.utime(tmp_path / name, (old, old))
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".hidden", ".new.host-3.part", "below", "kept", "kept"]


def test_processes_with_one_number_write_to_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts may give the same number to a process."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names = set[str]()
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        names.add(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    for _ in range(20):
        write_atomic(tmp_path / "one", "text")
    assert len(names) == 20
    assert all(name.startswith(f".one.{os.uname().nodename[:16]}-") for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_lock_excludes_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with locked(path, wait=False) as ours:
            assert not ours
        holder.kill()
        holder.wait()
    with locked(path, wait=False) as ours:
        assert ours


def test_an_absent_json_file_gives_no_message(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    assert read_json_if_there(path) == {}
    write_json(path, {"a": [1]})
    assert read_json_if_there(path) == {"a": [1]}


def test_a_short_hash_is_the_beginning_of_sha256(tmp_path: Path) -> None:
    """For "abc": the example of FIPS 180-4, appendix B.1."""
    assert short_hash(b"abc") == "ba7816bf8f01"
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    with open(path, "rb") as file:
        assert short_hash(file) == "ba7816bf8f01"


def test_arrays_survive_npz() -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "names": np.array(["x", "yz"])}
    with np.load(io.BytesIO(npz(arrays)), allow_pickle=False) as again:
        assert set(again) == {"a", "names"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array)


def test_a_line_that_names_an_entry_twice_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that are read at once meet the same rules as a line by itself."""
    for colon in (":", " :", "\t:"):
        path = tmp_path / f"lines{len(colon)}{ord(colon[0])}.jsonl"
        path.write_text(f'{{"step": 1}}\n{{"step"{colon} 2, "step": 3}}\n{{"step": 4}}\n')
        assert read_lines(path) == [{"step": 1}, {"step": 4}]
        assert f"{path}: line 2 is damaged" in capsys.readouterr().err
