"""Folders of latents: arrays that an autoencoder made of pictures, read on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.arrays import read_array
from harness.core.config import ADDED, Positive
from harness.core.errors import UserError
from harness.core.reading import Damaged
from harness.data.archive import Archive
from harness.data.base import Data, held_out, parted
from harness.data.folders import Folder, classes_by_folder


@dataclass(frozen=True, kw_only=True)
class LatentFolder(Folder, name="latents"):
    """Latents of an autoencoder in a folder: one .npy with floats [C, H, W] for each picture; class by subfolder.

    Metrics compare their values, or features of the pictures that the autoencoder in HARNESS_VAE decodes them to.
    """

    source: ClassVar[str] = "as SiT and DiT are trained: Rombach et al. 2022"
    endings = (".npy",)

    scale: Positive = 0.18215
    """A latent z enters training as (z - shift) * scale. Stable Diffusion's first autoencoder: 0.18215 and no shift."""
    shift: float = 0.0
    flip: bool = field(default=False, metadata=ADDED)
    """Whether each .npy holds two latents [2, C, H, W], of the picture and of its mirror image. Training and reference
    take both, held-out data the first. A mirrored latent is not the latent of the mirror image."""

    def load(self) -> Data:
        archive, names = self.files()
        if archive.zipped:
            raise UserError(
                f"{archive.path}: latents must be in a folder, from which they are read on demand. Unpack the zip."
            )
        classes, class_names = classes_by_folder(names, archive.path)
        apart = held_out(len(names), 10, classes)
        train, held = ([n for n, a in zip(names, apart, strict=True) if a == wanted] for wanted in (False, True))
        sides = 2 if self.flip else 1
        latents = Latents(archive, train, self.workers, sides)
        parts, held_out_classes = parted(classes, apart)
        scale = self.scale
        shift = self.shift
        return Data(
            latents, Latents(archive, held, self.workers, sides, latents.latent_shape, mirrored=False),
            lambda z: (z.float() - shift) * scale, lambda x: x.float() / scale + shift, "latents",
            None if parts is None else parts.repeat(sides), held_out_classes, class_names,
            statistics={"scale": torch.tensor(scale), "shift": torch.tensor(shift)}, notes=tuple(archive.left_out()),
        )  # fmt: skip


class Latents:
    """Latents, float32 [N, C, H, W], read on demand.

    With two `sides`, a file holds [2, C, H, W]; the mirror images follow all others, unless `mirrored` is false.
    """

    def __init__(
        self, archive: Archive, names: list[str], workers: int, sides: int = 1, shape: tuple[int, ...] | None = None,
        mirrored: bool = True,
    ):  # fmt: skip
        self.archive = archive
        self.names = names
        self.workers = workers
        self.sides = sides
        self.mirrored = mirrored and sides == 2
        self.latent_shape = shape or tuple(self._read(0, None).shape)

    def __len__(self) -> int:
        return len(self.names) * (1 + self.mirrored)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.stack([self._read(i, self.latent_shape) for i in indices.tolist()])

    def content(self) -> Iterator[bytes]:
        yield from self.archive.content(self.names)

    def _read(self, number: int, wanted: tuple[int, ...] | None) -> Tensor:
        mirror, place_in = divmod(number, len(self.names))
        place = self.archive.where(self.names[place_in])
        try:
            array = read_array(place)
        except (Damaged, OSError) as error:
            raise UserError(f"{place}: cannot be read ({error}). Make it again.") from error
        every = array if self.sides == 2 else array[None]
        if (
            every.ndim != 4
            or every.shape != (self.sides, *(wanted or every.shape[1:]))
            or every.dtype.kind != "f"
            or not np.isfinite(every).all()
        ):
            expected = [*([2] if self.sides == 2 else []), *(wanted or "CHW")]
            shape = f"[{', '.join(map(str, expected))}]"
            if array.ndim == 7 - len(expected):
                advice = f"Set dataset.flip={'false' if self.sides == 2 else 'true'} if the files are meant so."
                raise UserError(f"{place}: has {array.ndim} axes, not those of {shape}. {advice}")
            raise UserError(
                f"{place}: holds {array.dtype} {list(array.shape)}, not finite floats {shape}. Make it again."
            )
        return torch.from_numpy(every[mirror].astype(np.float32))
