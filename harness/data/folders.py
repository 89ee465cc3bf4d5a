"""Folders of pictures. Files are read on demand: start-up time and memory do not grow with the folder.

The class of a file is its top-level subfolder; files in no subfolder have no class. One file in ten, of each class, is
held out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from harness.core.config import RUN_ONLY, Range
from harness.core.errors import ConfigError, UserError
from harness.core.progress import shown
from harness.data.archive import Archive, Source, corrupt
from harness.data.base import Data, Dataset, existing, held_out, parted
from harness.data.decoding import DAMAGED, Depth, open_picture, stated, survey
from harness.data.images import decode, encode, mirror

S = TypeVar("S")
T = TypeVar("T")
PICTURES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe",
)  # fmt: skip
SPLITS = {
    "train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "held_out",
    "holdout",
}  # fmt: skip
"""Names of folders in a data set that is already split."""


def classes_by_folder(names: Sequence[str], place: object) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the class of each file, int64 [N], and the classes' names; (None, ()) if no file is in a subfolder."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    known = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    if len(splits := [folder for folder in known if folder.lower() in SPLITS]) > 1:
        said = f"{place}: the folders {', '.join(splits)} have names of splits, not of classes"
        raise UserError(f"{said}. Give one of them (one file in ten, of each class, is held out), or rename them.")
    if "" in known:
        if len(loose := [name for name in names if "/" not in name]) < len(names):
            raise UserError(
                f"{place}: '{loose[0]}' is in no subfolder, but other files are. Move it to the folder of its class."
            )
        return None, ()
    return torch.tensor([known[folder] for folder in folders], dtype=torch.int64), tuple(known)


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """A folder or zip of files of one kind."""

    endings: ClassVar[tuple[str, ...]]

    path: str = field(metadata=RUN_ONLY)
    """The folder or zip; relative paths begin in HARNESS_DATA, or else in data/."""
    workers: Annotated[int, Range(0, 256, why="each is a process")] = field(default=2, metadata=RUN_ONLY)
    """Processes that fetch batches ahead of training; 0 fetches them in the training process."""

    def files(self) -> tuple[Archive, list[str]]:
        """Return the archive and the sorted names of its files; `UserError` if it has none."""
        archive = Archive(existing(self.path, "a folder or zip"), self.endings)
        if not archive.files:
            others = f", but {'; '.join(archive.others())}" if archive.others() else ""
            raise UserError(
                f"{archive.path}: holds no {' or '.join(self.endings[:3])} file{others}. Give another folder."
            )
        return archive, list(archive.files)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Folder, name="image_folder"):
    """Pictures of any size and format in a folder or zip, resized and centre-cropped; class by subfolder."""

    endings = PICTURES

    size: Annotated[int, Range(1, 16_384, why="a picture of that size takes 0.8 GB")]
    """Height and width of the samples, in pixels: the shorter side of a picture is resized, its centre cropped."""
    colour: Literal["rgb", "grey"] = "rgb"
    """Colours of the samples; pictures are converted. Transparent pixels are placed on white."""
    flip: bool = False
    """Whether training mirrors each picture left to right with probability 1/2."""
    levels: tuple[float, ...] = ()
    """Values of black and white in pictures of more than 8 bits, like [0, 4095]; empty to use their headers."""
    skip_corrupt: bool = False
    """Leave out unreadable pictures and name them, instead of stopping. This reads all pictures once at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels and not (len(self.levels) == 2 and self.levels[0] < self.levels[1]):
            raise ConfigError(
                "levels", f"{list(self.levels)} is not a lower and a higher value. Give two numbers, like [0,4095]."
            )

    def load(self) -> Data:
        source, names = self.gather()
        depth, said = survey(source, names, self.levels)
        if self.skip_corrupt:
            names, damaged = self._readable(source, names, depth)
            said += damaged
        classes, class_names = self.classes_of(source, names)
        apart = held_out(len(names), 10, classes)
        split = ([n for n, a in zip(names, apart, strict=True) if a == wanted] for wanted in (False, True))
        train, held = (self.pictures(source, own, self.workers, depth) for own in split)
        return Data(
            train, held, encode, decode, "image", *parted(classes, apart), class_names,
            augment=mirror if self.flip else None, known_shape=(3 if self.colour == "rgb" else 1, *train.sides),
            notes=(*source.left_out(), *said),
        )  # fmt: skip

    def gather(self) -> tuple[Source, list[str]]:
        """Return where the pictures lie, and their names."""
        return self.files()

    def classes_of(self, source: Source, names: list[str]) -> tuple[Tensor | None, tuple[str, ...]]:
        """Return the class of each picture, int64 [N], and the classes' names; (None, ()) without classes."""
        return classes_by_folder(names, source.path)

    def pictures(self, source: Source, names: list[str], workers: int, depth: Depth) -> Pictures:
        """Return pictures as samples, which `workers` processes decode."""
        return Pictures(source, names, (self.size, self.size), self.colour, workers, depth)

    def _readable(self, source: Source, names: list[str], depth: Depth) -> tuple[list[str], list[str]]:
        """Return the names of the readable pictures, and a line on each of the others."""
        pictures = self.pictures(source, names, 0, depth)

        def reason(number: int) -> str | None:
            try:
                pictures.fetch(number)
            except UserError as error:
                return str(error)
            return None

        reasons = _each(reason, range(len(names)), f"reading {source.path}")
        damaged = [f"left out: {said.partition('. Remove')[0]}" for said in reasons if said]
        return [name for name, said in zip(names, reasons, strict=True) if said is None], damaged


