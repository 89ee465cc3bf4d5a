"""One-line changes of Python source, like careless edits: found in the syntax tree, drawn with a seed."""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "amin": "amax", "amax": "amin"}
KEPT_ARGUMENTS = {"strict", "device", "non_blocking", "pin_memory", "flush", "exist_ok", "parents"}
"""Arguments whose mutation a test on a CPU cannot catch, or catches only by chance."""


@dataclass(frozen=True)
class Mutation:
    """A line of a file and its replacement."""

    path: str
    number: int
    """Line number, from 1."""
    old: str
    new: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """An identity that does not change when lines above are added or removed."""
        return self.path, self.old.strip(), self.new.strip()

    def apply(self, source: str) -> str:
        """Return the source with this line changed."""
        lines = source.splitlines(keepends=True)
        assert lines[self.number - 1].rstrip("\n") == self.old
        lines[self.number - 1] = self.new + "\n"
        return "".join(lines)


@dataclass(frozen=True)
class Edit:
    """A span of one line, in bytes as in `ast`, and its replacement."""

    number: int
    start: int
    end: int
    text: str

    def on(self, line: str) -> str:
        """Return the line with the span changed."""
        content = line.encode()
        return (content[: self.start] + self.text.encode() + content[self.end :]).decode().rstrip()


def mutations(root: Path, path: str) -> list[Mutation]:
    """Return every mutation of one file, from the first line to the last; all are valid Python."""
    source = (root / path).read_text()
    lines = source.splitlines()
    statements = [range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in ast.parse(source).body]
    found = []
    for edit in sorted(set(_edits(source)), key=lambda edit: (edit.number, edit.start, edit.text)):
        line = lines[edit.number - 1]
        mutation = Mutation(path, edit.number, line, edit.on(line))
        around = next(numbers for numbers in statements if edit.number in numbers)
        changed = [mutation.new if number == edit.number else lines[number - 1] for number in around]
        if mutation.new != line and _is_python("\n".join(changed)):
            found.append(mutation)
    return found


def draw(candidates: Iterable[Mutation], seed: int) -> list[Mutation]:
    """Return all candidates in random order. Only seed and text decide a rank, so edits elsewhere do not change it."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for mutation in candidates:
        text = (mutation.old.strip(), mutation.new.strip())
        seen[text] += 1
        rank = hashlib.sha256(f"{seed}\n{text[0]}\n{text[1]}\n{seen[text]}".encode()).hexdigest()
        ranked.append((rank, mutation))
    return [mutation for _, mutation in sorted(ranked, key=lambda pair: pair[0])]


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _edits(source: str) -> Iterator[Edit]:
    lines = [line.encode() for line in source.splitlines()]
    for node in _reachable(ast.parse(source)):
        for edit in _of_node(node, lines):
            if edit.start < edit.end:
                yield edit


def _reachable(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that a run executes: no annotations, decorators, texts, raised errors or type-checking blocks."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "keywords") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_out(child):
                yield from _reachable(child)


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
    if isinstance(node, ast.keyword):
        return node.arg in KEPT_ARGUMENTS
    return isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom))


def _of_node(node: ast.AST, lines: list[bytes]) -> Iterator[Edit]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield from _between(left, right, *COMPARISONS[type(op)], lines)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS and not _is_content(left, right):
            yield from _between(left, right, *OPERATORS[type(op)], lines)
        case ast.BoolOp(op=op, values=values):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            for left, right in itertools.pairwise(values):
                yield from _between(left, right, *words, lines)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield from _instead(node, _text(operand, lines))
        case ast.Constant(value=bool() | int() | float() as value):
            yield from _instead(node, _other(value))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield from _instead(node, "return None")
        case ast.Call():
            yield from _of_call(node, lines)


def _of_call(call: ast.Call, lines: list[bytes]) -> Iterator[Edit]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in EXTREMES and call.func.end_col_offset is not None:
        end = call.func.end_col_offset
        yield Edit(call.func.end_lineno or 0, end - len(name), end, EXTREMES[name])
    for keyword in call.keywords:
        if keyword.arg and keyword.arg not in KEPT_ARGUMENTS and keyword.lineno == keyword.end_lineno:
            yield _without(keyword, lines[keyword.lineno - 1])


def _without(keyword: ast.keyword, line: bytes) -> Edit:
    """Delete the argument with the comma before it, or otherwise after it."""
    start = keyword.col_offset
    end = keyword.end_col_offset or 0
    if line[:start].endswith(b", "):
        start -= 2
    elif line[end:].startswith(b", "):
        end += 2
    return Edit(keyword.lineno, start, end, "")


def _is_content(*operands: ast.expr) -> bool:
    """Whether an operand is text or a list: a changed operator would only raise an error."""
    texts = [one for one in operands if isinstance(one, ast.Constant) and isinstance(one.value, (str, bytes))]
    return bool(texts) or any(isinstance(one, (ast.JoinedStr, ast.List, ast.Tuple)) for one in operands)


def _between(left: ast.expr, right: ast.expr, old: str, new: str, lines: list[bytes]) -> Iterator[Edit]:
    """Replace the operator between two operands on one line."""
    if left.end_lineno == right.lineno and left.end_col_offset is not None:
        at = lines[right.lineno - 1].find(old.encode(), left.end_col_offset, right.col_offset)
        if at >= 0:
            yield Edit(right.lineno, at, at + len(old), new)


def _instead(node: ast.expr | ast.stmt, text: str) -> Iterator[Edit]:
    """Replace a whole node on one line."""
    if node.lineno == node.end_lineno and text:
        yield Edit(node.lineno, node.col_offset, node.end_col_offset or 0, text)


def _text(node: ast.expr, lines: list[bytes]) -> str:
    return (
        lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode() if node.lineno == node.end_lineno else ""
    )


def _other(value: float) -> str:
    if isinstance(value, bool):
        return str(not value)
    return repr(value + 1 if value + 1 != value else 2 * value)
