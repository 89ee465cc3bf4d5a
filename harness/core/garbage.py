"""What the garbage collector need not visit: the half a million objects of large libraries, which stay to the end."""

from __future__ import annotations

import gc


def pass_over() -> None:
    """Let the collector pass over all objects that exist now; the installed command calls it after large imports.

    Does nothing in a process that began with the collector, like a notebook: its objects may go.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        gc.freeze()
        gc.enable()
