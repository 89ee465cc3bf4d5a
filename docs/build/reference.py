"""The page of the public names, which mkdocstrings fills from their docstrings."""

from __future__ import annotations

import functools

import harness
from harness.core import registry

HEAD = """# API reference

The names of `harness` are for notebooks and scripts. Each is imported on first use, so `import harness` is quick.
[The notebook](first_study.ipynb) uses them. A component of your own derives from the base class of its family.
"""
TESTING = "\n## harness.testing\n\n::: harness.testing.contract.promises\n    options:\n      heading: promises\n"


def page() -> str:
    """Return the Markdown of the page."""
    homes = {"load_run": "harness", **harness._HOMES}
    parts = [HEAD, "\n## harness\n"]
    parts += [_entry(f"{homes[name]}.{name}", f"harness.{name}") for name in sorted(homes)]
    parts += [TESTING, "\n## Base classes of the families\n"]
    parts += [_entry(f"{base.__module__}.{base.__qualname__}", base.__qualname__) for base in bases().values()]
    return "".join(parts)


def _entry(path: str, heading: str) -> str:
    return f"\n::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading}\n"


@functools.cache
def bases() -> dict[str, type[registry.Component]]:
    """Return {family: its base class}."""
    for family in registry.HOMES:
        registry.names(family)
    return {family: registry._BASES[family] for family in registry.HOMES}
