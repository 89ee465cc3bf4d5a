"""Folders of pictures or of latents, fetched when they are asked for: start-up and memory do not grow with the folder.

The class of a file is the folder below the given one that it lies in; files that lie in none have no class. One in ten,
of each class, is held out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from harness.core.arrays import read_array
from harness.core.config import RUN_ONLY, Positive, Range
from harness.core.errors import ConfigError, UserError
from harness.core.progress import shown
from harness.core.reading import Damaged
from harness.data.archive import Archive, corrupt
from harness.data.base import Data, Dataset, existing, held_out, parted
from harness.data.decoding import DAMAGED, Depth, open_picture, stated, survey
from harness.data.images import decode, encode, mirror

PICTURES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe",
)  # fmt: skip
SPLITS = {
    "train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "held_out",
    "holdout",
}  # fmt: skip
"""What the folders of a data set that is split already are called."""


def _classes(names: Sequence[str], place: object) -> tuple[Tensor | None, tuple[str, ...]]:
    """The class of each file and what the classes are called; None where no file lies in a folder."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    known = {folder: number for number, folder in enumerate(sorted(set(folders)))}
    if len(splits := [folder for folder in known if folder.lower() in SPLITS]) > 1:
        said = f"{place}: the folders {', '.join(splits)} are called like splits of a data set, not like classes"
        raise UserError(f"{said}. Give one of them (one in ten, of each class, is held out of it), or rename them.")
    if "" in known:
        if len(loose := [name for name in names if "/" not in name]) < len(names):
            raise UserError(
                f"{place}: '{loose[0]}' lies in no folder, others do, so its class is unknown. Move it into one."
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
    """Processes that fetch batches ahead of training."""

    def files(self) -> tuple[Archive, list[str]]:
        """The archive and the names of its files that count, in order."""
        archive = Archive(existing(self.path, "a folder or zip"), self.endings)
        if not archive.files:
            others = f", but {'; '.join(archive.others())}" if archive.others() else ""
            raise UserError(
                f"{archive.path}: holds no {' or '.join(self.endings[:3])} file{others}. Give another folder."
            )
        return archive, list(archive.files)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Folder, name="image_folder"):
    """Pictures of any size and format in a folder or zip: shorter side resized, centre cropped; class by subfolder."""

    endings = PICTURES

    size: Annotated[int, Range(1, 16_384, why="a picture of that size takes 0.8 GB")]
    """Height and width that pictures are brought to, in pixels."""
    colour: Literal["rgb", "grey"] = "rgb"
    """Grey pictures become colour, or the reverse; what is transparent is laid on white."""
    flip: bool = False
    """Whether training turns each picture left to right half of the time."""
    levels: tuple[float, ...] = ()
    """Values that become black and white in pictures of more than 8 bits, like [0, 4095]; empty: as their files
    state."""
    skip_corrupt: bool = False
    """Leave out, and name, pictures that cannot be read, instead of stopping; all are read once at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels and not (len(self.levels) == 2 and self.levels[0] < self.levels[1]):
            raise ConfigError(
                "levels", f"{list(self.levels)} is no pair of a lower and a higher value. Give two, like [0,4095]."
            )

    def load(self) -> Data:
        archive, names = self.files()
        depth, said = survey(archive, names, self.levels)
        if self.skip_corrupt:
            names, damaged = self._readable(archive, names, depth)
            said += damaged
        classes, class_names = _classes(names, archive.path)
        apart = held_out(len(names), 10, classes)
        split = ([n for n, a in zip(names, apart, strict=True) if a == wanted] for wanted in (False, True))
        train, held = (Pictures(archive, own, self.size, self.colour, self.workers, depth) for own in split)
        return Data(
            train, held, encode, decode, "image", *parted(classes, apart), class_names,
            augment=mirror if self.flip else None, known_shape=(3 if self.colour == "rgb" else 1, self.size, self.size),
            notes=(*archive.left_out(), *said),
        )  # fmt: skip

    def _readable(self, archive: Archive, names: list[str], depth: Depth) -> tuple[list[str], list[str]]:
        """The names of the pictures that can be read, and what is said of the others."""
        pictures = Pictures(archive, names, self.size, self.colour, 0, depth)

        def reason(number: int) -> str | None:
            try:
                pictures.fetch(number)
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            reasons = list(shown(pool.map(reason, range(len(names))), f"reading {archive.path}", len(names)))
        damaged = [f"left out: {said.partition('. Remove')[0]}" for said in reasons if said]
        return [name for name, said in zip(names, reasons, strict=True) if said is None], damaged


class Pictures:
    """uint8 [N, C, size, size], decoded when asked for."""

    def __init__(self, archive: Archive, names: list[str], size: int, colour: str, workers: int, depth: Depth):
        self.archive = archive
        self.names = names
        self.depth = depth
        self.size = size
        self.colour = colour
        self.workers = workers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self.fetch(i) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        yield f"pictures {self.size} {self.colour} {self.depth.levels};".encode()
        yield from self.archive.content(self.names)

    def fetch(self, number: int) -> Tensor:
        """One picture, uint8 [C, size, size]; `UserError` names it when it cannot be read."""
        name = self.names[number]
        try:
            with open_picture(io.BytesIO(self.archive.read(name))) as picture:
                values = stated(picture)
                upright = ImageOps.exif_transpose(picture)
                whole = self.depth.eight_bits(upright, values, self.archive.where(name)).convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
            fitted = ImageOps.fit(
                opaque.convert("RGB" if self.colour == "rgb" else "L"), (self.size, self.size), Image.Resampling.LANCZOS
            )
        except UserError:
            raise
        except DAMAGED as error:
            raise corrupt(self.archive.where(name), error) from error
        pixels = torch.from_numpy(np.array(fitted))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class LatentFolder(Folder, name="latents"):
    """Latents of an autoencoder, one .npy [C, H, W] of floats a picture, in a folder; class by subfolder.

    They are judged as values.
    """

    source: ClassVar[str] = "as SiT and DiT are trained: Rombach et al. 2022"
    endings = (".npy",)

    scale: Positive = 0.18215
    """z is trained on as (z - shift) * scale; Stable Diffusion's first autoencoder has 0.18215 and no shift."""
    shift: float = 0.0

    def load(self) -> Data:
        archive, names = self.files()
        if archive.zipped:
            raise UserError(
                f"{archive.path}: latents are read from a folder, so that they need not be held in memory. Unpack it."
            )
        classes, class_names = _classes(names, archive.path)
        apart = held_out(len(names), 10, classes)
        train, held = ([n for n, a in zip(names, apart, strict=True) if a == wanted] for wanted in (False, True))
        latents = Latents(archive, train, self.workers)
        scale = self.scale
        shift = self.shift
        return Data(
            latents, Latents(archive, held, self.workers, latents.latent_shape),
            lambda z: (z.float() - shift) * scale, lambda x: x.float() / scale + shift, "latents",
            *parted(classes, apart), class_names,
            statistics={"scale": torch.tensor(scale), "shift": torch.tensor(shift)}, notes=tuple(archive.left_out()),
        )  # fmt: skip


class Latents:
    """float32 [N, C, H, W], read when asked for."""

    def __init__(self, archive: Archive, names: list[str], workers: int, shape: tuple[int, ...] | None = None):
        self.archive = archive
        self.names = names
        self.workers = workers
        self.latent_shape = shape or tuple(self._read(names[0], None).shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self._read(self.names[i], self.latent_shape) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        yield from self.archive.content(self.names)

    def _read(self, name: str, wanted: tuple[int, ...] | None) -> Tensor:
        place = self.archive.where(name)
        try:
            array = read_array(place)
        except (Damaged, OSError) as error:
            raise UserError(f"{place}: cannot be read ({error}). Make it again.") from error
        if (
            array.ndim != 3
            or array.shape != (wanted or array.shape)
            or array.dtype.kind != "f"
            or not np.isfinite(array).all()
        ):
            expected = list(wanted) if wanted else "[C, H, W]"
            raise UserError(
                f"{place}: holds {array.dtype} {list(array.shape)}, not finite floats {expected}. Make it again."
            )
        return torch.from_numpy(array.astype(np.float32))
