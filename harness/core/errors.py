"""What a user can get wrong. The command line prints each as one line and exits with code 2."""

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
from typing import NoReturn, Self

USERS_FILES: set[str] = set()
"""Files of code that is not the harness's own: plugins, studies, modules of packages with components."""
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
"""What libraries say when memory, or threads and processes, ran out."""


def redacted(text: str) -> str:
    """A text without the passwords of the addresses in it: `postgresql://me:***@host/runs`.

    Other libraries' texts hold them too.
    """
    of_address, of_query = _SECRETS
    return of_query.sub(r"\1=***", of_address.sub(r"\1:***", text))


class UserError(ValueError):
    """A mistake of the user's or of their machine: says what is wrong, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(redacted(message))


class ConfigError(UserError):
    """A wrong value at a configuration path, printed as `<path>: <what is wrong>. <what to do>`."""

    def __init__(self, path: str, message: str):
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message

    def below(self, parent: str) -> ConfigError:
        """The same mistake seen from one level further up."""
        return ConfigError(".".join(filter(None, (parent, self.path))), self.message)


class NoValue(UserError):
    """A value of a run does not exist, and trying again would not give one.

    Failures of the machine are no reason for it.
    """

    @property
    def note(self) -> dict[str, str]:
        """What is kept of it; `of` inverts it."""
        return {"kind": "Unsolvable" if isinstance(self, Unsolvable) else "Diverged", "reason": str(self)}

    @staticmethod
    def of(note: Mapping[str, str]) -> NoValue:
        """The error that was noted."""
        return (Unsolvable if note["kind"] == "Unsolvable" else Diverged)(note["reason"])

    def told(self, text: str) -> Self:
        """The same kind with another text."""
        return type(self)(text)


class Diverged(NoValue):
    """Training met a loss or gradient that is not finite, or samples are not; the last good checkpoint stands."""


class Unsolvable(NoValue):
    """A solver cannot keep what it promises on a field."""


class Pruned(Exception):
    """A search gave a run up before its end; what was trained stays."""


class Stopped(Exception):
    """SIGTERM, SIGHUP or Ctrl-C arrived: everything is saved, and the same command continues."""


KEPT = "What was done is kept; mend it, then run the same command again."


def guarded(command: Callable[[], None]) -> int:
    """Run a command; a user's or machine's mistake becomes one line on standard error and the exit code 2."""
    try:
        command()
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
    return 0


def stopped(said: str = "stopped") -> int:
    """Say that work was stopped; gives the exit code. Of several ranks, the first says it for all."""
    if os.environ.get("RANK", "0") == "0":
        _tell(f"{said}. What was done is kept; the same command continues.")
    return 130


def _blame(error: BaseException) -> int:
    """Say which line of a user's file an exception came through; one that came through none is raised again."""
    if (place := place_in(error, USERS_FILES)) is None:
        if not isinstance(error, SystemExit):
            raise error
        code = "" if error.code is None else error.code
        _tell(f"error: a library called sys.exit({code}), as only a whole program may. {KEPT}")
        return 2
    if os.environ.get("HARNESS_TRACEBACK"):
        traceback.print_exception(error)
    exits = isinstance(error, SystemExit)
    what = "it calls sys.exit, which ends the work in its midst" if exits else redacted(in_a_line(error))
    _tell(f"error: {place}: {what}. Correct the file. HARNESS_TRACEBACK=1 shows how it was called.")
    return 2


def place_in(error: BaseException, files: Collection[str]) -> str | None:
    """File and line that an exception came through last, of these files; None where it came through none."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{error.filename}, line {error.lineno}"
    passed = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{passed[-1].filename}, line {passed[-1].lineno}" if passed else None


def raised_by(error: BaseException, name: str) -> bool:
    """Whether the line that raised an exception names it: a key that was pressed does not."""
    return name in (traceback.extract_tb(error.__traceback__)[-1].line or "")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def shortage(error: BaseException) -> UserError | None:
    """What is told of an error that means that memory, or threads and processes, ran out; None for any other.

    torch raises a class of its own on a GPU, and a plain RuntimeError on a CPU and from cuBLAS; C++ and the system have
    words of their own.
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
    """A context in which a lack of memory or threads is noted to have been met in that place; `shortage` tells it."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if shortage(error) is not None:
            error.add_note(place)
        raise


def leave(code: int) -> NoReturn:
    """End the process as Python would, but take no modules apart: torch's and MLflow's need seconds for it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all is done, so nothing is left to be interrupted
        signal.signal(number, lambda *_: os._exit(code))
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # what a command wrote was flushed by `guarded`, which says what went wrong
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def in_a_line(error: BaseException) -> str:
    """An exception with its type, in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The advice for a misspelt name: the nearest known one, or all of them."""
    known = sorted(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."


def listed(names: Iterable[str]) -> str:
    """Names one after another, apart by semicolons where one has a comma of its own."""
    names = list(names)
    return ("; " if any("," in name for name in names) else ", ").join(names)
