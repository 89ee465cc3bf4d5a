"""Folders of pictures or of latents, fetched when they are asked for: start-up and memory do not grow with the folder.

The class of a file is the folder below the given one that it lies in; files that lie in none have no class. One in ten,
of each class, is held out.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from harness.config import RUN_ONLY, Count, Index, Positive
from harness.data.base import Data, Dataset, existing, held_out, parted
from harness.data.images import decode, encode, mirror
from harness.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HASHED_BYTES = 1 << 30
"""Folders up to this size are told apart by their content, larger ones by the names and sizes of their files."""


class Archive:
    """The files of a folder or a zip, by their names within it."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.sizes = dict(sorted(self._list()))
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read ({error}). Give a folder or a zip of files.") from error

    def _list(self) -> Iterator[tuple[str, int]]:
        if self.path.is_dir():
            for folder, _, files in os.walk(self.path):
                for name in files:
                    whole = Path(folder) / name
                    yield whole.relative_to(self.path).as_posix(), whole.stat().st_size
            return
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                place = PurePosixPath(info.filename)
                if place.is_absolute() or ".." in place.parts:
                    raise UserError(f"{self.path}: holds '{info.filename}', a path that climbs out. Make the zip again.")
                if not info.is_dir():
                    yield info.filename, info.file_size

    def read(self, name: str) -> bytes:
        """The content of one file; `UserError` names it when it cannot be read."""
        try:
            return (self.path / name).read_bytes() if self.path.is_dir() else _zip(str(self.path), os.getpid()).read(name)
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:  # encrypted, unknown, damaged
            raise corrupt(self.path, name, error) from error

    def content(self, names: Sequence[str]) -> Iterator[bytes]:
        """What tells these files from all others."""
        whole = sum(self.sizes[name] for name in names) <= HASHED_BYTES
        for name in names:
            yield f"{name} {self.sizes[name]} {hashlib.sha256(self.read(name)).hexdigest() if whole else ''};".encode()


def corrupt(place: Path, name: str, error: Exception) -> UserError:
    """What is said of a file that cannot be read."""
    reason = "no picture that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error).strip().split("\n")[0]
    return UserError(f"{place}/{name}: cannot be read ({reason}). Remove it, or set dataset.skip_corrupt=true.")


@functools.lru_cache(maxsize=8)
def _zip(path: str, process: int) -> zipfile.ZipFile:
    """An open zip, one for each process: they may not share a position in a file."""
    return zipfile.ZipFile(path)


