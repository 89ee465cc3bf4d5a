"""`harness check`: tests whether a user's components keep the promises of their families."""

from __future__ import annotations

import argparse

from harness.core.errors import UserError
from harness.core.progress import shown, terminal
from harness.core.registry import load_plugin, members_of
from harness.testing import promises


def run(options: argparse.Namespace) -> None:
    """Print how many promises each component keeps; `UserError` if one is broken."""
    console = terminal()
    broken = 0
    components = members_of(load_plugin(options.file))
    checked = shown(map(promises, components), f"checking {options.file}", len(components), console)
    for component, kept in zip(components, checked, strict=True):
        named = f"{component.family} {component.name}"
        for promise, is_kept in kept:
            if not is_kept:
                console.print(f"broken: {named}: {promise}")
        broken += sum(not is_kept for _, is_kept in kept)
        console.print(f"{named}: {sum(k for _, k in kept)} of {len(kept)} promises kept")
    if broken:
        raise UserError(f"{options.file}: {broken} promises are broken. Fix the components named above.")
