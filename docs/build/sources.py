"""What the source says beside the code: the text under a field, and the signature and the text of a method."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import dataclass

from harness.core.registry import Component


@dataclass(frozen=True)
class Method:
    """A method that a family's base class declares."""

    signature: str
    text: str
    required: bool


def texts(cls: type) -> dict[str, str]:
    """Return {field or constant: the text under it} of a class and of those that it derives from."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if one is not Component and one.__module__.startswith("harness"):
            body = _body(one)
            for line, below in itertools.pairwise(body):
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and (text := _text(below)):
                    found[line.target.id] = text
    return found


def constants(cls: type) -> dict[str, str]:
    """Return {constant that a member may set: the text under it} of a base class."""
    known = texts(cls)
    return {
        line.target.id: known[line.target.id]
        for line in _body(cls)
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" in ast.unparse(line.annotation)
        and line.target.id in known
    }


def methods(cls: type) -> list[Method]:
    """Return the public methods that a class itself declares, those that a member must write first."""
    found = [
        Method(
            f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else 'None'}",
            ast.get_docstring(node) or "",
            any(ast.unparse(one) == "abstractmethod" for one in node.decorator_list),
        )
        for node in _body(cls)
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__")
    ]
    return sorted(found, key=lambda method: not method.required)


def _body(cls: type) -> list[ast.stmt]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return node.body


def _text(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""
