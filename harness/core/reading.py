"""What is read from disk: opened only where it is a file, parsed strictly, held to the shape that its writer declares.

A shape is a type: int, float, `Measured`, str, bool, a Literal, `X | None`, list[X], dict[X, X], a TypedDict, whose
further entries are let pass, or Annotated[X, ...] with ranges, `Only`, and other shapes that the same value has.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import stat
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired

LARGEST = 1 << 30
"""Bytes of a file of JSON, at most."""
DEEPEST = 100
"""Brackets in JSON that lie within each other, at most."""
WIDEST = 1 << 63
"""What whole numbers are smaller than, in absolute value."""
SHOWN = 60
"""Characters of a value that a message shows."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
Measured = NewType("Measured", float)
"""A number that may be NaN or infinite, as what is measured is."""
_UNIONS = (types.UnionType, typing.Union)
_SAID = {
    int: "a whole number",
    float: "a finite number",
    Measured: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
}


class Only(NamedTuple):
    """The values of a type that pass a test."""

    said: str
    """What they are called."""
    holds: Callable[[Any], bool]

    def __contains__(self, value: object) -> bool:
        return self.holds(value)


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


def parse(text: bytes | str, finite: bool = True) -> Any:
    """The value of a JSON text; `Damaged` where it is none, or more than Python should build.

    Python's own reader takes NaN, infinity (which `finite` refuses), and one name twice.
    """
    checks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite} if finite else {}
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, object_pairs_hook=_named_once, **checks)
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
    for wrong in _faults(shape, value, ""):
        raise Damaged(wrong)
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
        names = [name for name, _ in pairs]
        raise Damaged(f"it names {short(next(name for name in names if names.count(name) > 1))} twice")
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


def _faults(shape: Any, value: Any, at: str) -> Iterator[str]:
    """What is wrong with a value that stands `at` a path of entries."""
    origin = typing.get_origin(shape)
    arguments = typing.get_args(shape)
    if origin is Annotated:
        wrong = next(_faults(arguments[0], value, at), None)
        rest = (_outside(other, value, at) if _limits(other) else _faults(other, value, at) for other in arguments[1:])
        yield from itertools.chain.from_iterable(rest) if wrong is None else (wrong,)
    elif origin in _UNIONS:
        if all(any(_faults(each, value, at)) for each in arguments):
            yield _not(" or ".join(_SAID.get(each, "a mapping") for each in arguments), value, at)
    elif origin is Literal:
        if value not in arguments:
            yield _not(f"one of {', '.join(map(repr, arguments))}", value, at)
    elif typing.is_typeddict(shape):
        yield from _entries(shape, value, at)
    elif origin in (dict, list):
        if not isinstance(value, origin):
            yield _not("a mapping" if origin is dict else "a list", value, at)
            return
        for name, below in value.items() if origin is dict else enumerate(value):
            if origin is dict:
                yield from _faults(arguments[0], name, at)
            yield from _faults(arguments[-1], below, _below(at, name))
    elif shape is not Any and not _single(shape, value):
        yield _not(_SAID[shape], value, at)


def _entries(shape: Any, value: Any, at: str) -> Iterator[str]:
    """What is wrong with a mapping of known entries."""
    if not isinstance(value, dict):
        yield _not("a mapping", value, at)
        return
    for name, hint in _hints(shape).items():
        marked = typing.get_origin(hint) is NotRequired
        if name in value:
            yield from _faults(typing.get_args(hint)[0] if marked else hint, value[name], _below(at, name))
        elif not marked and name in shape.__required_keys__:
            yield f"its entry {_below(at, name)} is missing"


@functools.cache
def _hints(shape: Any) -> dict[str, Any]:
    return typing.get_type_hints(shape, include_extras=True)


def _single(shape: Any, value: Any) -> bool:
    if type(value) is int:
        return shape in (int, float, Measured) and abs(value) < WIDEST
    if type(value) is float:
        return shape is Measured or (shape is float and math.isfinite(value))
    return type(value) is shape


def _limits(annotation: Any) -> bool:
    """Whether it says which values of a type are meant, and is no type."""
    return hasattr(type(annotation), "__contains__")


def _outside(allowed: Any, value: Any, at: str) -> Iterator[str]:
    if value not in allowed:
        yield _not(allowed.said if isinstance(allowed, Only) else f"in {allowed}", value, at)


def _not(wanted: str, value: Any, at: str) -> str:
    return f"{f'its entry {at}' if at else 'it'} is {short(value)}, not {wanted}"


def _below(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)
