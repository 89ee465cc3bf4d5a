"""Standard output and error that accept nothing, or whose reader is gone: the work continues, and
files are complete.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.core.streams import Outlet

HARNESS = [sys.executable, "-m", "harness"]
FULL = Path("/dev/full")


def test_refused_output_is_dropped_and_only_a_full_disk_is_remembered() -> None:
    """A pipe whose reader is gone, and a terminal that was closed."""
    for reading, writing in (os.pipe(), os.openpty()):
        with Outlet(writing, "wb") as outlet:
            assert outlet.write(b"abc") == 3
            os.close(reading)
            assert outlet.write(b"abcd") == 4
            assert outlet.refused is None
    if FULL.exists():
        with Outlet(FULL, "wb") as full:
            assert full.write(b"abcd") == 4
            assert full.refused
            assert full.refused.strerror == "No space left on device"


def test_a_pipe_that_others_made_non_blocking_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    content = bytes(300_000)  # more than a pipe holds
    taken: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as file:
            taken.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    with io.BufferedWriter(Outlet(writing, "wb")) as file:
        file.write(content)
    reader.join()
    assert taken == [content]


SAYS = """
import os, sys
os.close(1) if "closed" in sys.argv else None
from harness.core.streams import steady
output = steady()
if "closed" in sys.argv:
    with open(sys.argv[1], "w") as file:
        print("said to nobody", flush=True)
print("before \\u2193 \\udcff after \\xe9")
print("before \\u2193 \\udcff after", file=sys.stderr)
output.require_whole()
"""
"""Prints an arrow, part of a file name that is not UTF-8, and a Latin-1 letter."""


def test_characters_that_cannot_be_encoded_are_replaced() -> None:
    for encoding, said in (
        ("ascii", b"before ? ? after ?\n"),
        ("latin-1:strict", b"before ? ? after \xe9\n"),
        ("utf-8", b"before \xe2\x86\x93 ? after \xc3\xa9\n"),
        ("cp1252", b"before ? ? after \xe9\n"),
    ):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        ended = subprocess.run([sys.executable, "-c", SAYS, "now"], env=environment, capture_output=True, check=True)
        assert ended.stdout == said, encoding
        assert ended.stderr.startswith(b"before ")
        assert b"\\udcff after" in ended.stderr


def test_a_closed_output_is_discarded_and_no_file_gets_its_number(tmp_path: Path) -> None:
    path = tmp_path / "file"
    ended = subprocess.run([sys.executable, "-c", SAYS, str(path), "closed"], capture_output=True, check=True)
    assert (path.read_bytes(), ended.stdout) == (b"", b"")


WORKER = """
import multiprocessing, sys, types
from pathlib import Path
from harness.ablation.execute import forks
def work(plan, stop):
    print("x" * 100_000)
    print("said on standard error", file=sys.stderr)
sys.modules["harness.ablation.execute.worker"] = types.SimpleNamespace(main=work)
given = Path("plan"), Path(sys.argv[1]), Path.cwd(), {}
process = multiprocessing.get_context("fork").Process(target=forks._begin, args=given)
process.start()
process.join()
sys.exit(process.exitcode)
"""


def test_a_worker_whose_log_takes_nothing_works_on() -> None:
    """The disk is full."""
    log = str(FULL) if FULL.exists() else os.devnull
    assert subprocess.run([sys.executable, "-c", WORKER, log]).returncode == 0


def test_a_reader_that_has_gone_ends_nothing() -> None:
    """Neither the help nor an error fails, and there is no message about it."""
    for command, code in (("--help", 0), ("trian", 2)):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run([*HARNESS, *command.split()], stdout=writing, stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert ended.returncode == code, command
        assert ("" if code == 0 else "no such command") in ended.stderr
        assert "Broken" not in ended.stderr, command


def test_commands_run_with_every_stream_closed() -> None:
    for closed in (">&-", ">&- 2>&- <&-"):
        ended = subprocess.run(["sh", "-c", f"'{sys.executable}' -m harness --help {closed}"], capture_output=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b""), closed


ANNOUNCING = """
import sys
from harness.core.streams import announce, steady, unannounce
steady()
announce("loading ...")
if sys.argv[1:]:
    print(*sys.argv[1:], flush=True)
else:
    unannounce()
"""


def on_a_terminal(*words: str) -> tuple[bytes, bytes]:
    """Return the output of a process with an announcement, to a pipe and to the terminal that is its standard error."""
    reading, writing = os.openpty()
    ended = subprocess.run([sys.executable, "-c", ANNOUNCING, *words], stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    shown = os.read(reading, 1000)
    os.close(reading)
    return ended.stdout, shown


def test_an_announcement_stays_on_a_terminal_until_the_next_output() -> None:
    blank = b" " * len("loading ...")
    assert on_a_terminal("found") == (b"found\n", b"loading ...\r" + blank + b"\r")
    assert on_a_terminal() == (b"", b"loading ...\r" + blank + b"\r")


def test_nothing_is_announced_in_a_log() -> None:
    ended = subprocess.run([sys.executable, "-c", ANNOUNCING, "found"], capture_output=True)
    assert (ended.stdout, ended.stderr) == (b"found\n", b"")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_is_reported_at_the_end(tmp_path: Path) -> None:
    """This includes the help; an error that cannot be shown does not change the exit code."""
    with open(FULL, "w") as full:
        ended = subprocess.run([*HARNESS, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
        line = "error: standard output: No space left on device. What was done is kept; mend it, then run the same"
        assert (ended.returncode, ended.stderr) == (2, f"{line} command again.\n")
        assert subprocess.run([*HARNESS, "trian"], stderr=full).returncode == 2


@pytest.mark.slow
def test_a_study_whose_reader_has_gone_writes_its_tables(tmp_path: Path, empty_store: Path) -> None:
    """On a terminal without arrows, with names that look like markup."""
    study = tmp_path / "mine.py"
    study.write_text(
        "from harness.ablation.design.study import Study\n"
        "ARMS = {'plain': {}, 'b \\u2192 [/b]': {'weighting': 'min_snr'}}\n"
        "STUDY = Study(name='mine', question='\\u2193?', baseline='plain', arms=ARMS, looks=(3,), nfe=1)\n"
    )
    settings = {
        "train.steps": 4, "train.batch_size": 32, "train.warmup_steps": 1, "backbone.channels": 8,
        "backbone.groups": 4, "evaluate.nfe": [1], "evaluate.num_samples": 64, "train.device": "cpu",
    }  # fmt: skip
    changes = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    local = Path(os.environ["HARNESS_RESULTS"]) / "local"
    local.mkdir(parents=True)
    shutil.copy(empty_store, local / "mlflow.db")
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*HARNESS, "ablate", str(study), "--workers", "1", *changes],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
    names = sorted(path.name for path in (local / "tables").iterdir())
    stem = names[-1].removesuffix(".md")  # including the digits of its changes
    assert names == [f"{stem}{ending}" for ending in ("-seeds.csv", ".csv", ".json", ".md")]
    assert stem.startswith("mine-digits-")
