"""The files of a folder or a zip: which are used, which are left out and why, and their content."""

from __future__ import annotations

import functools
import os
import posixpath
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, NoReturn, Protocol

from PIL import UnidentifiedImageError

from harness.core.arrays import UNPACKABLE
from harness.core.errors import UserError
from harness.data.hashes import Stamp, digests

LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
"""Files and folders that operating systems create, in lower case. Names that begin with a dot are hidden too."""
UNREADABLE = (OSError, RuntimeError, ValueError, *UNPACKABLE)
"""Exceptions for a file of a folder or zip that is gone, damaged, encrypted or compressed in an unknown way."""
LARGEST = 1 << 30
"""Maximum size of a file that is held in memory, in bytes."""
NAMED = 5
"""Maximum number of names in a line; the line counts the rest."""


class File(NamedTuple):
    """A file of an archive."""

    place: str
    """Its path below the archive's path; in a zip, the name of the member."""
    size: int
    """Bytes."""
    stamp: Stamp


class Source(Protocol):
    """Pictures by name: the files of an `Archive`, or the rows of a table."""

    path: Path

    def where(self, name: str) -> Path:
        """Return where a picture lies, for messages."""

    def open(self, name: str) -> IO[bytes]:
        """Open the bytes of a picture for reading."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a picture; `UserError` if they cannot be read."""

    def content(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield bytes that identify these pictures."""

    def left_out(self) -> list[str]:
        """Return lines that say what is left out and why."""


class Archive:
    """The files of a folder or a zip that end in one of `endings`, by their names within it.

    Links are followed, each folder once. If all files are in subfolders of one folder, their names begin below it.
    Hidden files and the files of operating systems are left out. `UserError` if the path cannot be read.
    """

    def __init__(self, path: Path, endings: tuple[str, ...]):
        self.path = path
        self.endings = endings
        self.zipped = not path.is_dir()
        self._hidden: list[str] = []
        self._links: list[str] = []
        self._twice: list[str] = []
        self._folders: set[str] = set()
        try:
            self.version = _mark(os.stat(path))
            members = dict(self._members() if self.zipped else self._walk())  # the later of two with one name
        except UserError:
            raise
        except UNREADABLE as error:
            raise UserError(f"{path}: cannot be read ({error}). Give a folder or a zip of files.") from error
        found = dict(sorted(members.items()))
        counted = [name for name in found if name.lower().endswith(endings)]
        self.root = _common(counted)
        self.files = {name.removeprefix(self.root): found[name] for name in counted}
        self._others = [name.removeprefix(self.root) for name in found.keys() - set(counted)]

    def _walk(self) -> Iterator[tuple[str, File]]:
        """Yield the files of a folder: first those inside it, then those behind links."""
        seen = {_identity(folder) for folder in self.path.resolve().parents}
        waiting = [str(self.path)]
        while waiting:
            for folder, below, files in os.walk(waiting.pop(0), onerror=_raise):
                if (identity := _identity(folder)) in seen:
                    self._links.append(os.path.relpath(folder, self.path))
                    below.clear()
                    continue
                seen.add(identity)
                self._folders.add(os.path.relpath(folder, self.path))
                below[:] = sorted(name for name in below if not self._hides(name))
                waiting += [whole for name in below if os.path.islink(whole := os.path.join(folder, name))]
                yield from self._within(folder, files)

    def _within(self, folder: str, names: list[str]) -> Iterator[tuple[str, File]]:
        """Yield the visible files of one folder, and note broken links."""
        for name in names:
            if self._hides(name):
                continue
            place = os.path.relpath(os.path.join(folder, name), self.path)
            try:
                found = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                self._links.append(place)
                continue
            if stat.S_ISREG(found.st_mode):
                yield place, File(place, found.st_size, Stamp(_mark(found), max(found.st_mtime_ns, found.st_ctime_ns)))

    def _members(self) -> Iterator[tuple[str, File]]:
        """Yield the files of a zip, whose names may have backslashes; note the names that occur twice."""
        names = set()
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                place = PurePosixPath(info.filename.replace("\\", "/"))
                if place.is_absolute() or ".." in place.parts or PureWindowsPath(info.filename).is_absolute():
                    said = f"{self.path}: holds '{info.filename}', a path that leads out of the zip"
                    raise UserError(f"{said}. Make the zip again.")
                folder = info.filename.endswith(("/", "\\"))
                above = ([place] if folder else []) + list(place.parents)
                self._folders.update(str(each) for each in above if not any(map(_is_hidden, each.parts)))
                if not any(self._hides(part) for part in place.parts) and not folder:
                    self._twice += [str(place)] * (str(place) in names)
                    names.add(str(place))
                    yield str(place), File(info.filename, info.file_size, Stamp(f"{info.file_size} {info.CRC}", 0))

    def _hides(self, name: str) -> bool:
        """Return whether a file or folder of this name is hidden, and note it."""
        if hidden := _is_hidden(name):
            self._hidden.append(name)
        return hidden

    def where(self, name: str) -> Path:
        """Return the whole path of a file, for messages."""
        return self.path / self.files[name].place

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        place = self.files[name].place
        if not self.zipped:
            return open(self.path / place, "rb")
        return _zip(str(self.path), self.version, os.getpid()).open(place)

    def read(self, name: str) -> bytes:
        """Return the content of a file; `UserError` if it cannot be read or is larger than `LARGEST`."""
        if (size := self.files[name].size) > LARGEST:
            raise corrupt(self.where(name), ValueError(f"it has {size:,} bytes, more than {LARGEST:,}"))
        try:
            with self.open(name) as file:
                return file.read()
        except UNREADABLE as error:
            raise corrupt(self.where(name), error) from error

    def content(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield bytes that identify these files: name, size and hash of each."""
        for name, digest in zip(names, digests(self, names), strict=True):
            yield f"{name} {self.files[name].size} {digest};".encode(errors="surrogateescape")

    def others(self) -> list[str]:
        """Return a line for each other ending: the number of files, and their top-level folders."""
        counts = Counter(PurePosixPath(name).suffix.lower() for name in self._others)
        folders = {ending: set[str]() for ending in counts}
        for name in self._others:
            folders[PurePosixPath(name).suffix.lower()].add(_top(name))
        lines = []
        for ending, number in sorted(counts.items()):
            kind = f"file{'s' * (number > 1)} {f'ending in {ending}' if ending else 'without an ending'}"
            where = _some(sorted(folders[ending] - {""}))
            lines.append(f"{number} {kind}{f', in {where}' if where else ''}")
        return lines

    def left_out(self) -> list[str]:
        """Return lines that name what is left out and why, and the folder above the classes."""
        lines = [f"all files lie in '{self.root[:-1]}': the folders in it are the classes"] if self.root else []
        lines += [f"left out: {line}" for line in self.others()]
        within = (f"{folder}/" for folder in self._folders)
        tops = {_top(each.removeprefix(self.root)) for each in within if not self.root.startswith(each)} - {"."}
        if without := sorted(tops - set(map(_top, self.files))):
            lines.append(f"left out: {_some(without)}, in which no file ends in {', '.join(self.endings)}")
        if self._hidden:
            lines.append(f"left out as hidden: {_some(sorted(set(self._hidden)))}")
        if self._links:
            why = "as a broken link or a link to a folder that is read already"
            lines.append(f"left out, {why}: {_some(sorted(self._links))}")
        if self._twice:
            lines.append(f"left out, as another file has the same name: {_some(sorted(self._twice))}")
        return lines


def _some(names: Sequence[str]) -> str:
    """Join the first `NAMED` names, and count the rest."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{rest}"


def corrupt(place: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be read."""
    reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "Pillow does not know its format"
    return UserError(f"{place}: cannot be read ({reason}). Remove it, or set dataset.skip_corrupt=true.")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _common(names: Sequence[str]) -> str:
    """Return the path, ending in a slash, of the folder whose subfolders contain all files; empty if there is none."""
    folders = {posixpath.dirname(name) for name in names}
    shared = posixpath.commonpath(folders) if folders else ""
    if folders == {shared}:
        shared = posixpath.dirname(shared)
    return f"{shared}/" if shared else ""


def _top(name: str) -> str:
    """Return the top-level folder of a file; empty if it is in no folder."""
    return name.partition("/")[0] if "/" in name else ""


def _mark(found: os.stat_result) -> str:
    """Return size, times of change and inode; a change of content changes one of them."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _raise(error: OSError) -> NoReturn:
    raise error


@functools.lru_cache(maxsize=8)
def _zip(path: str, version: str, process: int) -> zipfile.ZipFile:
    """Open a zip once for each version of the file and each process: processes must not share a file position."""
    return zipfile.ZipFile(path)
