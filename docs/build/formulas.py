"""Formulas as MathML, which browsers draw without a script or a font from elsewhere."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def drawn(page: str) -> str:
    """Return a page's HTML with MathML in place of the formulas that `pymdownx.arithmatex` marked."""

    def mathml(found: re.Match[str]) -> str:
        block = found[1] == "div"
        made = convert(html.unescape(found[2]), display="block" if block else "inline")
        return f'<div class="formula">{made}</div>' if block else made

    return _FORMULA.sub(mathml, page)
