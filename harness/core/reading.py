"""What is read from disk: opened only where it is a file, parsed strictly, held to the shape that its writer declares.

A shape is a type that pydantic knows. A TypedDict lets further entries pass; on Python 3.11 pydantic takes none but
those of typing_extensions.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LARGEST = 1 << 30
"""Bytes of a file of JSON, at most."""
DEEPEST = 100
"""Brackets in JSON that lie within each other, at most."""
SHOWN = 60
"""Characters of a value that a message shows."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class Damaged(ValueError):
    """A file is not as its writer left it: says what is wrong, in words that stand in brackets."""


def no_file(path: Path) -> str | None:
    """What lies at a path where no file does, but a folder, a pipe, a device or a socket: opening it may never end."""
    mode = os.stat(path).st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def require_file(path: Path) -> None:
    """`Damaged` where no file lies at the path; `OSError` where nothing does."""
    if kind := no_file(path):
        raise Damaged(f"it is {kind}, not a file")


def bytes_of(path: Path, most: float = math.inf) -> bytes:
    """The bytes of a file; `Damaged` where it is none, or has more than `most`."""
    require_file(path)
    if (size := path.stat().st_size) > most:
        raise Damaged(f"it has {size:,} bytes, more than {most:,}")
    return path.read_bytes()


def parse(text: bytes | str, finite: bool = True, **numbers: Any) -> Any:
    """The value of a JSON text; `Damaged` where it is none, or more than Python should build.

    Python's own reader takes NaN, infinity (which `finite` refuses), and one name twice. `numbers` are what it makes
    numbers with.
    """
    if finite:
        numbers = {"parse_constant": _no_number, "parse_float": _finite}
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, object_pairs_hook=_named_once, **numbers)
    except UnicodeDecodeError:
        raise Damaged("it is no text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise Damaged(f"it is no JSON: {error}") from None
    except RecursionError:
        raise Damaged("its brackets lie too deep within each other") from None
    except Damaged:
        raise
    except ValueError:
        raise Damaged("it holds a number of too many digits") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise Damaged("its brackets lie too deep within each other")
    return value


def shaped(value: Any, shape: Any) -> Any:
    """The value, unchanged; `Damaged` where it has another shape."""
    from pydantic import ValidationError

    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        entry = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise Damaged(f"its entry {entry} is missing") from None
        due = first["msg"].partition(" should ")[2]
        where = f"its entry {entry}" if entry else "it"
        raise Damaged(f"{where} is {short(first['input'])}, and should {due}") from None
    return value


@functools.cache
def say_once(line: str) -> None:
    """Tell the user a line, once a process."""
    print(line, file=sys.stderr, flush=True)


def short(value: Any) -> str:
    """A value as a message shows it."""
    try:
        said = repr(value)
    except (ValueError, RecursionError):  # of a number of too many digits, of too many brackets
        return f"a {type(value).__name__} too large to be written out"
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}... ({len(said):,} characters)"


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Damaged(f"it names {short(name)} twice")
    return found


def _no_number(text: str) -> float:
    raise Damaged(f"it holds {text}, which is no number")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _depth(value: Any) -> int:
    """How many lists and mappings lie within each other."""
    depth = 0
    level = [value]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        depth += 1
        level = [below for each in level for below in (each.values() if isinstance(each, dict) else each)]
    return depth


@functools.cache
def _adapter(shape: Any) -> TypeAdapter:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)
