"""A figure as inline SVG for a page: no addresses, ids of one figure only, text and axes in the page's colour."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "data-key"
"""The attribute that holds the key of an artist: its gid, of the form `_KEYS`. Several artists may have the same."""
_KEYS = re.compile(r"[a-z]+-\d+")
_OWN_IDS = re.compile(r"m[0-9a-f]{10}|p[0-9a-f]{10}")
"""Ids of markers and clip paths, which other elements name."""
_DARK = re.compile(r"#([0-4][0-9a-f])\1\1\b")
"""Black and dark greys."""
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")


def inline(figure: Figure, name: str, about: str) -> str:
    """Return a figure as an SVG element for HTML, the same on every call; `about` says what it shows.

    `name` is unique on the page, in letters and digits. Black and dark grey become the colour of the text around it;
    white becomes the page's colour `--paper`.
    """
    root = ElementTree.fromstring(_saved(figure, name))
    for element in root.iter():
        element.tag = _local(element.tag)
        element.tail = None
        if element.tag != "text":
            element.text = None
    for parent in root.iter():
        for child in [child for child in parent if child.tag in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        element.attrib = {key: _short(value) for key, value in _attributes(element, name).items()}
    box = root.get("viewBox", "")
    root.attrib = {"viewBox": box, "role": "img", "aria-label": about, "fill": "currentColor"}
    return ElementTree.tostring(root, encoding="unicode")


def _saved(figure: Figure, name: str) -> bytes:
    """Return the figure as Matplotlib writes it, with text as text and no text read as a formula."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    content = io.BytesIO()
    settings: Any = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": name}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's browser has others
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


def _attributes(element: ElementTree.Element, name: str) -> dict[str, str]:
    """Return the attributes of an element, with ids that only this figure has."""
    found = {_local(key): value for key, value in element.attrib.items()}
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    if (own := found.pop("id", None)) is not None:
        if _OWN_IDS.fullmatch(own):
            found["id"] = f"{name}-{own}"
        elif _KEYS.fullmatch(own):
            found[KEY] = own
    if "href" in found:
        found["href"] = found["href"].replace("#", f"#{name}-")
    if "clip-path" in found:
        found["clip-path"] = found["clip-path"].replace("#", f"#{name}-")
    if "style" in found:
        style = re.sub(r"font-family:[^;]*;? ?", "", found["style"])
        found["style"] = _DARK.sub("currentColor", style).replace("#ffffff", "var(--paper)")
    return found


def _local(name: str) -> str:
    """Return a name without its namespace: HTML knows the names of SVG."""
    return name.rpartition("}")[2]


def _short(value: str) -> str:
    """Return a value on one line, with at most two decimals in its numbers: a hundredth of a point."""
    return _LONG.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), " ".join(value.split()))
