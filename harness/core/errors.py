"""Errors for mistakes of the user and faults of the machine. The command line prints one line and exits with code 2."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NoReturn, Self

USERS_FILES: set[str] = set()
"""Python files that are not part of harness: plugins, studies, modules of packages with components."""
_SECRETS = (
    re.compile(r"(?<=://)([^\s/:@]*):[^\s@]*(?:@[^\s/?#]*)*(?=@)"),
    re.compile(
        r"(?i)(?<![\w.])(password|passwd|pwd|passcode|token|secret|api_key)="
        r"(?:'[^']*'|\"[^\"]*\"|\{[^}]*\}|[^\s&;,'\")]+)"
    ),
)
_NO_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "_ALLOC_FAILED",
    "bad_alloc", "bad allocation", "shared memory", "Storage size calculation overflowed",
)  # fmt: skip
_NO_THREADS = ("can't start new thread", "Resource temporarily unavailable", "Thread creation failed")
"""Texts in libraries' messages that mean that memory, or threads and processes, ran out."""


def redacted(text: str) -> str:
    """Return a text with the passwords in its addresses masked: `postgresql://me:***@host/runs`.

    Messages of other libraries can contain passwords too.
    """
    of_address, of_query = _SECRETS
    return of_query.sub(r"\1=***", of_address.sub(r"\1:***", text))


class UserError(ValueError):
    """A mistake of the user or a fault of the machine. The message says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(redacted(message))


class ConfigError(UserError):
    """A wrong value at a configuration path, printed as `<path>: <what is wrong>. <what to do>`."""

    def __init__(self, path: str, message: str):
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message

    def below(self, parent: str) -> ConfigError:
        """Return the same error with `parent.` in front of its path."""
        return ConfigError(".".join(filter(None, (parent, self.path))), self.message)


class NoValue(UserError):
    """A value of a run does not exist, and another attempt would not give one.

    A fault of the machine never raises this.
    """

    @property
    def note(self) -> dict[str, str]:
        """The error as a JSON-ready mapping; `of` inverts it."""
        return {"kind": "Unsolvable" if isinstance(self, Unsolvable) else "Diverged", "reason": str(self)}

    @staticmethod
    def of(note: Mapping[str, Any]) -> NoValue:
        """Return the error that a `note` describes."""
        return (Unsolvable if note["kind"] == "Unsolvable" else Diverged)(note["reason"])

    def told(self, text: str) -> Self:
        """Return an error of the same kind with another text."""
        return type(self)(text)


class Diverged(NoValue):
    """Training met a non-finite loss or gradient, or samples are not finite; the last good checkpoint is kept."""


class Unsolvable(NoValue):
    """A solver cannot hold its tolerance on a velocity field."""


class Pruned(Exception):
    """A search stopped a run before its end; the checkpoints stay."""


class Stopped(Exception):
    """SIGTERM, SIGHUP or Ctrl-C arrived: everything is saved, and the same command continues."""


class Superseded(Stopped):
    """A newer attempt at the trial writes now: this one saves nothing more."""


KEPT = "What was done is kept; mend it, then run the same command again."


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code, which the command may give; 0 otherwise.

    A mistake of the user or a fault of the machine becomes one line on standard error and exit code 2.
    """
    try:
        code = command() or 0
        sys.stdout.flush()
    except (Stopped, KeyboardInterrupt) as error:
        return stopped(str(error) or "stopped")
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    except (Exception, SystemExit) as error:
        if (lack := shortage(error)) is not None:
            _tell(f"error: {lack}")
            return 2
        if not isinstance(error, OSError):
            return _blame(error)
        place = f"{error.filename}: " if error.filename else ""
        reason = f"{place}{error.strerror or error}"
        _tell(f"error: {redacted(reason)}. {KEPT}")
        return 2
    return code


def stopped(said: str = "stopped") -> int:
    """Print that the work was stopped, and return the exit code. Of several ranks, only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        _tell(f"{said}. What was done is kept; the same command continues.")
    return 130


def _blame(error: BaseException) -> int:
    """Report the line of a user's file through which an exception passed; re-raise it if it passed through none."""
    if (place := place_in(error, USERS_FILES)) is None:
        if not isinstance(error, SystemExit):
            raise error
        code = "" if error.code is None else error.code
        _tell(f"error: a library called sys.exit({code}), which only a program may call. {KEPT}")
        return 2
    if os.environ.get("HARNESS_TRACEBACK"):
        traceback.print_exception(error)
    exits = isinstance(error, SystemExit)
    what = "it calls sys.exit, which ends the work early" if exits else redacted(in_a_line(error))
    _tell(f"error: {place}: {what}. Correct the file. Set HARNESS_TRACEBACK=1 to see the traceback.")
    return 2


def place_in(error: BaseException, files: Collection[str]) -> str | None:
    """Return file and line of the innermost frame of an exception that is in `files`; None if no frame is."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{error.filename}, line {error.lineno}"
    passed = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{passed[-1].filename}, line {passed[-1].lineno}" if passed else None


def raised_by(error: BaseException, name: str) -> bool:
    """Whether the source line that raised an exception contains `name`; a pressed Ctrl-C raises at any other line."""
    return name in (traceback.extract_tb(error.__traceback__)[-1].line or "")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def shortage(error: BaseException) -> UserError | None:
    """Return the error to report if memory, or threads and processes, ran out; None for any other error.

    torch raises a special class on a GPU, and a plain RuntimeError on a CPU and from cuBLAS. C++ and the system use
    other messages.
    """
    if not isinstance(error, (MemoryError, RuntimeError, OSError)):
        return None
    said = str(error).partition("\n")[0].rstrip(".") or "Python could not allocate"
    number = error.errno if isinstance(error, OSError) else None
    of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if number == errno.EAGAIN or any(words in str(error) for words in _NO_THREADS):
        what, advice = "threads or processes", "stop some, or lower train.threads, dataset.workers or --workers"
    elif of_memory or number == errno.ENOMEM or any(words in str(error) for words in _NO_MEMORY):
        what, advice = "memory", "free some, or take smaller batches or fewer workers"
    else:
        return None
    where = "".join(f"{note}: " for note in reversed(getattr(error, "__notes__", [])))
    return UserError(f"{where}out of {what}: {said}. What was done is kept; {advice}, then run the same command again.")


@contextlib.contextmanager
def named(place: str) -> Iterator[None]:
    """Add `place` as a note to errors in this context that mean a lack of memory or threads; `shortage` shows it."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if shortage(error) is not None:
            error.add_note(place)
        raise


def leave(code: int) -> NoReturn:
    """Run the exit handlers and end the process; skip interpreter teardown, for which torch and MLflow need seconds."""
    # The work is done, so a signal may end the process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(code))
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # `guarded` already flushed the output and reported its errors
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def in_a_line(error: BaseException) -> str:
    """Return the type and message of an exception in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))


def not_installed(package: str, error: Exception) -> str:
    """Return the message for a package of the extra `hub` that cannot be imported."""
    why = in_a_line(error)
    return f"the package {package} cannot be imported ({why}). Install it: pip install 'flow-ablation[hub]'"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return advice for a misspelt name: the nearest known name, or all of them."""
    known = sorted(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."


def listed(names: Iterable[str]) -> str:
    """Join names with commas, or with semicolons if a name contains a comma."""
    names = list(names)
    return ("; " if any("," in name for name in names) else ", ").join(names)
