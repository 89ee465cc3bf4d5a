"""Convert pictures of any bit depth to 8 bits, by their headers or by the user's levels, in the same way for a folder.

Pillow itself clips deeper pictures. No picture is scaled by its largest value: a dark picture stays dark. TIFF's
MinSampleValue and MaxSampleValue are the extremes of each picture, so they are ignored.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from harness.core.errors import UserError
from harness.data.archive import UNREADABLE, Source
from harness.data.base import spaced

SURVEYED = 256
"""Maximum number of pictures of a folder, evenly spaced, whose headers are read before training."""
DAMAGED = (
    *UNREADABLE, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError, SyntaxError,
    Image.DecompressionBombError,
)  # fmt: skip
"""Exceptions of Pillow's many readers for a picture that they cannot read."""
MOST_PIXELS = 89_478_485
"""Maximum number of pixels of a picture; Pillow itself warns above this number."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `open_picture` refuses them


class Values(NamedTuple):
    """The range of a picture's values by its header."""

    name: str
    white: int | None
    """The value of white by the header; None if the header does not tell it."""
    sure: bool = True
    """Whether the header is reliable. Files of 16 bits often hold only the 10, 12 or 14 bits of a camera."""
    inverted: bool = False
    """Whether 0 is white."""
    reduced: bool = False
    """Whether Pillow returns only the upper 8 bits."""


EIGHT = Values("8 bits", 255)


def open_picture(file: IO[bytes]) -> Image.Image:
    """Open a picture without loading its pixels; `ValueError` if its header announces no pixels or too many."""
    picture = Image.open(file)
    width, height = picture.size
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels: 1 to {MOST_PIXELS:,} are allowed")
    return picture


def first_sides(source: Source, names: Iterable[str]) -> tuple[int, int]:
    """Return height and width of the first picture that can be opened, turned upright; `UserError` if none can be."""
    for _, picture in _opened(source, names):
        width, height = picture.size
        return (width, height) if picture.getexif().get(ExifTags.Base.Orientation, 1) > 4 else (height, width)
    raise UserError(f"{source.path}: no picture can be read. Give others.")


def stated(picture: Image.Image) -> Values:
    """Return the range of values by the header of a picture, which is open but not loaded."""
    tiles = getattr(picture, "tile", [])
    arguments = tiles[0].args if tiles else ""
    raw, *rest = (arguments,) if isinstance(arguments, str) else arguments
    colour, _, bits = str(raw).partition(";")
    tags = getattr(picture, "tag_v2", {})
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if picture.mode == "F":
        return Values("floats (mode F)", None, False, inverted)
    if bits == "12":
        return Values("12 bits (mode I;16, 0 to 4095)", 4095, True, inverted)
    if picture.format == "PPM" and picture.mode in ("I", "RGB") and (highest := _highest(colour, bits, rest)) > 255:
        grey = picture.mode == "I"
        said = f"values (mode {picture.mode}, 0 to {highest})"
        return Values(said, 65535 if grey else 255, highest < 65535, reduced=not grey)
    if picture.mode.startswith("I") and bits in ("16", "16B", "16L", "16N", "16R"):
        return Values(f"16 bits (mode {picture.mode}, 0 to 65535)", 65535, False, inverted)
    if picture.mode.startswith("I"):
        return Values(f"whole numbers (mode {picture.mode})", None, False, inverted)
    if colour != "BGR" and bits.startswith("16"):
        return Values(f"16 bits a channel (mode {picture.mode})", 255, False, reduced=True)
    return EIGHT


def _highest(colour: str, bits: str, rest: Sequence[object]) -> int:
    """Return the largest value that the header of a PGM or PPM declares."""
    return int(rest[-1]) if rest and isinstance(rest[-1], int) else 65535 if (colour, bits) == ("I", "16B") else 255


@dataclass(frozen=True)
class Depth:
    """The conversion of a folder's pictures to 8 bits."""

    levels: tuple[float, ...] = ()
    """Values of black and white in pictures of more than 8 bits; empty to use their headers."""
    proven: frozenset[Values] = frozenset()
    """Headers that are confirmed: some picture of the folder has a value in their upper half."""

    def eight_bits(self, picture: Image.Image, values: Values, place: Path) -> Image.Image:
        """Convert a loaded picture to 8 bits; `UserError` if its white is unknown or its values are not finite."""
        if values == EIGHT:
            return picture
        pixels = colours(picture)
        if not np.isfinite(pixels).all():
            wrong = int((~np.isfinite(pixels)).sum())
            raise UserError(f"{place}: holds values that are NaN or infinite ({wrong} of them). Correct or remove it.")
        if values.reduced and self.levels:
            raise UserError(f"{place}: holds {values.name}, which dataset.levels cannot scale. Write it with 8 bits.")
        if not (self.levels or values.sure or values in self.proven or _fills(pixels.max(), values)):
            raise unsure(place, values, pixels.min(), pixels.max())
        if values.reduced:
            return picture
        black, white = self.levels or (0, values.white or 0)
        scaled = ((pixels - black) / (white - black) * 255).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - scaled if values.inverted else scaled)