def _classes(names: Sequence[str], place: Path) -> tuple[Tensor | None, tuple[str, ...]]:
    """The class of each file and what the classes are called; None where no file lies in a folder."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    if "" in folders:
        if len(loose := [name for name in names if "/" not in name]) < len(names):
            raise UserError(f"{place}: '{loose[0]}' lies in no folder, others do, so its class is unknown. Move it into one.")
        return None, ()
    known = sorted(set(folders))
    return torch.tensor([known.index(folder) for folder in folders]), tuple(known)


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """A folder or zip of files of one kind."""

    endings: ClassVar[tuple[str, ...]]

    path: str = field(metadata=RUN_ONLY)
    """The folder or zip; relative paths begin in HARNESS_DATA, or else in data/."""
    workers: Index = field(default=2, metadata=RUN_ONLY)
    """Processes that fetch batches ahead of training."""

    def files(self) -> tuple[Archive, list[str]]:
        """The archive and the names of its files that count, in order."""
        archive = Archive(existing(self.path, "a folder or zip"))
        names = [n for n in archive.sizes if n.lower().endswith(self.endings) and not n.startswith("__MACOSX/")]
        if not names:
            raise UserError(f"{archive.path}: holds no {' or '.join(self.endings[:3])} file. Give another folder.")
        return archive, names


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Folder, name="image_folder"):
    """Pictures of any size and format in a folder or zip: shorter side resized, centre cropped; class by subfolder."""

    endings = PICTURES

    size: Count
    """Height and width that pictures are brought to, in pixels."""
    colour: Literal["rgb", "grey"] = "rgb"
    """Grey pictures become colour, or the reverse; what is transparent is laid on white."""
    flip: bool = False
    """Whether training turns each picture left to right half of the time."""
    skip_corrupt: bool = False
    """Leave out, and name, pictures that cannot be read, instead of stopping; all are read once at the start."""

    def load(self) -> Data:
        archive, names = self.files()
        if self.skip_corrupt:
            names = self._readable(archive, names)
        classes, class_names = _classes(names, archive.path)
        apart = held_out(len(names), 10, classes)
        parts = [
            Pictures(archive, [n for n, a in zip(names, apart, strict=True) if a == held], self.size, self.colour, self.workers)
            for held in (False, True)
        ]
        return Data(
            parts[0], parts[1], encode, decode, "image", *parted(classes, apart), class_names,
            augment=mirror if self.flip else None,
        )  # fmt: skip

    def _readable(self, archive: Archive, names: list[str]) -> list[str]:
        pictures = Pictures(archive, names, self.size, self.colour, 0)

        def reason(number: int) -> str | None:
            try:
                pictures.fetch(number)
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            reasons = list(pool.map(reason, range(len(names))))
        for said in filter(None, reasons):
            print(f"left out: {said.partition('. Remove')[0]}", flush=True)
        return [name for name, said in zip(names, reasons, strict=True) if said is None]


class Pictures:
    """uint8 [N, C, size, size], decoded when asked for."""

    def __init__(self, archive: Archive, names: list[str], size: int, colour: str, workers: int):
        self.archive, self.names, self.size, self.colour, self.workers = archive, names, size, colour, workers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self.fetch(i) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        yield f"pictures {self.size} {self.colour};".encode()
        yield from self.archive.content(self.names)

    def fetch(self, number: int) -> Tensor:
        """One picture, uint8 [C, size, size]; `UserError` names it when it cannot be read."""
        name = self.names[number]
        try:
            with Image.open(io.BytesIO(self.archive.read(name))) as picture:
                whole = _eight_bits(ImageOps.exif_transpose(picture)).convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
            fitted = ImageOps.fit(opaque.convert("RGB" if self.colour == "rgb" else "L"), (self.size, self.size), Image.Resampling.LANCZOS)
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise corrupt(self.archive.path, name, error) from error
        pixels = torch.from_numpy(np.array(fitted))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of sixteen bits scaled to eight, which Pillow would clip; others as they are."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True, kw_only=True)
class LatentFolder(Folder, name="latents"):
    """Latents of an autoencoder, one .npy [C, H, W] of floats a picture, in a folder; class by subfolder. They are judged as values."""

    source: ClassVar[str] = "as SiT and DiT are trained: Rombach et al. 2022"
    endings = (".npy",)

    scale: Positive = 0.18215
    """z is trained on as (z - shift) * scale; Stable Diffusion's first autoencoder has 0.18215 and no shift."""
    shift: float = 0.0

    def load(self) -> Data:
        archive, names = self.files()
        if not archive.path.is_dir():
            raise UserError(f"{archive.path}: latents are read from a folder, so that they need not be held in memory. Unpack it.")
        classes, class_names = _classes(names, archive.path)
        apart = held_out(len(names), 10, classes)
        train, held = ([n for n, a in zip(names, apart, strict=True) if a == part] for part in (False, True))
        latents, scale, shift = Latents(archive, train, self.workers), self.scale, self.shift
        return Data(
            latents, Latents(archive, held, self.workers, latents.latent_shape),
            lambda z: (z.float() - shift) * scale, lambda x: x.float() / scale + shift, "latents",
            *parted(classes, apart), class_names,
            statistics={"scale": torch.tensor(scale), "shift": torch.tensor(shift)},
        )  # fmt: skip


class Latents:
    """float32 [N, C, H, W], read when asked for."""

    def __init__(self, archive: Archive, names: list[str], workers: int, shape: tuple[int, ...] | None = None):
        self.archive, self.names, self.workers = archive, names, workers
        self.latent_shape = shape or tuple(self._read(names[0], None).shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self._read(self.names[i], self.latent_shape) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        yield from self.archive.content(self.names)

    def _read(self, name: str, wanted: tuple[int, ...] | None) -> Tensor:
        place = self.archive.path / name
        try:
            array = np.load(place, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{place}: cannot be read ({error}). Make it again.") from error
        if not isinstance(array, np.ndarray):
            raise UserError(f"{place}: holds several arrays, not one [C, H, W]. Make it again.")
        if array.ndim != 3 or array.shape != (wanted or array.shape) or array.dtype.kind != "f" or not np.isfinite(array).all():
            expected = list(wanted) if wanted else "[C, H, W]"
            raise UserError(f"{place}: holds {array.dtype} {list(array.shape)}, not finite floats {expected}. Make it again.")
        return torch.from_numpy(array.astype(np.float32))
