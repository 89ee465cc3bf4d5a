"""Images, kept as uint8 [N, C, H, W] and encoded to [-1, 1].

Files are looked for in HARNESS_DATA, or in data/ below the working directory, in torchvision's own layout; for CIFAR-10
`cifar10.npz` (x_train, y_train, x_test, y_test; images [N, 32, 32, 3] uint8) is taken too. What is not
there is downloaded by torchvision, unless HARNESS_DATA is set.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.data.base import Data, Dataset
from harness.errors import UserError
from harness.files import write_atomic


def encode(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode(x: Tensor) -> Tensor:
    """float in [-1, 1], clipped to it, to the nearest uint8."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def decode_digits(x: Tensor) -> Tensor:
    """`decode` to the seventeen grey levels that the digits were scanned in."""
    sixteenths = ((x.float().clamp(-1, 1) + 1) * 8).round()
    return (sixteenths * 255 / 16).round().to(torch.uint8)


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits (Alpaydin & Kaynak 1998): uint8 [1797, 1, 8, 8] and labels [1797]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # sixteenths
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) * 255 / 16).round().to(torch.uint8)
    return images, torch.from_numpy(labels).long()


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset, name="digits"):
    """8x8 grey handwritten digits, embedded in scikit-learn; every fifth is held out."""

    def load(self) -> Data:
        images, classes = digits()
        held_out = torch.arange(len(images)) % 5 == 4
        return Data(images[~held_out], images[held_out], encode, decode_digits, classes[~held_out])


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Dataset, name="fashion_mnist"):
    """28x28 grey pictures of clothing, 60,000 and 10,000 held out (Xiao et al. 2017)."""

    def load(self) -> Data:
        (train, classes), (held_out, _) = (_torchvision("FashionMNIST", train) for train in (True, False))
        return Data(train[:, None], held_out[:, None], encode, decode, classes)


@dataclass(frozen=True, kw_only=True)
class CIFAR10(Dataset, name="cifar10"):
    """32x32 colour pictures of ten classes, 50,000 and 10,000 held out (Krizhevsky 2009)."""

    def load(self) -> Data:
        path = _folder() / "cifar10.npz"
        parts = _cifar10_npz(path) if path.exists() else [_torchvision("CIFAR10", train) for train in (True, False)]
        (train, classes), (held_out, _) = ((images.permute(0, 3, 1, 2).contiguous(), labels) for images, labels in parts)
        return Data(train, held_out, encode, decode, classes)


def _folder() -> Path:
    return Path(os.environ.get("HARNESS_DATA") or "data")


def _torchvision(name: str, train: bool) -> tuple[Tensor, Tensor]:
    """Images and classes of one part of a torchvision data set, uint8 as torchvision keeps them, and int64."""
    from torchvision import datasets

    given = bool(os.environ.get("HARNESS_DATA"))
    try:
        loaded: Any = getattr(datasets, name)(_folder(), train=train, download=not given)
    except Exception as error:  # torchvision raises whatever its readers do
        reason = str(error).strip().split("\n")[0]
        place = f"HARNESS_DATA={_folder()}" if given else str(_folder())
        remedy = f"Put torchvision's {name} files there" if given else "Or set HARNESS_DATA to a folder that holds it"
        raise UserError(f"{place}: {name} cannot be read ({reason}). {remedy}.") from error
    return torch.as_tensor(loaded.data), torch.as_tensor(loaded.targets).long()


def _cifar10_npz(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Images and classes of both parts, uint8 and int64."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"].reshape(-1).astype(np.int64)) for part in ("train", "test")]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}). Make it again, with x_train, y_train, x_test, y_test.") from error
    for array, classes in parts:
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (32, 32, 3) or not len(array):
            raise UserError(f"{path}: holds {array.dtype} {list(array.shape)}, not uint8 [N, 32, 32, 3]. Make it again.")
        if len(classes) != len(array):
            raise UserError(f"{path}: holds {len(array)} images and {len(classes)} classes. Make it again.")
    return [(torch.from_numpy(images), torch.from_numpy(classes)) for images, classes in parts]


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write uint8 images [N, C, H, W] as one PNG, small ones enlarged to 32 pixels."""
    from torchvision.utils import make_grid

    enlarged = images.repeat_interleave(factor := max(1, 32 // images.shape[-1]), 2).repeat_interleave(factor, 3)
    pixels = make_grid(enlarged, nrow=columns, padding=2, pad_value=128).permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    write_atomic(path, content.getvalue())
