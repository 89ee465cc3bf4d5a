"""The inputs that Hypothesis draws for the fuzz: settings of the registry, damage to files, studies and arguments."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hypothesis import strategies as st

from harness.ablation.design.search import Search
from harness.ablation.design.study import Study
from harness.cli.arguments import parser
from harness.core.config import Config
from harness.core.fields import Range, hints, required
from harness.core.registry import Component, find, names
from harness.runs.config import RunConfig

DOWNLOADED = ("inception", "cifar10", "mnist", "fashion_mnist")
"""Components that download files."""
LEFT_ALONE = ("train.compile", "train.device", "train.threads", "evaluate.extractor", "evaluate.reference")
"""Fields that start a compiler, need a GPU or change this process."""
VALUES = (
    "", " ", "null", "true", "NaN", "-Infinity", "-1", "0", "0.5", "1e400", "1e-320", "1e308", "-0.0", "9" * 5000,
    "[" * 5000, "{}", "[]", "[[]]", "[null]", '""', '"\\u0000"', "\x00", "ж\u202e\U0001f600", "\udcff", '"\\ud800"',
    "..", "/dev/zero", '{"name": 1}', '{"name": "uniform", "name": "x"}', '{"name": "' + "x" * 300 + '"}', "$x_{",
    "[1, 1]", "[-1]", "[0.5]", '["fid", "fid"]', "auto", "uniform", '{"preset": "digits"}',
)  # fmt: skip
"""Typed values that most fields reject."""
PATHS = (
    "", ".", "x", "train", "train.", ".steps", "train..steps", "train.steps.x", "evaluate.metrics.0", "seed.0", "ж",
    "preset", "name", "backbone.preset", "__class__", "--set", "reflow.teacher.seed", "\udcff", "a" * 3000,
)  # fmt: skip
PLAIN: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**70, 0.5, math.nan, math.inf, "", "x", "\udcff", "9" * 300, [], [1], [[]], {}, {"a": 1},
)  # fmt: skip
"""Values that JSON can represent."""
CONTENTS = (
    b"", b"\n\n", b"null", b"[]", b"{}", b'"x"', b"{}\n{}\n", b"[1]\n", b"\xff\xfe", b"\0" * 200, b"[" * 100_000,
    b"9" * 5000, b'{"step": "x"}\n', b"PK\x03\x04", b"\x93NUMPY\x01\0", b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n",
    b"a,b\n1,2\n1\n",
)  # fmt: skip
"""Wrong contents of files."""
HEADER = """
from harness.ablation.design.search import Search
from harness.ablation.design.space import even, log, one_of
from harness.ablation.design.study import Study
inf, nan = float("inf"), float("nan")
"""
CODE = (
    "", "STUDY = 1", "STUDY = Study", "STUDY = Study()", "STUDY = None\nSTUDY.x", "raise KeyError", "assert False",
    "1 / 0", "import absent", "import sys; sys.exit()", "raise SystemExit(3)", "def f(): f()\nf()", "STUDY = (", "\0",
    "x = 'ж\udcff'", "raise ValueError('two\\nlines')", "raise KeyboardInterrupt", "STUDY = Study(1, 2)", "SEARCH = []",
)  # fmt: skip
"""Wrong contents of study files."""
RANGES = (
    "log(1e-4, 1e-2)", "even(1, 8)", "one_of(8, 16)", "log(0, 1)", "even(2, 1)", "one_of()", "even(nan, 1)",
    "log(1, 1e400)", "one_of({})", "even('a', 1)", "1", "None", "[]",
)  # fmt: skip
"""Valid and invalid ranges of a search."""


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Draw values for a field with this annotation, small enough for fast training."""
    origin = typing.get_origin(hint)
    inside = typing.get_args(hint)
    if origin is Annotated:
        return values(inside[0]) if typing.get_origin(inside[0]) else numbers(inside[0], inside[1])
    if origin is Literal:
        return st.sampled_from(inside)
    if origin is tuple:
        return st.lists(values(inside[0]), max_size=3, unique_by=repr)
    if type(None) in inside:
        return st.none() | values(next(each for each in inside if each is not type(None)))
    if issubclass(hint, Component):
        return components(hint.family)
    if issubclass(hint, Config):
        return st.just({})
    return {
        bool: st.booleans(),
        int: st.integers(-2, 8),
        float: numbers(float, Range(-4, 4)),
        str: st.sampled_from(["", "x"]),
    }[hint]


