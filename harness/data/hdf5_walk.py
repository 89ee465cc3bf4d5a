"""Reads an HDF5 file whole, in a process of its own: python harness/data/hdf5_walk.py FILE.

HDF5's own code crashes on some damaged files, and with it the process that reads them. Here nothing else is lost.
"""

from __future__ import annotations

import sys
from typing import Any

import h5py

WHOLE = 1 << 26
"""Bytes above which a data set's first row alone is read: the walk should be short beside what follows."""


def look(name: str, thing: Any) -> None:
    """Read the attributes of a group or a data set, and what a data set holds."""
    for attribute in thing.attrs:
        thing.attrs[attribute]
    if isinstance(thing, h5py.Dataset):
        thing[()] if thing.nbytes < WHOLE else thing[:1]


if __name__ == "__main__":
    with h5py.File(sys.argv[1]) as file:
        look("", file)
        file.visititems(look)
