"""Read .npy and .npz files. The header of each array must match the bytes that follow it; nothing is unpickled."""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from harness.core.reading import Damaged, require_file

UNPACKABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, KeyError, NotImplementedError)
"""Exceptions of zipfile for a damaged archive or an unknown compression. It also raises `OSError`, `RuntimeError`
(a password) and `ValueError`."""
_FORMAT = np.lib.format
_HEADERS = {(1, 0): _FORMAT.read_array_header_1_0, (2, 0): _FORMAT.read_array_header_2_0}
_NO_HEADER = (
    ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip
"""Exceptions of NumPy's header reader for a text that is not a header. The reader uses Python's own parser."""


def read_array(path: Path) -> np.ndarray:
    """Return the array of an .npy file. `Damaged` if the file holds no valid array."""
    require_file(path)
    with open(path, "rb") as file:
        return _array(file, path.stat().st_size)


def mapped_array(path: Path) -> np.ndarray:
    """Return the array of an .npy file as a read-only memory map. `Damaged` if the file holds no valid array."""
    require_file(path)
    with open(path, "rb") as file:
        _check_header(file, path.stat().st_size)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_arrays(source: Path | bytes, only: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return {name: array} of an .npz file, for all arrays or `only` the named ones. `Damaged` if it is not valid."""
    if isinstance(source, Path):
        require_file(source)
    try:
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
            arrays = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if not only or name in only:
                    with archive.open(member) as file:
                        arrays[name] = _array(file, member.file_size)
            return arrays
    except zipfile.BadZipFile as error:
        raise Damaged(f"it is not a valid .npz file: {error}") from error
    except Damaged:
        raise
    except (*UNPACKABLE, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system sets errno; bz2 does not
            raise
        raise Damaged(f"it is damaged: {str(error) or type(error).__name__}") from error


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Return the array in a file of `size` bytes."""
    _check_header(file, size)
    file.seek(0)
    return _FORMAT.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    """Raise `Damaged` unless a file of `size` bytes holds exactly the array that its header describes."""
    try:
        shape, _, dtype = _HEADERS[_FORMAT.read_magic(file)](file)
    except KeyError:
        raise Damaged("its header has neither version 1.0 nor 2.0, those of plain numbers") from None
    except _NO_HEADER as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Damaged(f"it does not begin with a valid .npy header: {reason}") from None
    if dtype.hasobject:
        raise Damaged("it holds pickled Python objects, not numbers or texts")
    stored = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != stored:
        wanted = f"{dtype} {list(shape)}, {math.prod(shape) * dtype.itemsize:,} bytes"
        raise Damaged(f"its header says {wanted}, but {stored:,} bytes follow")