def numbers(kind: type, allowed: Range) -> st.SearchStrategy[Any]:
    """Draw numbers of a range: near the lower end if there is no upper end; some floats exactly at the ends."""
    if kind is int:
        return st.integers(math.ceil(allowed.low), int(min(allowed.high, allowed.low + 8)))
    high = min(allowed.high, allowed.low + 8)
    usual = st.sampled_from([allowed.low + share * (high - allowed.low) for share in (0.1, 0.2, 0.4, 0.7)])
    ends = [end for end in (allowed.low, allowed.high, 1e-300, 1e-6, 1e300) if math.isfinite(end) and end in allowed]
    return st.one_of(usual, usual, usual, st.sampled_from(ends or [high]))


@st.composite
def components(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Draw a component of a family with its required fields and some others."""
    member = find(family, draw(st.sampled_from([name for name in names(family) if name not in DOWNLOADED])))
    known = hints(member)
    needed = [field.name for field in dataclasses.fields(member) if required(field)]
    others = [name for name in known if name not in needed]
    some = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
    return {"name": member.name} | {name: draw(values(known[name])) for name in (*needed, *some)}


def places(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, annotation) of every field of a configuration, nested fields included."""
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, Component) or not isinstance(value, Config):
            yield prefix + name, hint
        if isinstance(value, Config):
            yield from places(value, f"{prefix}{name}.")


def changes(config: RunConfig) -> st.SearchStrategy[tuple[str, Any]]:
    """Draw a path and a value for its field; all parts of a configuration are equally likely."""
    parts: dict[str, list[tuple[str, Any]]] = {}
    for path, hint in places(config):
        if path not in (*LEFT_ALONE, "dataset", "backbone"):
            parts.setdefault(path.partition(".")[0], []).append((path, hint))
    parts["data and network"] = [(name, hints(RunConfig)[name]) for name in ("dataset", "backbone")]
    chosen = st.sampled_from(list(parts.values())).flatmap(st.sampled_from)
    return chosen.flatmap(lambda place: st.tuples(st.just(place[0]), values(place[1])))


@st.composite
def settings(draw: st.DrawFn, config: RunConfig) -> dict[str, Any]:
    """Draw {path: value}. Each value fits its field, but the combination may be invalid."""
    chosen = dict(draw(st.lists(changes(config), max_size=3)))
    if any(path.startswith("reflow.") for path in chosen):
        chosen.setdefault("reflow.rounds", 1)
    return chosen


@st.composite
def assignments(draw: st.DrawFn, config: RunConfig) -> list[str]:
    """Draw assignments for `--set`; one list in four contains a hostile path or value."""
    typed = [f"{path}={_typed(value)}" for path, value in draw(settings(config)).items()]
    if draw(st.sampled_from([False, False, False, True])):
        known = [path for path, _ in places(config) if path not in LEFT_ALONE]
        path = draw(st.sampled_from(known) | st.sampled_from(PATHS))
        typed.append(f"{path}={draw(st.sampled_from(VALUES))}")
    return typed


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_options(typed: list[str]) -> list[str]:
    """Put `--set` before each assignment."""
    return [word for assignment in typed for word in ("--set", assignment)]


@dataclass(frozen=True)
class Cut:
    """Truncates a file to its first share."""

    share: float

    def __call__(self, path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * self.share)])


