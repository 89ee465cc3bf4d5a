"""`harness check`: tests whether a user's components keep the promises of their families."""

from __future__ import annotations

import argparse

from harness.core.errors import UserError, listed
from harness.core.progress import shown, terminal
from harness.core.registry import load_plugin, members_of
from harness.testing import promises
from harness.testing.probes import Note


def run(options: argparse.Namespace) -> None:
    """Print how many promises each component keeps; `UserError` if one is broken."""
    console = terminal()
    broken = 0
    named_files = listed(map(str, options.files))
    components = [component for file in options.files for component in members_of(load_plugin(file))]
    checked = shown(map(promises, components), f"checking {named_files}", len(components), console)
    for component, kept in zip(components, checked, strict=True):
        named = f"{component.family} {component.name}"
        for promise, is_kept in kept:
            if not is_kept:
                console.print(f"broken: {named}: {promise}", soft_wrap=True)
            elif isinstance(promise, Note):
                console.print(f"{named}: {promise}", soft_wrap=True)
        broken += sum(not is_kept for _, is_kept in kept)
        counted = [is_kept for promise, is_kept in kept if not isinstance(promise, Note)]
        console.print(f"{named}: {sum(counted)} of {len(counted)} promises kept")
    if broken:
        said = "1 promise is broken" if broken == 1 else f"{broken} promises are broken"
        raise UserError(f"{named_files}: {said}. Fix what is named above.")
