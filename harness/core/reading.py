"""Read from disk strictly: open only regular files, parse strict JSON, check the shape that the writer declares.

A shape is a type that pydantic knows. A TypedDict allows further entries; on Python 3.11 pydantic accepts only the
TypedDict of typing_extensions.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

LARGEST = 1 << 30
"""Maximum size of a JSON file, in bytes."""
DEEPEST = 100
"""Maximum nesting depth of JSON."""
SPACED = (b" :", b"\n:", b"\t:", b"\r:")
"""Colons after the white space that JSON allows but does not need."""
SHOWN = 60
"""Maximum number of characters of a value in a message."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class Damaged(ValueError):
    """A file is not as its writer left it. The message is a clause to put in brackets."""


def no_file(path: Path) -> str | None:
    """Return the kind of a path that is not a regular file, like "a folder"; None for a regular file.

    Opening a pipe, a device or a socket may never return.
    """
    mode = os.stat(path).st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def require_file(path: Path) -> None:
    """Raise `Damaged` if the path is not a regular file; `OSError` if nothing is there."""
    if kind := no_file(path):
        raise Damaged(f"it is {kind}, not a file")


def bytes_of(path: Path, most: float = math.inf) -> bytes:
    """Return the bytes of a file; `Damaged` if it is not a regular file or has more than `most` bytes."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        require_file(path)
    if found.st_size > most:
        raise Damaged(f"it has {found.st_size:,} bytes, more than {most:,}")
    return path.read_bytes()


def parse(text: bytes | str, finite: bool = True, **numbers: Any) -> Any:
    """Return the value of a JSON text; `Damaged` if it is invalid, names an entry twice, or is nested too deeply.

    Python's JSON reader accepts NaN and infinity; `finite` refuses them. Without `finite`, `numbers` are the reader's
    arguments that build numbers, like `parse_float`.
    """
    if isinstance(text, bytes) and (quick := _quickly(text, finite)) is not None:
        return quick
    if finite:
        numbers = {"parse_constant": _no_number, "parse_float": _finite}
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, object_pairs_hook=_named_once, **numbers)
    except UnicodeDecodeError:
        raise Damaged("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise Damaged(f"it is not valid JSON: {error}") from None
    except RecursionError:
        raise Damaged("its brackets are nested too deep") from None
    except Damaged:
        raise
    except ValueError:
        raise Damaged("it holds a number with too many digits") from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise Damaged("its brackets are nested too deep")
    return value


def _quickly(text: bytes, finite: bool) -> dict[str, Any] | None:
    """Return the mapping that pydantic's parser reads, in a third of the time; None where `parse` must look.

    Written again, a value has as many colons behind quotes as its text, unless the text names an entry twice.
    """
    import pydantic_core

    if text.count(b"[") + text.count(b"{") > DEEPEST or _unusual(text):
        return None
    try:
        value = pydantic_core.from_json(text)
        again = pydantic_core.to_json(value, inf_nan_mode="constants")
    except ValueError:
        return None
    if again.count(b'":') != text.count(b'":') or (finite and (b"NaN" in again or b"Infinity" in again)):
        return None
    return value if isinstance(value, dict) else None


def _unusual(text: bytes) -> bool:
    """Whether an entry's colon may not follow its name's quote at once, so that colons do not count the entries."""
    return b"\\" in text or (text.count(b":") > text.count(b'":') and any(map(text.__contains__, SPACED)))


def shaped_at_once(lines: Sequence[bytes], shape: Any) -> list[Any] | None:
    """Return the values of JSON lines, in a tenth of the time; None where `parse` and `shaped` must look at each.

    Colons that follow a quote at once, as many as entries, mean that no line names an entry twice.
    """
    import pydantic_core
    from pydantic import ValidationError

    text = b"[" + b",".join(lines) + b"]"
    if _unusual(text):
        return None
    try:
        values: list[Any] = pydantic_core.from_json(text)
        if len(values) == len(lines) and sum(map(len, values)) == text.count(b'":'):
            _adapter(list[shape]).validate_python(values, strict=True)
            return values
    except (ValueError, TypeError, ValidationError):
        pass
    return None


def shaped(value: Any, shape: Any) -> Any:
    """Return the value unchanged; `Damaged` if it does not have the shape."""
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
        raise Damaged(f"{where} is {short(first['input'])}, but should {due}") from None
    return value


@functools.cache
def say_once(line: str) -> None:
    """Print a line to standard error, once per process."""
    print(line, file=sys.stderr, flush=True)


def short(value: Any) -> str:
    """Return a value as text for a message, cut to `SHOWN` characters."""
    try:
        said = repr(value)
    except (ValueError, RecursionError):  # too many digits, or too many brackets
        return f"a {type(value).__name__} too large to be written out"
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}... ({len(said):,} characters)"


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Damaged(f"it names {short(name)} twice")
    return found


def _no_number(text: str) -> float:
    raise Damaged(f"it holds {text}, which is not a finite number")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and mappings."""
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
