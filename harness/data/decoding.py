"""Pictures of any depth brought to eight bits by what their headers state or the user says, alike in a whole folder.

Pillow itself clips what is deeper. No picture is scaled by its own largest value: a dark one stays dark. TIFF's
MinSampleValue and MaxSampleValue are such values, of each picture, and do not count.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from harness.core.errors import UserError
from harness.data.archive import UNREADABLE, Archive
from harness.data.base import spaced

SURVEYED = 256
"""Pictures of a folder, evenly spaced, whose headers are read before training."""
DAMAGED = (
    *UNREADABLE, LookupError, ArithmeticError, TypeError, AttributeError, AssertionError, SyntaxError,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's many readers raise of a picture that they cannot read."""
MOST_PIXELS = 89_478_485
"""A picture of more is not decoded: the number from which Pillow itself warns of memory."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `open_picture` refuses them


class Values(NamedTuple):
    """What the header of a picture says of its values."""

    name: str
    white: int | None
    """The value that is white where the header is right; None where it does not say."""
    sure: bool = True
    """Whether the header is enough. Files of sixteen bits often hold the ten, twelve or fourteen of a camera."""
    inverted: bool = False
    """Whether 0 is white."""
    reduced: bool = False
    """Whether Pillow gives the upper eight bits alone."""


EIGHT = Values("8 bits", 255)


def open_picture(file: IO[bytes]) -> Image.Image:
    """A picture that is open, not loaded; `ValueError` where its header gives it no pixels or too many."""
    picture = Image.open(file)
    width, height = picture.size
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"it is {width} x {height} pixels: give it one to {MOST_PIXELS:,}")
    return picture


def stated(picture: Image.Image) -> Values:
    """What the header of a picture that is open, not loaded, says of its values."""
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
    """The largest value that a PGM or PPM declares."""
    return int(rest[-1]) if rest and isinstance(rest[-1], int) else 65535 if (colour, bits) == ("I", "16B") else 255


@dataclass(frozen=True)
class Depth:
    """How the values of a folder's pictures become those of eight bits."""

    levels: tuple[float, ...] = ()
    """Black and white of pictures of more than 8 bits, or empty: as their headers say."""
    proven: frozenset[Values] = frozenset()
    """Headers that are right, as some picture of the folder uses more than half of the values."""

    def eight_bits(self, picture: Image.Image, values: Values, place: Path) -> Image.Image:
        """A loaded picture in eight bits; `UserError` where that is a guess, or where values are not finite."""
        if values == EIGHT:
            return picture
        pixels = colours(picture)
        if not np.isfinite(pixels).all():
            wrong = int((~np.isfinite(pixels)).sum())
            raise UserError(f"{place}: holds values that are NaN or infinite ({wrong} of them). Mend or remove it.")
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
    """The values of a picture without its opacity, float64 [H, W] or [H, W, C]."""
    pixels = np.asarray(picture, dtype=np.float64)
    return pixels[..., : -("A" in picture.getbands()) or None]


def _fills(highest: float, values: Values) -> bool:
    """Whether a value lies in the upper half of what its header allows, so that no bit is left over."""
    return values.white is not None and highest > values.white / 2


def unsure(place: Path, values: Values, lowest: float, highest: float) -> UserError:
    """What is said of pictures whose white is unknown."""
    low, high = (f"{value:.6g}" for value in (lowest, highest))
    if values.reduced:
        said = f"{place}: holds {values.name} and uses the lower ones alone, so its white is unknown"
        return UserError(f"{said}. Write it with 8 bits.")
    white = next((str(max(1, 2**bits - 1)) for bits in (0, 8, 10, 12, 14, 16) if highest <= max(1, 2**bits - 1)), high)
    said = f"{place}: holds {values.name} from {low} to {high}, and nothing says which value is white"
    levels = f"[{min(lowest, 0):.6g},{white}]"
    remedy = f"Set dataset.levels to the values that are black and white, like {levels}, or write 8 bits."
    return UserError(f"{said}. {remedy}")


def survey(archive: Archive, names: Sequence[str], levels: tuple[float, ...]) -> tuple[Depth, list[str]]:
    """How the pictures of a folder become eight bits, from some of them, and what is to be said of it, a line each.

    `UserError` where their white is unknown. What cannot be read is passed over.
    """
    found: dict[Values, list[str]] = {}
    moving = []
    chosen = [names[i] for i in spaced(SURVEYED, len(names)).tolist()]
    for name, picture in _opened(archive, chosen):
        with contextlib.suppress(*DAMAGED):
            found.setdefault(stated(picture), []).append(name)
            if getattr(picture, "is_animated", False) and picture.format != "MPO":  # whose other pictures are previews
                moving.append(name)
    found.pop(EIGHT, None)
    asked = {} if levels else {values: of for values, of in found.items() if not values.sure}
    proven = frozenset(values for values, of in asked.items() if _proven(archive, of, values))
    looked = f"of {len(chosen)} pictures looked at hold"
    lines = [f"{len(of)} {looked} {_said(values, levels)}" for values, of in found.items()]
    if moving:
        lines.append(f"{len(moving)} {looked} several, {moving[0]} for one: the first is taken")
    return Depth(levels, proven), lines


def _said(values: Values, levels: tuple[float, ...]) -> str:
    if values.reduced:
        return f"{values.name}: the upper 8 bits are taken"
    stretch = "brought to 0 to 255"
    if levels:
        stretch = f"{levels[0]:g} to {levels[1]:g} become 0 to 255, values outside are clipped"
    return f"{values.name}: {stretch}{', and 0 is white' if values.inverted else ''}"


def _opened(archive: Archive, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    """The pictures that can be opened, not loaded."""
    for name in names:
        with contextlib.suppress(*DAMAGED), archive.open(name) as file, open_picture(file) as picture:
            yield name, picture


def _proven(archive: Archive, names: Sequence[str], values: Values) -> bool:
    """Whether one of these pictures uses the upper half of its values; `UserError` where none that can be read does."""
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
