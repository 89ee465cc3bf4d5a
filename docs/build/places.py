"""Where the repository's files stand in the site, and links between them.

A page of docs/ stands at the site's top. A file elsewhere that a page links to is copied to the path that it has in the
repository, so that the site is complete without internet. Links in the pages are those of the repository.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TABLES = "results/tables"
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def in_site(path: str) -> str:
    """Return the path in the site of a file or folder of the repository."""
    if path == TABLES:
        return f"{TABLES}/all.md"
    if (ROOT / path / "README.md").is_file() and path != ".":
        path = f"{path}/README.md"
    return "readme.md" if path == "README.md" else path.removeprefix("docs/")


def local(link: str) -> bool:
    """Whether a link leads to another file of the repository."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|#|/", link)


def target(page: str, link: str) -> str:
    """Return the path in the repository to which a link of a page leads, without its anchor."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link.partition("#")[0]))


def rewritten(text: str, page: str) -> str:
    """Return a page's text with the links that hold in the site; `page` is its path in the repository."""
    here = posixpath.dirname(in_site(page))

    def moved(found: re.Match[str]) -> str:
        if not local(found[0]):
            return found[0]
        _, hash_sign, anchor = found[0].partition("#")
        return posixpath.relpath(in_site(target(page, found[0])), here or ".") + hash_sign + anchor

    return _outside_code(text, lambda part: LINK.sub(moved, part))


def with_families(text: str, families: Iterable[str]) -> str:
    """Return docs/components.md with a link to the page of each family in its table; a forge has no such pages."""
    for family in families:
        text = text.replace(f"\n| {family} |", f"\n| [{family}](components/{family}.md) |")
    return text


def spaced(text: str) -> str:
    """Return the text with an empty line before each list, which the site's Markdown needs and a forge's does not."""
    return _outside_code(
        text, lambda part: re.sub(r"^(?![-*] | |\n)(.+)\n(?=[-*] )", r"\1\n\n", part, flags=re.MULTILINE)
    )


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with the parts that are no code changed."""
    ends = [0, *(end for found in _CODE.finditer(text) for end in found.span()), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(ends)]
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def links(path: Path) -> Iterator[str]:
    """Yield the paths in the repository to which a page links, as far as they exist."""
    page = path.relative_to(ROOT).as_posix()
    for link in LINK.findall(_CODE.sub("", path.read_text())):
        if local(link) and (ROOT / target(page, link)).exists():
            yield target(page, link)


def copied() -> list[str]:
    """Return the files outside docs/ that the site needs: all tables, and whatever its pages link to, sorted."""
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    waiting = [*pages, "studies/README.md", *(f"{TABLES}/{path.name}" for path in (ROOT / TABLES).glob("*.md"))]
    found = set(waiting)
    while waiting:
        path = ROOT / waiting.pop()
        new = {link for link in links(path) if (ROOT / link).is_file()} - found if path.suffix == ".md" else set()
        found |= new
        waiting += sorted(new)
    return sorted(path for path in found if not path.startswith("docs/"))


def all_tables() -> str:
    """Return the page that lists the committed tables, with the question of each."""
    rows = ["# All tables", "", "Each table names the command, the commit and the machine that made it.", ""]
    rows += ["| table | question |", "| --- | --- |"]
    for path in sorted((ROOT / TABLES).glob("*.md")):
        title = next((line[2:] for line in path.read_text().splitlines() if line.startswith("# ")), path.stem)
        rows.append(f"| [{path.stem}]({path.name}) | {title} |")
    return "\n".join(rows) + "\n"
