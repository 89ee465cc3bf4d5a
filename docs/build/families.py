"""The page of a family: its members from `harness list --json`, and how to write another one."""

from __future__ import annotations

import dataclasses
import html
import inspect
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

from docs.build import sources
from docs.build.pictures import Picture
from docs.build.places import ROOT
from docs.build.reference import bases
from harness.cli.components import described
from harness.core.config import Config
from harness.core.fields import hints
from harness.core.registry import Component, find, names
from harness.runs.config import RunConfig


def page(family: str, pictures: dict[str, list[Picture]]) -> str:
    """Return a family's Markdown; `pictures` has those of each member, and of the family under an empty name."""
    base = bases()[family]
    members = described(family)
    parts = [f"# {family}", *_intro(family, base), *(text for one in pictures.get("", []) for text in one.captioned())]
    parts += ["## Members", _overview(members)]
    shared = {field.name for field in dataclasses.fields(base)}
    if common := {name: value for name, value in members[0]["parameters"].items() if name in shared}:
        parts += ["Every member has these parameters:", _parameters(base, common, members[0]["ranges"])]
    for member in members:
        member["parameters"] = {name: value for name, value in member["parameters"].items() if name not in shared}
        parts += [f"### {member['name']}", *_member(find(family, member["name"]), member)]
        parts += [" ".join(one.markdown() for one in pictures.get(member["name"], []))]
    return "\n\n".join([*parts, *_own(family, base)]) + "\n"


def _intro(family: str, base: type[Component]) -> Iterator[str]:
    yield f"<p>{inline(' '.join(inspect.getdoc(base).split()))}</p>" if base.__doc__ else ""  # type: ignore[union-attr]
    places = settings(family)
    if places:
        yield f"<p>Setting: {', '.join(f'<code>{place}</code>' for place in places)}.</p>"
    yield f"The list below is that of `harness list {family}`. [Components](../components.md) says what goes together."


def settings(family: str) -> list[str]:
    """Return the paths of a configuration at which a member of the family can stand."""
    return sorted(set(_paths(RunConfig, family, ())))


def _paths(config: type[Config], family: str, above: tuple[type[Config], ...]) -> Iterator[str]:
    """Yield the paths below a configuration; `above` are those in which it stands, which may hold it again."""
    for field in dataclasses.fields(config):
        kinds = set(_classes(hints(config)[field.name]))
        if bases()[family] in kinds or field.metadata.get("family") == family:
            yield field.name
        for kind in kinds - {*above, config}:
            members = (
                [find(kind.family, name) for name in names(kind.family)] if issubclass(kind, Component) else [kind]
            )
            for one in members if getattr(kind, "family", "") != family else []:
                yield from (f"{field.name}.{path}" for path in _paths(one, family, (*above, config, kind)))


def _classes(hint: Any) -> Iterator[type[Config]]:
    if isinstance(hint, type) and issubclass(hint, Config):
        yield hint
    for argument in typing.get_args(hint):
        yield from _classes(argument)


def _overview(members: list[dict[str, Any]]) -> str:
    rows = [[f'<a href="#{anchor(m["name"])}">{word(m["name"])}</a>', inline(m["about"])] for m in members]
    return table(["name", "about"], rows)


def _member(cls: type[Component], member: dict[str, Any]) -> Iterator[str]:
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        yield f"<p>{inline(' '.join(paragraph.split()))}</p>"
    if member["formula"]:
        yield f'<p class="computes"><code>{html.escape(member["formula"])}</code></p>'
    if member["source"]:
        yield f"<p>Source: {inline(member['source'])}.</p>"
    if member["parameters"]:
        yield _parameters(cls, member["parameters"], member["ranges"])
    if member["presets"]:
        named = [[word(name), _fields(values)] for name, values in member["presets"].items()]
        yield table(["preset", "sets"], named)


