"""The fixed words of each line of the program that docs/troubleshooting.md shows stand in the source.

Such lines are in the page's blocks ```text. Their words in capitals, `PLACEHOLDERS`, stand for other text.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PLACEHOLDERS = (
    "ADDRESS", "ARM", "CHOICES", "COMMAND", "NAME", "NUMBER", "PATH", "PLACE", "RANGE", "REASON", "SETTING", "SIGNAL",
    "SIZE", "STUDY", "TIME", "VALUE", "WORK",
)  # fmt: skip
HOLE = rf"(?:'?(?:{'|'.join(PLACEHOLDERS)})'?(?:: )?)*"
"""A pattern of the text on the page for a part of a line that the source does not fix: placeholders, or nothing."""
DEEPEST = 5
"""The number of variables and calls in each other that are followed to their texts."""
Known = dict[str, list[ast.expr]]
"""The expressions that are assigned to the variables of a function, or to constants."""
Root = tuple[Known, ast.expr]
"""An expression, and the variables of its function."""


class Source:
    """The texts in the source of the program, as patterns of the lines that they can become."""

    def __init__(self, sources: Iterable[str]):
        self.constants: Known = defaultdict(list)
        """The values of constants of all modules."""
        self.results: dict[str, list[Root]] = defaultdict(list)
        """The expressions that functions of all modules return, with the variables of each function."""
        self.texts: list[tuple[list[str], Known, ast.expr]] = []
        """The texts that are no part of another one, with their parts that every line has."""
        self._patterns: dict[int, re.Pattern[str]] = {}
        for source in sources:
            self._read(ast.parse(source), self.constants)

    def _read(self, node: ast.AST, known: Known, function: str = "") -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.FunctionDef(name=name):
                    self._read(child, defaultdict(list), name)
                    continue
                case ast.Assign(targets=[target], value=value):
                    for name, given in assigned(target, value):
                        known[name].append(given)
                case ast.Return(value=ast.expr() as value):
                    self.results[function].append((known, value))
            if isinstance(child, ast.expr) and (is_text(child) or of_setting(child)):
                parts = sorted(fixed(child), key=len, reverse=True)
                if of_setting(child) or " " in "".join(parts):
                    self.texts.append((parts, known, child))
            else:
                self._read(child, known, function)

    def has(self, line: str) -> bool:
        """Whether a text of the source can become this line."""
        return any(
            all(map(line.__contains__, parts)) and self._lines(number).fullmatch(line)
            for number, (parts, _, _) in enumerate(self.texts)
        )

    def _lines(self, number: int) -> re.Pattern[str]:
        """The pattern of the lines that a text can become, alone or behind the name of a place."""
        if number not in self._patterns:
            _, known, text = self.texts[number]
            self._patterns[number] = re.compile(f"(?:error: |advice: )?{HOLE}{self._pattern(text, known, 0)}")
        return self._patterns[number]

    def _pattern(self, node: ast.expr, known: Known, depth: int) -> str:
        if found := of_setting(node):
            setting, message = (self._pattern(part, known, depth) for part in found)
            return f"[a-z_.]*{setting}(?:: )?{message}"
        match node:
            case ast.Constant(value=str() as text):
                return HOLE.join(map(re.escape, pieces(text)))
            case ast.JoinedStr(values=parts):
                return "".join(self._pattern(part, known, depth) for part in parts)
            case ast.BinOp(left=left, right=right) if is_text(node):
                return self._pattern(left, known, depth) + self._pattern(right, known, depth)
            case ast.FormattedValue(value=value):
                return self._pattern(value, known, depth)
        followed = self._followed(node, known) if depth < DEEPEST else ()
        return f"(?:{'|'.join([*(self._pattern(value, own, depth + 1) for own, value in followed), HOLE])})"

    def _followed(self, node: ast.expr, known: Known) -> Iterator[Root]:
        """The expressions that a variable, a constant, an entry of a constant or a call may stand for."""
        match node:
            case ast.Name(id=name):
                yield from ((known, value) for value in known.get(name, []) or self.constants.get(name, []))
            case ast.Subscript(value=ast.Name(id=name)):
                for value in self.constants.get(name, []):
                    yield from ((known, entry) for entry in getattr(value, "values", []) if is_text(entry))
            case ast.IfExp(body=body, orelse=other):
                yield from ((known, value) for value in (body, other))
            case ast.Call(func=ast.Name(id=name)):
                yield from self.results.get(name, [])


def assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names that an assignment binds, each with the expressions that it may get."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for each, given in zip(targets, values, strict=True):
                yield from assigned(each, given)
        case ast.Tuple(), ast.IfExp(body=body, orelse=other):
            yield from (*assigned(target, body), *assigned(target, other))


def is_text(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return is_text(left) or is_text(right)
    return False


def of_setting(node: ast.AST) -> list[ast.expr]:
    """The setting and the message of `ConfigError(setting, message)`; nothing for another expression."""
    match node:
        case ast.Call(func=ast.Name(id="ConfigError"), args=[setting, message]):
            return [setting, message]
    return []


def pieces(text: str) -> list[str]:
    """The parts of a text between the fields that `str.format` fills."""
    return re.split(r"\{\w+\}", text)


def fixed(node: ast.expr) -> Iterator[str]:
    """The parts of a text that each line has which it becomes."""
    match node:
        case ast.Constant(value=str() as text):
            yield from pieces(text)
        case ast.JoinedStr(values=parts):
            for part in parts:
                yield from fixed(part)
        case ast.BinOp(left=left, right=right):
            yield from (*fixed(left), *fixed(right))
        case ast.Call():
            for part in of_setting(node):
                yield from fixed(part)


def shown() -> list[str]:
    """The lines of the program on the page."""
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(path.read_text() for path in (ROOT / "harness").rglob("*.py"))


def test_the_source_has_the_lines_of_the_page(source: Source) -> None:
    lines = shown()
    assert len(lines) >= 80
    assert len({*lines}) == len(lines)
    assert [line for line in lines if not source.has(line)] == []


def test_a_line_with_another_word_is_not_in_the_source(source: Source) -> None:
    """Each word of a line that is no placeholder counts; a change of the page is as good as one of the source."""
    for line in shown()[::7]:
        words = re.findall(r"(?<![\w-])[a-z]{4,}(?![\w-])", line)
        word = words[len(words) // 2]
        assert not source.has(line.replace(word, word[::-1] + "q")), (word, line)


def test_the_page_on_faults_names_test_files_that_exist() -> None:
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", (ROOT / "docs" / "faults.md").read_text()))
    assert len(named) >= 20
    for name in named:
        assert any((ROOT / folder / name).is_file() for folder in ("tests", "tests/cluster")), name
