"""MkDocs calls these functions: they add the generated pages and the tables, and change links and formulas.

`make docs` runs MkDocs from the repository's root, from which the modules are imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mkdocs.structure.files import File, Files

from docs.build import formulas, places, plots, reference
from docs.build.families import page
from harness.core.registry import HOMES


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each family, its pictures, the reference, and the files outside docs/ that pages link to."""
    torch.set_num_threads(1)  # the pictures compute on few numbers, for which threads wait longer than they work
    made: dict[str, str | bytes] = {"reference.md": reference.page(), f"{places.TABLES}/all.md": places.all_tables()}
    for family in HOMES:
        made[f"components/{family}.md"] = page(family, plots.pictures(family))
    for one in plots.all_pictures():
        made[f"components/plots/{one.name}-light.svg"] = one.light
        made[f"components/plots/{one.name}-dark.svg"] = one.dark
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for path in places.copied():
        files.append(File.generated(config, places.in_site(path), abs_src_path=str(places.ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Change the links of the repository into those of the site."""
    source = page.file.abs_src_path
    if source is None:
        return markdown
    path = Path(source).relative_to(places.ROOT).as_posix()
    if path == "docs/components.md":
        markdown = places.with_families(markdown, HOMES)
    return places.spaced(places.rewritten(markdown, path))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Draw the formulas."""
    return formulas.drawn(html)