def _each(function: Callable[[S], T], items: Sequence[S], title: str) -> list[T]:
    """Apply a function to each item, several at once, and show the progress."""
    with ThreadPoolExecutor() as pool:
        return list(shown(pool.map(function, items), title, len(items)))


def refuse_damaged(data: Data) -> None:
    """Raise `UserError` if the header of a picture cannot be read; it names the first, and counts the others."""
    pictures = [samples for samples in (data.train, data.held_out) if isinstance(samples, Pictures)]
    found = sorted((each for samples in pictures for each in samples.damage()), key=lambda each: each[0])
    if found:
        raise corrupt(*found[0], [str(place) for place, _ in found[1:]])


class Pictures:
    """Pictures, uint8 [N, C, *sides], decoded on demand."""

    def __init__(
        self, source: Source, names: list[str], sides: tuple[int, int], colour: str, workers: int, depth: Depth
    ):
        self.source = source
        self.names = names
        self.depth = depth
        self.sides = sides
        """Height and width."""
        self.colour = colour
        self.workers = workers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self.fetch(i) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        height, width = self.sides
        size = f"{height}" if height == width else f"{height}x{width}"
        yield f"pictures {size} {self.colour} {self.depth.levels};".encode()
        yield from self.source.content(self.names)

    def damage(self) -> list[tuple[Path, Exception]]:
        """Return the pictures whose headers cannot be read, and why. The pixels are not read."""

        def reason(name: str) -> Exception | None:
            try:
                with self.source.open(name) as file, open_picture(file):
                    return None
            except UserError:
                raise
            except DAMAGED as error:
                return error

        reasons = _each(reason, self.names, f"reading the headers in {self.source.path}")
        return [(self.source.where(n), why) for n, why in zip(self.names, reasons, strict=True) if why is not None]

    def fetch(self, number: int) -> Tensor:
        """Decode one picture to uint8 [C, *sides]; `UserError` names it if it cannot be read."""
        name = self.names[number]
        try:
            with open_picture(io.BytesIO(self.source.read(name))) as picture:
                values = stated(picture)
                upright = ImageOps.exif_transpose(picture)
                whole = self.depth.eight_bits(upright, values, self.source.where(name)).convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
            fitted = self.fitted(opaque.convert("RGB" if self.colour == "rgb" else "L"), name)
        except UserError:
            raise
        except DAMAGED as error:
            raise corrupt(self.source.where(name), error) from error
        pixels = torch.from_numpy(np.array(fitted))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()

    def fitted(self, picture: Image.Image, name: str) -> Image.Image:
        """Return a picture with the sides of the samples: the shorter side resized, the centre cropped."""
        return ImageOps.fit(picture, self.sides[::-1], Image.Resampling.LANCZOS)
