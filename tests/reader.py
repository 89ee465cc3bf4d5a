"""Read a page: its elements, its tables and its text; and whether it loads anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "path", "use", "rect", "circle", "line", "input", "image"}


class Parsed(HTMLParser):
    """The elements of a page, its tables and all its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.said: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in VOID:
            return
        self._open.append(tag)
        self.said.setdefault(tag, []).append("")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, text: str) -> None:
        for tag in {*self._open}:
            self.said[tag][-1] += text
        if {"td", "th"} & {*self._open}:
            self.tables[-1][-1][-1] += text

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, *header: str) -> list[list[str]]:
        """Return the rows of the table whose header ends in these cells, without the header."""
        (found,) = (rows for rows in self.tables if rows[0][-len(header) :] == [*header])
        return found[1:]


def require_alone(text: str) -> None:
    """Check that the page neither loads nor sends anything."""
    parsed = Parsed(text)
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "foreignobject"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "xmlns")]
        for name in ("src", "href", "xlink:href", "data", "poster"):
            if (address := attributes.get(name)) is not None:
                within = address.startswith("data:image/png;base64,") if tag == "img" else address.startswith("#")
                assert within, (tag, address)
        styles = " ".join(str(attributes.get(name, "")) for name in ("style", "clip-path", "fill"))
        assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", styles)), styles
    for block in (*parsed.said["style"], *parsed.said["script"]):
        assert not re.search(r"url\(|@import|//|fetch|XMLHttp|innerHTML|eval", block)
    policies = [meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none'; img-src data:;")
    assert "connect-src" not in str(policies[0])