def colours(picture: Image.Image) -> np.ndarray:
    """Return the values of a picture without its alpha channel, float64 [H, W] or [H, W, C]."""
    pixels = np.asarray(picture, dtype=np.float64)
    return pixels[..., : -("A" in picture.getbands()) or None]


def _fills(highest: float, values: Values) -> bool:
    """Whether a value lies in the upper half of its header's range: then no bit of that range is unused."""
    return values.white is not None and highest > values.white / 2


def unsure(place: Path, values: Values, lowest: float, highest: float) -> UserError:
    """Return the error for pictures whose white is unknown."""
    low, high = (f"{value:.6g}" for value in (lowest, highest))
    if values.reduced:
        said = f"{place}: holds {values.name} but uses only the lower bits, so its white is unknown"
        return UserError(f"{said}. Write it with 8 bits.")
    white = next((str(max(1, 2**bits - 1)) for bits in (0, 8, 10, 12, 14, 16) if highest <= max(1, 2**bits - 1)), high)
    said = f"{place}: holds {values.name} from {low} to {high}, but does not say which value is white"
    levels = f"[{min(lowest, 0):.6g},{white}]"
    remedy = f"Set dataset.levels to the values of black and white, like {levels}, or write 8 bits."
    return UserError(f"{said}. {remedy}")


def survey(archive: Source, names: Sequence[str], levels: tuple[float, ...]) -> tuple[Depth, list[str]]:
    """Return the conversion of a folder's pictures to 8 bits, from a sample of them, and lines that describe it.

    `UserError` if their white is unknown. Unreadable pictures are passed over.
    """
    found: dict[Values, list[str]] = {}
    moving = []
    chosen = [names[i] for i in spaced(SURVEYED, len(names)).tolist()]
    for name, picture in _opened(archive, chosen):
        with contextlib.suppress(*DAMAGED):
            found.setdefault(stated(picture), []).append(name)
            if getattr(picture, "is_animated", False) and picture.format != "MPO":  # MPO adds previews
                moving.append(name)
    found.pop(EIGHT, None)
    asked = {} if levels else {values: of for values, of in found.items() if not values.sure}
    proven = frozenset(values for values, of in asked.items() if _proven(archive, of, values))
    looked = f"of {len(chosen)} examined pictures hold"
    lines = [f"{len(of)} {looked} {_said(values, levels)}" for values, of in found.items()]
    if moving:
        lines.append(f"{len(moving)} {looked} several frames, {moving[0]} for example: the first is used")
    return Depth(levels, proven), lines


def _said(values: Values, levels: tuple[float, ...]) -> str:
    if values.reduced:
        return f"{values.name}: the upper 8 bits are used"
    stretch = "scaled to 0 to 255"
    if levels:
        stretch = f"{levels[0]:g} to {levels[1]:g} become 0 to 255, values outside are clipped"
    return f"{values.name}: {stretch}{', and 0 is white' if values.inverted else ''}"


def _opened(archive: Source, names: Iterable[str]) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, picture) for each picture that can be opened; its pixels are not loaded."""
    for name in names:
        with contextlib.suppress(*DAMAGED), archive.open(name) as file, open_picture(file) as picture:
            yield name, picture


def _proven(archive: Source, names: Sequence[str], values: Values) -> bool:
    """Return whether a picture uses the upper half of its values; `UserError` if no readable one does.

    False if no picture is readable.
    """
    ends: list[float] = []
    for _, picture in _opened(archive, names):
        with contextlib.suppress(*DAMAGED):
            pixels = colours(picture)
            if len(finite := pixels[np.isfinite(pixels)]):
                ends = [min(*ends, finite.min()), max(*ends, finite.max())] if ends else [finite.min(), finite.max()]
        if ends and _fills(ends[1], values):
            return True
    if ends:
        raise unsure(archive.where(names[0]), values, *ends)
    return False
