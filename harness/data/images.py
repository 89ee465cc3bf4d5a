"""Images, stored as uint8 [N, C, H, W] and encoded to [-1, 1]; digits also to other ranges.

Files are searched in HARNESS_DATA, or in data/ in the working directory, in torchvision's layout. For CIFAR-10,
`cifar10.npz` (x_train, y_train, x_test, y_test; images [N, 32, 32, 3] uint8) is used if it exists. Torchvision
downloads missing files, unless HARNESS_DATA is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.core.arrays import read_arrays
from harness.core.config import ADDED, RUN_ONLY, Range
from harness.core.errors import ConfigError, UserError
from harness.core.reading import Damaged
from harness.data.base import Data, Dataset, data_folder, existing, held_out, parted

Encoded = Annotated[float, Range(-1e18, 1e18, why="the square of a larger number overflows float32")]


def encode(images: Tensor) -> Tensor:
    """Map uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode(x: Tensor) -> Tensor:
    """Clip floats to [-1, 1], and map them to the nearest uint8 in [0, 255]."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image [C, H, W] of a batch left to right with probability 1/2."""
    turned = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device) < 0.5
    return torch.where(turned.to(images.device), images.flip(-1), images)


def digits() -> tuple[Tensor, Tensor]:
    """Load scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak 1998): uint8 [1797, 1, 8, 8], labels [1797]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # sixteenths
    return grey(torch.from_numpy(pixels.reshape(-1, 1, 8, 8))), torch.from_numpy(labels).long()


def grey(sixteenths: Tensor) -> Tensor:
    """Map whole numbers in [0, 16], the grey levels of the scanned digits, to uint8 in [0, 255]."""
    return (sixteenths * 255 / 16).round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset, name="digits"):
    """8x8 grey handwritten digits from scikit-learn, no download; one in five, of each class, is held out."""

    source: ClassVar[str] = "Alpaydin & Kaynak 1998"

    encoded: tuple[Encoded, ...] = field(default=(-1.0, 1.0), metadata=ADDED)
    """Encoded values of black and white, the lower first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (len(self.encoded) == 2 and self.encoded[0] < self.encoded[1]):
            raise ConfigError(
                "encoded", f"{list(self.encoded)} is not a lower and a higher value. Give two numbers, like [0,1]."
            )
        levels = grey(torch.arange(17))
        if not torch.equal(self.decode(self.encode(levels)), levels):
            raise ConfigError(
                "encoded",
                f"{list(self.encoded)} are too close to each other for float32. Choose values further apart.",
            )

    def encode(self, images: Tensor) -> Tensor:
        """Map uint8 in [0, 255] to float32 in the range `encoded`."""
        low, high = self.encoded
        return images.float() / (255 / (high - low)) + low

    def decode(self, x: Tensor) -> Tensor:
        """Clip floats to the range `encoded`, and map them to the nearest of the 17 grey levels, uint8 in [0, 255]."""
        low, high = self.encoded
        return grey(((x.float().clamp(low, high) - low) * (16 / (high - low))).round())

    def load(self) -> Data:
        images, classes = digits()
        apart = held_out(len(images), 5, classes)
        return Data(
            images[~apart], images[apart], self.encode, self.decode, "image", *parted(classes, apart),
            tuple("0123456789"),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Torchvision(Dataset):
    """One of torchvision's labelled image data sets, which torchvision downloads."""

    class_name: ClassVar[str]

    def load(self) -> Data:
        (train, classes), (held, held_classes) = self.splits()
        return Data(train, held, encode, decode, "image", classes, held_classes, self.labels(), augment=self.augment())

    def splits(self) -> list[tuple[Tensor, Tensor]]:
        """Return (images uint8 [N, C, H, W], classes int64 [N]) of the training and of the held-out samples."""
        return [_torchvision(self.class_name, train) for train in (True, False)]

    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple("0123456789")

    def augment(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Return the random change of images in training; None for no change."""
        return None


@dataclass(frozen=True, kw_only=True)
class MNIST(Torchvision, name="mnist"):
    """28x28 grey handwritten digits, 60,000 for training and 10,000 held out."""

    source: ClassVar[str] = "LeCun et al. 1998"
    class_name: ClassVar[str] = "MNIST"


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Torchvision, name="fashion_mnist"):
    """28x28 grey pictures of clothing, 60,000 for training and 10,000 held out."""

    source: ClassVar[str] = "Xiao et al. 2017"
    class_name: ClassVar[str] = "FashionMNIST"

    def labels(self) -> tuple[str, ...]:
        return ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True, kw_only=True)
class CIFAR10(Torchvision, name="cifar10"):
    """32x32 colour pictures of ten classes, 50,000 for training and 10,000 held out."""

    source: ClassVar[str] = "Krizhevsky 2009"
    class_name: ClassVar[str] = "CIFAR10"

    flip: bool = False
    """Whether training mirrors each picture left to right with probability 1/2."""

    def splits(self) -> list[tuple[Tensor, Tensor]]:
        path = data_folder() / "cifar10.npz"
        return _cifar10_npz(path) if path.exists() else super().splits()

    def labels(self) -> tuple[str, ...]:
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def augment(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        return mirror if self.flip else None


@dataclass(frozen=True, kw_only=True)
class Npz(Dataset, name="npz"):
    """Your pictures in one .npz: `images`, uint8 [N, H, W, C] or [N, C, H, W], and optional `labels` [N].

    One picture in ten, of each class, is held out.
    """

    path: str = field(metadata=RUN_ONLY)
    """The file; relative paths begin in HARNESS_DATA, or else in data/."""
    flip: bool = False
    """Whether training mirrors each picture left to right with probability 1/2."""

    def load(self) -> Data:
        path = existing(self.path, "an .npz file with `images`")
        arrays = npz(path)
        images = arrays.get("images")
        if (
            images is None
            or images.dtype != np.uint8
            or images.ndim != 4
            or not {1, 3} & {images.shape[1], images.shape[3]}
        ):
            said = "no `images`" if images is None else f"`images` as {images.dtype} {list(images.shape)}"
            raise UserError(
                f"{path}: holds {said}, not uint8 [N, H, W, C] or [N, C, H, W] with C = 1 or 3. Make it again."
            )
        if images.shape[3] in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        stored = torch.from_numpy(np.ascontiguousarray(images))
        classes: Tensor | None = None
        names: tuple[str, ...] = ()
        if "labels" in arrays:
            if arrays["labels"].shape != (len(images),):
                raise UserError(
                    f"{path}: `labels` has shape {list(arrays['labels'].shape)} for {len(images)} images. "
                    "Give one label for each image."
                )
            classes, names = _numbered(arrays["labels"], path)
        apart = held_out(len(images), 10, classes)
        others = [f"{name} {list(array.shape)}" for name, array in arrays.items() if name not in ("images", "labels")]
        notes = (f"left out, as neither `images` nor `labels`: {', '.join(others)}",) if others else ()
        return Data(
            stored[~apart], stored[apart], encode, decode, "image", *parted(classes, apart), names,
            augment=mirror if self.flip else None, notes=notes,
        )  # fmt: skip


def _numbered(labels: np.ndarray, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class of each label, int64 [N], and the classes' names, in the order of the classes."""
    if labels.dtype.kind == "f" and (missing := int(np.isnan(labels).sum())):
        raise UserError(
            f"{path}: {missing} of {len(labels)} `labels` are NaN. Give each picture a label, or remove it."
        )
    values, numbers = np.unique(labels, return_inverse=True)
    names = np.char.decode(values, "utf-8", "backslashreplace") if values.dtype.kind == "S" else values
    return torch.from_numpy(numbers).long(), tuple(map(str, names))


def _torchvision(name: str, train: bool) -> tuple[Tensor, Tensor]:
    """Load images uint8 [N, C, H, W] and classes int64 [N] of one split of a torchvision data set."""
    from torchvision import datasets

    given = bool(os.environ.get("HARNESS_DATA"))
    try:
        loaded: Any = getattr(datasets, name)(data_folder(), train=train, download=not given)
        if len(loaded.targets) != len(loaded.data):  # torchvision checks the rest
            raise ValueError(f"it holds {len(loaded.targets)} classes for {len(loaded.data)} pictures")
    except Exception as error:  # torchvision's readers raise many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        place = f"HARNESS_DATA={data_folder()}" if given else str(data_folder())
        remedy = f"Put torchvision's {name} files there" if given else "Or set HARNESS_DATA to a folder that holds it"
        raise UserError(f"{place}: {name} cannot be read ({reason}). {remedy}.") from error
    images = torch.as_tensor(loaded.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(loaded.targets).long()


def npz(path: Path) -> dict[str, np.ndarray]:
    """Return {name: array} of an .npz file; `UserError` if it cannot be read."""
    try:
        return read_arrays(path)
    except (Damaged, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Make it again.") from error


def _cifar10_npz(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Load images uint8 [N, 3, 32, 32] and classes int64 [N] of both splits; `UserError` if something is wrong."""
    arrays = npz(path)
    if missing := [name for split in ("train", "test") for name in (f"x_{split}", f"y_{split}") if name not in arrays]:
        raise UserError(f"{path}: has no {missing[0]}. Make it again, with x_train, y_train, x_test, y_test.")
    splits = [(arrays[f"x_{split}"], arrays[f"y_{split}"].reshape(-1)) for split in ("train", "test")]
    for array, classes in splits:
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (32, 32, 3) or not len(array):
            raise UserError(
                f"{path}: holds {array.dtype} {list(array.shape)}, not uint8 [N, 32, 32, 3]. Make it again."
            )
        if len(classes) != len(array):
            raise UserError(f"{path}: holds {len(array)} images and {len(classes)} classes. Make it again.")
        if classes.dtype.kind not in "iu":
            raise UserError(f"{path}: holds classes as {classes.dtype}, not whole numbers. Make it again.")
    return [
        (torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(classes).long())
        for images, classes in splits
    ]
