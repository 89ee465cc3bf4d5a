"""Pictures of every depth: the right eight bits or an error, against values written with NumPy alone."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.cli import main
from harness.core.errors import ConfigError, UserError
from harness.core.registry import build
from harness.data.base import Data

RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))
EIGHT = (RAMP * 255).round()


def encoded(array: np.ndarray, format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, format, **options)
    return content.getvalue()


def png16(array: np.ndarray) -> bytes:
    """Return a PNG with sixteen bits per channel, uint16 [H, W, C], built by hand: Pillow cannot write it in colour."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    joined = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(joined)


def pgm(array: np.ndarray, highest: int) -> bytes:
    return f"P5\n16 16\n{highest}\n".encode() + array.astype(">u2").tobytes()


def tiff12(array: np.ndarray) -> bytes:
    """Return a TIFF with twelve bits per pixel, two pixels in three bytes, built by hand: Pillow cannot write it."""
    first, second = array.reshape(-1, 2).T.astype(int)
    strip = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def deep(bits: int) -> np.ndarray:
    return (RAMP * (2**bits - 1)).round().astype(np.uint16)


def in_colour(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, axis=2)


def folder(place: Path, files: Mapping[str, bytes]) -> Path:
    place.mkdir(exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def load(place: Path, **fields: Any) -> Data:
    return build("dataset", {"name": "image_folder", "path": str(place), "size": 16, "colour": "grey", **fields}).load()


def ten(tmp_path: Path, content: bytes, ending: str, **fields: Any) -> Data:
    return load(folder(tmp_path / "x", {f"{i}.{ending}": content for i in range(10)}), **fields)


def furthest(data: Data, expected: np.ndarray) -> float:
    """Return the largest difference between the training pictures and the expected values."""
    assert not isinstance(data.train, torch.Tensor)
    return max(
        float(np.abs(picture[0].numpy().astype(float) - expected).max()) for picture in data.train[torch.arange(9)]
    )


CERTAIN = {
    "8 bits": (encoded(EIGHT.astype(np.uint8), "png"), "png"),
    "16 bits": (encoded(deep(16), "png"), "png"),
    "16 bits of TIFF": (encoded(deep(16), "tiff"), "tif"),
    "16 bits, packed": (encoded(deep(16), "tiff", compression="tiff_lzw"), "tif"),
    "16 bits in colour": (png16(in_colour(deep(16))), "png"),
    "16 bits and opacity": (png16(np.dstack([deep(16), np.full((16, 16), 65535)])), "png"),
    "PGM of 16 bits": (pgm(deep(16), 65535), "pgm"),
    "12 bits of TIFF": (tiff12(deep(12)), "tif"),
    "PGM of 12 bits": (pgm(deep(12), 4095), "pgm"),
    "PGM up to 1000": (pgm((RAMP * 1000).round(), 1000), "pgm"),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_pictures_are_scaled_by_the_depth_in_the_file(kind: str, tmp_path: Path) -> None:
    content, ending = CERTAIN[kind]
    data = ten(tmp_path, content, ending)
    assert furthest(data, RAMP * 255) <= 1
    assert len(data.notes) == (kind != "8 bits")
    assert all(note.startswith("10 of 10 examined pictures hold ") for note in data.notes)


UNSURE = {
    "floats to 1": (encoded(RAMP.astype(np.float32), "tiff"), "tif", "floats (mode F) from 0 to 1", [0, 1]),
    "floats to 255": (
        encoded((RAMP * 255).astype(np.float32), "tiff"),
        "tif",
        "floats (mode F) from 0 to 255",
        [0, 255],
    ),
    "floats of a bright sky": (
        encoded((RAMP * 9).astype(np.float32), "tiff"),
        "tif",
        "floats (mode F) from 0 to 9",
        [0, 9],
    ),
    "floats below 0": (
        encoded((RAMP * 2 - 1).astype(np.float32), "tiff"),
        "tif",
        "floats (mode F) from -1 to 1",
        [-1, 1],
    ),
    "int32 of 8 bits": (
        encoded(EIGHT.astype(np.int32), "tiff"),
        "tif",
        "whole numbers (mode I) from 0 to 255",
        [0, 255],
    ),
    "12 bits in 16": (encoded(deep(12), "png"), "png", "from 0 to 4095", [0, 4095]),
    "10 bits in 16": (encoded(deep(10), "tiff"), "tif", "from 0 to 1023", [0, 1023]),
    "PGM of 12 bits in 16": (pgm(deep(12), 65535), "pgm", "from 0 to 4095", [0, 4095]),
}


@pytest.mark.parametrize("kind", UNSURE)
def test_pictures_without_a_stated_depth_need_the_users_levels(kind: str, tmp_path: Path) -> None:
    content, ending, said, levels = UNSURE[kind]
    with pytest.raises(UserError) as caught:
        ten(tmp_path, content, ending)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/x/0.{ending}: holds ")
    assert said in message
    assert "Set dataset.levels to the values of black and white, like [" in message
    assert "\n" not in message
    data = ten(tmp_path, content, ending, levels=levels)
    assert furthest(data, RAMP * 255) <= 1
    assert f"{levels[0]} to {levels[1]} become 0 to 255" in data.notes[0]


def test_the_advised_levels_are_right_for_integers(tmp_path: Path) -> None:
    for bits in (8, 10, 12, 14):
        with pytest.raises(UserError, match=rf"like \[0,{2**bits - 1}\]"):
            load(folder(tmp_path / str(bits), {f"{i}.png": encoded(deep(bits), "png") for i in range(10)}))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_twelve_bits_in_sixteen_are_refused_in_colour_too(channels: int, tmp_path: Path) -> None:
    array = np.repeat(deep(12)[..., None], channels, axis=2)
    if channels != 3:
        array[..., -1] = 65535
    with pytest.raises(
        UserError, match=r"holds 16 bits a channel .* but uses only the lower bits, .*\. Write it with 8 bits\."
    ):
        ten(tmp_path, png16(array), "png")
    data = ten(tmp_path, png16(array), "png", levels=[0, 4095])
    with pytest.raises(UserError, match=r"holds 16 bits a channel .*, which dataset\.levels cannot scale\. Write it "):
        data.train[torch.arange(1)]


def test_dark_pictures_of_a_folder_stay_dark(tmp_path: Path) -> None:
    """No picture is scaled by its largest value: one bright picture decides the white level of all."""
    rng = np.random.default_rng(0)
    arrays = [(rng.random((16, 16)) * top).astype(np.uint16) for top in [300, 4000, 20_000, 65_535, *[1000] * 16]]
    data = load(folder(tmp_path / "x", {f"{i:02d}.png": encoded(array, "png") for i, array in enumerate(arrays)}))
    for part in (data.train, data.held_out):
        for name, picture in zip(part.names, part[torch.arange(len(part))], strict=True):  # type: ignore[union-attr]
            expected = arrays[int(name[:2])] / 257
            assert np.abs(picture[0].numpy() - expected).max() <= 0.5, name


def test_eight_and_sixteen_bits_are_each_scaled_by_their_depth(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(deep(16) if i % 2 else EIGHT.astype(np.uint8), "png") for i in range(10)}
    data = load(folder(tmp_path / "x", files))
    assert furthest(data, RAMP * 255) <= 1
    assert data.notes == ("5 of 10 examined pictures hold 16 bits (mode I;16, 0 to 65535): scaled to 0 to 255",)


def test_a_deep_picture_outside_the_inspected_ones_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.data.decoding.SURVEYED", 2)
    files = {f"{i:02d}.png": encoded(EIGHT.astype(np.uint8), "png") for i in range(20)} | {
        "05.png": encoded(deep(12), "png")
    }
    data = load(folder(tmp_path / "x", files))
    assert data.notes == ()
    part = data.train if "05.png" in data.train.names else data.held_out  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"05\.png: holds 16 bits .* from 0 to 4095"):
        part[torch.tensor([part.names.index("05.png")])]  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    bad = RAMP.astype(np.float32)
    bad[3, 4] = value
    files = {f"{i:02d}.tif": encoded(RAMP.astype(np.float32), "tiff") for i in range(20)} | {
        "03.tif": encoded(bad, "tiff")
    }
    place = folder(tmp_path / "x", files)
    data = load(place, levels=[0, 1])
    part = data.train if "03.tif" in data.train.names else data.held_out  # type: ignore[union-attr]
    with pytest.raises(
        UserError, match=r"03\.tif: holds values that are NaN or infinite \(1 of them\)\. Correct or remove it\."
    ):
        part[torch.arange(len(part))]
    skipping = load(place, levels=[0, 1], skip_corrupt=True)
    assert len(skipping.train) + len(skipping.held_out) == 19
    alone = encoded(np.full_like(RAMP, value, np.float32), "tiff")
    nothing = load(folder(tmp_path / "y", {f"{i}.tif": alone for i in range(10)}))
    with pytest.raises(UserError, match=r"holds values that are NaN or infinite \(256 of them\)"):
        nothing.train[torch.arange(1)]


@pytest.mark.parametrize("levels", [[1], [0, 1, 2], [1, 0], [3, 3]])
def test_levels_are_a_lower_and_a_higher_value(levels: list[float], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^dataset\.levels: .* is not a lower and a higher value\. Give two numbers, like \[0,4095\]\.",
    ):
        load(tmp_path, levels=levels)


def test_levels_make_other_data(tmp_path: Path) -> None:
    content = encoded(deep(12), "png")
    first, other = (ten(tmp_path, content, "png", levels=levels).fingerprint for levels in ([0, 4095], [0, 2000]))
    assert first != other


def test_white_is_zero_where_a_tiff_says_so(tmp_path: Path) -> None:
    ramp = deep(16).astype("<u2")
    tags = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 0), (273, 8), (277, 1), (278, 16), (279, 512), (339, 1)]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, v) for tag, v in tags
    )
    content = b"II*\0" + struct.pack("<I", 8 + 512) + ramp.tobytes() + directory + bytes(4)
    data = ten(tmp_path, content, "tif")
    assert furthest(data, 255 - RAMP * 255) <= 1
    assert data.notes[0].endswith(", and 0 is white")


@pytest.mark.parametrize(("format", "ending"), [("gif", "gif"), ("png", "png"), ("tiff", "tif"), ("webp", "webp")])
def test_of_several_pictures_in_a_file_the_first_is_used_with_a_note(format: str, ending: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (40, 200)]
    content = io.BytesIO()
    frames[0].save(content, format, save_all=True, append_images=frames[1:])
    data = ten(tmp_path, content.getvalue(), ending)
    assert data.notes == (f"10 of 10 examined pictures hold several frames, 0.{ending} for example: the first is used",)
    assert furthest(data, np.full((16, 16), 40.0)) <= 2


def test_data_says_which_scaling_was_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder(tmp_path / "x", {f"{i}.tif": encoded(RAMP.astype(np.float32), "tiff") for i in range(10)})
    command = ["data", "image_folder", "--set", f"path={place}", "--set", "size=16"]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {place}/0.tif: holds floats (mode F) from 0 to 1, but does not say"
    )
    assert main([*command, "--set", "levels=[0,1]"]) == 0
    said = "10 of 10 examined pictures hold floats (mode F): 0 to 1 become 0 to 255, values outside are clipped"
    assert capsys.readouterr().out.splitlines()[-1] == said
