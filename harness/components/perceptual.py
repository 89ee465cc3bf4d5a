"""Perceptual losses: the distance between samples, which a distillation to one step can minimise."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.checkpoint import read_weights
from harness.core.errors import ConfigError, UserError, in_a_line
from harness.core.files import short_hash
from harness.core.registry import Component
from harness.data.base import Data

Weights = Mapping[str, Tensor]
LAYERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""VGG-16's convolutions, as torchvision numbers its layers, up to each level that LPIPS compares."""
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each level."""
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation of red, green and blue in [-1, 1], by which images are normalised."""
SMALLEST = 16
"""Smallest side of an image: four poolings halve it."""
ADVICE = 'Save the state of lpips.LPIPS(net="vgg") and set HARNESS_LPIPS to that file, or set reflow.perceptual=null.'


class Perceptual(Component, family="perceptual"):
    """The distance between samples and their targets, in place of the error of the network's output."""

    @abstractmethod
    def compare(self, samples: Tensor, targets: Tensor) -> Tensor:
        """Return the losses [B] >= 0 of samples [B, ...], encoded as the data are; zero where they are the targets."""

    def check(self, data: Data) -> None:
        """Raise `ConfigError` if this loss cannot compare samples of these data."""

    def fingerprint(self) -> dict[str, str]:
        """Return identifiers of the content of the files that it reads; empty if it reads none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class LPIPS(Perceptual, name="lpips"):
    """Weighted squared distance of VGG-16's normalised features.

    HARNESS_LPIPS names its weights: the state of `lpips.LPIPS(net="vgg")`, or of torch-fidelity's
    `SampleSimilarityLPIPS`, as .safetensors or a torch file.
    """

    formula: ClassVar[str] = "sum over 5 levels of mean over pixels of w . (f / |f| - g / |g|)^2"
    source: ClassVar[str] = "Zhang et al. 2018, eq. 1; as a loss of distillation: Liu et al. 2023"
    waits: ClassVar[bool] = True

    def compare(self, samples: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(samples.device.type, enabled=False):  # half precision is coarser than small distances
            return distance(_weights(_place(), str(samples.device)), samples.float(), targets.float())

    def check(self, data: Data) -> None:
        if data.kind != "image" or data.shape[0] != 3 or min(data.shape[1:]) < SMALLEST:
            reason = f"lpips compares RGB images of {SMALLEST} pixels or more, and these data are"
            shape = "x".join(map(str, data.shape))
            raise ConfigError("", f"{reason} {data.kind} {shape}. Set reflow.perceptual=null.")
        ends = data.encode(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *data.shape))
        if not torch.equal(ends, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand_as(ends)):
            raise ConfigError(
                "", "lpips reads images in [-1, 1]. Set dataset.encoded to it, or reflow.perceptual=null."
            )
        _weights(_place(), "cpu")

    def fingerprint(self) -> dict[str, str]:
        return {"lpips": _hash(_place())}


def distance(weights: Weights, samples: Tensor, targets: Tensor) -> Tensor:
    """Return the LPIPS [B] of images in [-1, 1] [B, 3, H, W]; `weights` have the names of `lpips.LPIPS(net="vgg")`."""
    with torch.no_grad():
        wanted = list(levels(weights, targets))
    total = torch.zeros(len(samples), device=samples.device)
    for level, (ours, theirs) in enumerate(zip(levels(weights, samples), wanted, strict=True)):
        weighted = F.conv2d((ours - theirs).square(), weights[f"lin{level}.model.1.weight"])
        total = total + weighted.mean((1, 2, 3))
    return total


def levels(weights: Weights, images: Tensor) -> Iterator[Tensor]:
    """Yield VGG-16's features of images at each level, normalised over the channels."""
    shift, scale = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (SHIFT, SCALE))
    features = (images - shift) / scale
    for level, layers in enumerate(LAYERS):
        features = F.max_pool2d(features, 2) if level else features
        for layer in layers:
            kernel, bias = (weights[f"net.slice{level + 1}.{layer}.{part}"] for part in ("weight", "bias"))
            features = F.relu(F.conv2d(features, kernel, bias, padding=1))
        yield features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _place() -> Path:
    """Return the file that HARNESS_LPIPS names; `UserError` if there is none."""
    place = os.environ.get("HARNESS_LPIPS")
    if not place or not Path(place).is_file():
        reason = f"{place} is not a file" if place else "is not set, and reflow.perceptual=lpips needs its weights"
        raise UserError(f"HARNESS_LPIPS: {reason}. {ADVICE}")
    return Path(place)


def _hash(place: Path) -> str:
    return _read(place, _stamp(place))[0]


def _weights(place: Path, device: str) -> Weights:
    return _on(place, _stamp(place), device)


def _stamp(place: Path) -> tuple[int, int]:
    """Return what changes with a file's content: its size and its time of change."""
    about = place.stat()
    return about.st_size, about.st_mtime_ns


@functools.cache
def _on(place: Path, stamp: tuple[int, int], device: str) -> Weights:
    return {name: value.to(device) for name, value in _read(place, stamp)[1].items()}


@functools.cache
def _read(place: Path, stamp: tuple[int, int]) -> tuple[str, Weights]:
    """Read a file's hash and weights, once per process and content; `UserError` if it holds other weights."""
    try:
        read = read_weights(place)
        weights = {name: read[name].float() for name in _shapes()}
        wrong = [name for name, shape in _shapes().items() if weights[name].shape != shape]
        if wrong:
            raise ValueError(f"{wrong[0]} has shape {list(weights[wrong[0]].shape)}")
    except Exception as error:  # torch's and safetensors' readers raise many types
        reason = in_a_line(error)
        raise UserError(f"{place}: not the weights of LPIPS with VGG-16 ({reason}). {ADVICE}") from error
    return short_hash(place.read_bytes()), weights


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight."""
    shapes: dict[str, tuple[int, ...]] = {}
    inner = 3
    for level, (layers, width) in enumerate(zip(LAYERS, WIDTHS, strict=True)):
        for layer in layers:
            name = f"net.slice{level + 1}.{layer}"
            shapes |= {f"{name}.weight": (width, inner, 3, 3), f"{name}.bias": (width,)}
            inner = width
        shapes[f"lin{level}.model.1.weight"] = (1, width, 1, 1)
    return shapes
