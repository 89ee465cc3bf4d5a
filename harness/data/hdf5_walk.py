"""Read a whole HDF5 file, in a separate process: python harness/data/hdf5_walk.py FILE.

The HDF5 library crashes on some damaged files, and ends the process that reads them. This process can be lost.
"""

from __future__ import annotations

import sys
from typing import Any

import h5py

WHOLE = 1 << 26
"""Size in bytes from which only the first row of a data set is read, to keep the walk short."""


def look(name: str, thing: Any) -> None:
    """Read the attributes of a group or a data set, and the values of a data set."""
    for attribute in thing.attrs:
        thing.attrs[attribute]
    if isinstance(thing, h5py.Dataset):
        thing[()] if thing.nbytes < WHOLE else thing[:1]


if __name__ == "__main__":
    with h5py.File(sys.argv[1]) as file:
        look("", file)
        file.visititems(look)