def _parameters(cls: type[Component], values: dict[str, Any], ranges: dict[str, str]) -> str:
    known = sources.texts(cls)
    rows = [
        [word(name), _allowed(default(value), ranges.get(name)), inline(known.get(name, ""))]
        for name, value in values.items()
    ]
    return table(["parameter", "default and range", "meaning"], rows)


def _allowed(value: str, known: str | None) -> str:
    """Return a default, and below it the range of its parameter, if there is one."""
    return f'{value}<br><span class="word">in {known}</span>' if known else value


def _fields(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {default(value)}" for name, value in values.items())


def default(value: Any) -> str:
    """Return a parameter's default as HTML; None stands for a parameter without one, as in `harness list`."""
    if value is None:
        return "required"
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    return word(value if isinstance(value, str) and value else json.dumps(value))


def _own(family: str, base: type[Component]) -> Iterator[str]:
    yield "## One of your own"
    path = f"{base.__module__}.{base.__qualname__}"
    yield f"Derive it from [`{base.__qualname__}`](../reference.md#{path}):"
    yield f"    from {_home(base)} import {base.__qualname__}"
    yield "These commands write a working one to begin with, with its test, and check it:"
    yield f"    harness new component mine --family {family}\n    harness check mine.py"
    yield from (f"{line}" for line in advice(family))
    for one in [base, *_abstract(base)]:
        if one is not base:
            yield f"### {one.__qualname__}"
            yield f"<p>{inline(' '.join((inspect.getdoc(one) or '').split()))}</p>"
        yield from _methods(one)


def _home(base: type[Component]) -> str:
    """Return the shortest module of the harness from which a class can be imported."""
    parts = base.__module__.split(".")
    for length in range(2, len(parts)):
        module = ".".join(parts[:length])
        if getattr(__import__(module, fromlist=["x"]), base.__qualname__, None) is base:
            return module
    return base.__module__


def _abstract(base: type[Component]) -> list[type[Component]]:
    """Return the harness's own classes between a family's base and its members, from which one may derive too."""
    found = []
    for one in base.__subclasses__():
        own = one.__module__.startswith("harness.") and not one.__qualname__.startswith("_")
        if own and not one.name and any(getattr(value, "__isabstractmethod__", False) for value in vars(one).values()):
            found += [one, *_abstract(one)]
    return found


def _methods(cls: type[Component]) -> Iterator[str]:
    known = sources.methods(cls)
    for heading, chosen in (
        ("It must define:", [method for method in known if method.required]),
        ("It may override:", [method for method in known if not method.required and method.text]),
    ):
        rows = [[f"<code>{html.escape(method.signature)}</code>", prose(method.text)] for method in chosen]
        if rows:
            yield heading
            yield table(["method", "meaning"], rows)
    if constants := sources.constants(cls):
        yield "It may set these constants of its class:"
        rows = [[word(name), inline(text)] for name, text in constants.items()]
        yield table(["constant", "meaning"], rows)


def advice(family: str) -> list[str]:
    """Return the points of docs/components.md on a member of this family of one's own."""
    text = (ROOT / "docs" / "components.md").read_text()
    points = re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)
    named = {point: re.search(r"\b[Aa]n? \*\*(.+?)\*\*", point) for point in points}
    return [" ".join(p.split()) for p, found in named.items() if found and found[1] == family.replace("_", " ")]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return an HTML table, whose cells are HTML."""
    top = "".join(f"<th>{one}</th>" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def prose(text: str) -> str:
    """Return the paragraphs of a docstring as HTML."""
    return "<br>".join(inline(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))


def inline(text: str) -> str:
    """Return a docstring's line as HTML: the words in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(text.split()), quote=False))


def word(text: str) -> str:
    """Return a name as HTML that no line break divides."""
    return f'<code class="word">{html.escape(text)}</code>'


def anchor(heading: str) -> str:
    """Return the anchor that the site gives to a member's heading."""
    return heading.lower()
