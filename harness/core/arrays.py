"""NumPy's files, read only where the header of each array and the bytes behind it agree; nothing is unpickled."""

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
"""What zipfile raises of a damaged archive, or of one that is packed in a way that it does not know, beside `OSError`,
`RuntimeError` (a password) and `ValueError`."""
_FORMAT = np.lib.format
_HEADERS = {(1, 0): _FORMAT.read_array_header_1_0, (2, 0): _FORMAT.read_array_header_2_0}
_NO_HEADER = (
    ValueError, TypeError, SyntaxError, OverflowError, RecursionError, MemoryError, tokenize.TokenError,
)  # fmt: skip
"""What NumPy's reader of headers, which is Python's own, raises of texts that are none."""


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy file; `Damaged` where there is none."""
    require_file(path)
    with open(path, "rb") as file:
        return _array(file, path.stat().st_size)


def mapped_array(path: Path) -> np.ndarray:
    """The same, left on disk and read where it is asked for."""
    require_file(path)
    with open(path, "rb") as file:
        _check_header(file, path.stat().st_size)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_arrays(source: Path | bytes, only: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, all or `only` some; `Damaged` where it is none."""
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
        raise Damaged(f"it is no .npz, or a damaged one: {error}") from error
    except Damaged:
        raise
    except (*UNPACKABLE, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's; the others are of bz2
            raise
        raise Damaged(f"it is damaged: {str(error) or type(error).__name__}") from error


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array in a file of so many bytes."""
    _check_header(file, size)
    file.seek(0)
    return _FORMAT.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    """`Damaged` where a file of so many bytes does not hold the array that it begins to describe."""
    try:
        shape, _, dtype = _HEADERS[_FORMAT.read_magic(file)](file)
    except KeyError:
        raise Damaged("its header is of a version that holds no plain numbers") from None
    except _NO_HEADER as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Damaged(f"it begins with no header of an array: {reason}") from None
    if dtype.hasobject:
        raise Damaged("it holds pickled Python objects, not numbers or texts")
    stored = size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != stored:
        wanted = f"{dtype} {list(shape)}, {math.prod(shape) * dtype.itemsize:,} bytes"
        raise Damaged(f"its header says {wanted}, and {stored:,} bytes follow")
