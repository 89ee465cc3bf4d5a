"""Stopping a process: the meaning of signals, waits for another process that say so and end, and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness import __main__ as command
from harness.core import files
from harness.core.errors import Stopped, guarded
from harness.core.files import locked
from harness.core.signals import StopSignal, asked_to_stop, interruptible

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the handlers; no signal may end the test session."""
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_signal_requests_an_orderly_end() -> None:
    for number in STOPS:
        stop = StopSignal()
        assert [stop(), asked_to_stop()] == [False, False]
        signal.raise_signal(number)
        assert stop(), number
        assert asked_to_stop()


def test_another_stop_condition_is_seen_by_waiting_code() -> None:
    dead: list[int] = []
    StopSignal(lambda: bool(dead))
    assert not asked_to_stop()
    dead.append(1)
    assert asked_to_stop()


def test_a_second_ctrl_c_ends_at_once_and_another_hangup_does_not() -> None:
    StopSignal()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_before_that_each_signal_interrupts() -> None:
    interruptible()
    for number in STOPS:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


COMPILED = """
import os, signal, sys
try:
    os.kill(os.getpid(), int(sys.argv[1]))
    for _ in range(1000): pass
except BaseException:
    os.abort()  # as C++ does with an exception that it does not expect
"""


def test_a_stop_during_an_import_is_reported_and_is_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "compiled.py").write_text(COMPILED)
    code = "from harness.core.signals import interruptible; interruptible(); import compiled"
    for number in STOPS:
        command = [sys.executable, "-c", code, str(number.value)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (130, ""), number
        assert ended.stderr == "stopped. What was done is kept; the same command continues.\n"


def test_signals_that_nohup_ignores_stay_ignored() -> None:
    for install in (interruptible, StopSignal):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        install()
        signal.raise_signal(signal.SIGHUP)
        assert not asked_to_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_signals_that_a_shell_ignores_for_a_background_command_stay_ignored() -> None:
    """Then Ctrl-C is for the command in the foreground."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruptible()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process until its standard input is closed."""
    command = [sys.executable, "-S", "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


class Sleeps:
    """Replaces `time` in waits: every pause lasts two simulated seconds, takes none, and calls `then`."""

    def __init__(self, then: Callable[[int], None]):
        self.number = 0
        self.then = then

    def monotonic(self) -> float:
        return 2.0 * self.number

    def sleep(self, _: float) -> None:
        self.number += 1
        assert self.number < 100, "the wait has no end"
        self.then(self.number)


def raising(number: signal.Signals) -> Callable[[int], None]:
    """Return a function that sends a signal once."""
    return lambda pauses: signal.raise_signal(number) if pauses == 1 else None


def test_a_wait_is_reported_once_and_ends_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "abc-s0" / "lock"
    path.parent.mkdir()
    with held(path) as holder:

        def then(pauses: int) -> None:
            if pauses == 5:
                holder.communicate()

        monkeypatch.setattr(files, "time", Sleeps(then))
        with locked(path) as ours:
            assert ours
    who = (f"process {holder.pid}", "another process")
    assert capsys.readouterr().err in {f"waiting for {path}, which {one} holds. Ctrl-C ends the wait.\n" for one in who}


def test_the_holder_of_a_lock_is_known_if_the_kernel_lists_it(tmp_path: Path) -> None:
    """Asked several times: the kernel's list skips lines while others lock files."""
    with locked(tmp_path / "lock"), open(tmp_path / "lock", "ab") as file:
        found = {files._holder(file) for _ in range(50)}
    assert found <= {f"process {os.getpid()}", "another process"}


def test_the_holder_of_a_lock_is_unknown_if_the_kernel_does_not_list_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has lines of other files and kinds, and of processes outside this container; or there is no list."""
    (path := tmp_path / "lock").touch()
    found = path.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    lines = (f"POSIX ADVISORY WRITE 7 {place} 0 EOF", f"FLOCK ADVISORY WRITE 8 {place}0 0 EOF")
    hidden = f"FLOCK ADVISORY WRITE -1 {place} 0 EOF"
    for known, who in (
        ((*lines, hidden), "another process"),
        ((*lines, f"FLOCK ADVISORY WRITE 9 {place} 0 EOF"), "process 9"),
        ((*lines, f"FLOCK ADVISORY WRITE 1 {place} 0 EOF"), "process 1"),
        ((), "another process"),
    ):
        (tmp_path / "locks").write_text("".join(f"{n}: {line}\n" for n, line in enumerate(known)))
        if not known:
            (tmp_path / "locks").unlink()
        monkeypatch.setattr(files, "Path", lambda _: tmp_path / "locks")
        with open(path, "ab") as file:
            assert files._holder(file) == who


def test_a_wait_ends_when_a_stop_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each signal, and by the death of a worker's launcher."""
    with held(tmp_path / "lock"):
        for number in STOPS:
            StopSignal()
            monkeypatch.setattr(files, "time", Sleeps(raising(number)))
            with (
                pytest.raises(Stopped, match=f"stopped while it waited for {tmp_path / 'lock'}"),
                locked(tmp_path / "lock"),
            ):
                raise AssertionError
        StopSignal(lambda: True)
        monkeypatch.setattr(files, "time", Sleeps(lambda pauses: None))
        with pytest.raises(Stopped), locked(tmp_path / "lock"):
            raise AssertionError


def test_a_moment_is_waited_for_in_silence_even_when_a_stop_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished work is written before the end."""
    with held(tmp_path / "lock") as holder:
        StopSignal(lambda: True)
        monkeypatch.setattr(files, "MOMENT_S", 100.0)
        monkeypatch.setattr(files, "time", Sleeps(lambda pauses: holder.communicate() and None))
        with locked(tmp_path / "lock") as ours:
            assert ours
    assert capsys.readouterr().err == ""


def _raise(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def test_exit_codes_are_two_and_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code, line in (
        (KeyboardInterrupt(), 130, "stopped. What was done is kept; the same command continues."),
        (Stopped("stopped at step 3"), 130, "stopped at step 3. What was done is kept; the same command continues."),
        (SystemExit(0), 2, "error: a library called sys.exit(0)"),
        (SystemExit(), 2, "error: a library called sys.exit()"),
        (SystemExit("no licence"), 2, "error: a library called sys.exit(no licence)"),
        (OSError(28, "No space left on device", "/a/b"), 2, "error: /a/b: No space left on device."),
    ):
        assert guarded(_raise(error)) == code
        assert capsys.readouterr().err.startswith(line), error
    monkeypatch.setenv("RANK", "1")  # of several ranks, the first reports for all
    assert guarded(_raise(Stopped("stopped at step 3"))) == 130
    assert capsys.readouterr().err == ""


def test_a_command_ends_with_the_code_of_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output error is reported if everything else went well."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    whole = Mock(return_value=None)
    monkeypatch.setattr(command, "steady", lambda: Mock(require_whole=whole))
    left: list[int] = []
    monkeypatch.setattr(command, "leave", left.append)
    for ended in (SystemExit(2), SystemExit(None), KeyboardInterrupt()):
        monkeypatch.setattr(command, "main", Mock(side_effect=ended))
        command.run()
    for code in (3, 0):
        monkeypatch.setattr(command, "main", Mock(return_value=code))
        command.run()
    whole.side_effect = OSError(28, "No space left on device")
    command.run()
    assert left == [2, 0, 130, 3, 0, 2]


ENDS = """
import atexit, signal, sys
from harness.core.errors import leave
from harness.core.signals import interruptible
interruptible()
atexit.register(print, "never")
atexit.register(signal.raise_signal, int(sys.argv[1]))
leave(130)
"""


def test_a_signal_at_the_very_end_changes_nothing() -> None:
    for number in STOPS:
        ended = subprocess.run([sys.executable, "-c", ENDS, str(int(number))], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (130, ""), number


SLOW = """
import os, runpy, time
from harness import cli
def slow(options):
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    time.sleep(60)
cli._run = slow
runpy.run_module("harness", run_name="__main__")
"""


def test_a_command_that_installs_nothing_ends_by_each_signal_in_a_line() -> None:
    for number in STOPS:
        ended = subprocess.run(
            [sys.executable, "-c", SLOW, "list"],
            env={**os.environ, "SIGNAL": str(int(number))},
            capture_output=True,
            text=True,
        )
        said = "stopped. What was done is kept; the same command continues.\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", said), number