@dataclass(frozen=True)
class Edit:
    """Changes bytes at positions given as shares of the file's length."""

    bytes_: tuple[tuple[float, int], ...]

    def __call__(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        for share, byte in self.bytes_ if content else ():
            content[int(share * (len(content) - 1))] = byte
        path.write_bytes(content)


@dataclass(frozen=True)
class Hold:
    """Replaces a file's content."""

    content: bytes

    def __call__(self, path: Path) -> None:
        path.write_bytes(self.content)


@dataclass(frozen=True)
class Become:
    """Replaces a file by something else."""

    what: Literal["nothing", "folder", "pipe", "link to itself", "link to nothing", "device"]

    def __call__(self, path: Path) -> None:
        path.unlink()
        if self.what == "folder":
            path.mkdir()
        elif self.what == "pipe":
            os.mkfifo(path)
        elif self.what != "nothing":
            others = {"link to itself": path, "link to nothing": path.parent / "absent", "device": Path("/dev/zero")}
            path.symlink_to(others[self.what])


@dataclass(frozen=True)
class Reshape:
    """Replaces or deletes one value in a file of JSON or JSON lines; replaces the content of other files."""

    place: float
    value: Any
    takes_away: bool

    def __call__(self, path: Path) -> None:
        lines = path.suffix == ".jsonl"
        try:
            text = path.read_text()
            whole = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
        except ValueError:
            return Hold(repr(self.value).encode("utf-8", "replace"))(path)
        holders = [*_holders(whole)]
        if not holders:
            whole = self.value
        else:
            holder, key = holders[int(self.place * (len(holders) - 1))]
            if self.takes_away:
                del holder[key]
            else:
                holder[key] = self.value
        path.write_text("".join(json.dumps(line) + "\n" for line in whole) if lines else json.dumps(whole))


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (mapping or list, key) of every value inside a JSON value."""
    pairs = [*value.items()] if isinstance(value, Mapping) else [*enumerate(value)] if isinstance(value, list) else []
    for key, below in pairs:
        yield value, key
        yield from _holders(below)


class Written(str):
    """Code, written to a file without quotes."""

    __repr__ = str.__str__


@st.composite
def studies(draw: st.DrawFn, config: RunConfig) -> str:
    """Draw the text of a study file; in half of them a field has a wrong type."""
    arms = {name: draw(settings(config)) for name in draw(st.sampled_from(["a", "ab"]))}
    fields = {"question": "?", "baseline": "even", "arms": {"even": {}, **arms}, "nfe": 2, "seeds": 1}
    return _declaration("STUDY", Study, fields | draw(_strange(Study)))


@st.composite
def searches(draw: st.DrawFn, config: RunConfig) -> str:
    """Draw the text of a search file; in half of them a field has a wrong type."""
    known = st.sampled_from([path for path, _ in places(config)])
    path = draw(st.one_of(st.just("train.learning_rate"), st.just("train.clip_norm"), known, st.sampled_from(PATHS)))
    fields = {"question": "?", "spaces": {"points": {path: Written(draw(st.sampled_from(RANGES)))}}, "nfe": 2}
    return _declaration("SEARCH", Search, fields | draw(_strange(Search)))


def _strange(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    """Draw no field, or an existing or unknown field of a declaration with some value."""
    plain = st.sampled_from(PLAIN)
    value = plain | st.dictionaries(st.sampled_from(["even", "a", ""]), plain, max_size=2)
    known = sorted({field.name for field in dataclasses.fields(kind)} | {"sed"})
    return st.just({}) | st.dictionaries(st.sampled_from(known), value, min_size=1, max_size=1)


def _declaration(variable: str, kind: type, fields: dict[str, Any]) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return f"{HEADER}\n{variable} = {kind.__name__}({given})\n"


@st.composite
def arguments(draw: st.DrawFn, given: Sequence[str]) -> list[str]:
    """Draw a command and its arguments: its options, words of `given`, and odd words.

    `ui` is left out, because it serves pages until it is stopped.
    """
    commands = parser().commands
    name = draw(st.sampled_from(sorted(commands.keys() - {"ui"})))
    options = [text for action in commands[name].arguments for text in action.option_strings if text.startswith("--")]
    words = st.one_of(*(st.sampled_from(some) for some in (options, given, VALUES, PATHS)))
    return [name, *draw(st.lists(words, max_size=5))]


Damage = Callable[[Path], None]
shares = st.integers(0, 1000).map(lambda part: part / 1000)
damages = st.one_of(
    st.builds(Reshape, shares, st.sampled_from(PLAIN), st.booleans()),
    st.builds(Reshape, shares, st.sampled_from(PLAIN), st.just(False)),
    st.builds(Cut, shares),
    st.builds(Edit, st.lists(st.tuples(shares, st.integers(0, 255)), min_size=1, max_size=5).map(tuple)),
    st.builds(Hold, st.sampled_from(CONTENTS)),
    st.builds(Become, st.sampled_from(typing.get_args(typing.get_type_hints(Become)["what"]))),
)
"""Damages to a file."""
