"""Folders, zips and arrays of pictures and latents, compared with the reading of PIL and NumPy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from harness.core.arrays import read_array
from harness.core.errors import UserError
from harness.core.registry import build
from harness.core.rng import stream
from harness.data.archive import Archive
from harness.data.base import Data, held_out
from harness.data.folders import refuse_damaged
from harness.data.images import mirror

CLASSES = ("cat", "dog", "emu")


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture: Image.Image, format: str = "png", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format, **options)
    return content.getvalue()


def coloured(number: int, loose: bool = False) -> dict[str, bytes]:
    """Return pictures of many sizes, with classes in turn."""
    sizes = ((9, 8), (8, 8), (7, 12), (20, 31))
    names = [f"{number:03d}.png" if loose else f"{CLASSES[number % 3]}/{number:03d}.png" for number in range(number)]
    return {name: encoded(Image.fromarray(pixels(*sizes[i % 4], 3, seed=i))) for i, name in enumerate(names)}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in reversed([*files.items()]):
            archive.writestr(name, content)
    return path


def load_folder(path: Path, name: str = "image_folder", **fields: Any) -> Data:
    return build(
        "dataset", {"name": name, "path": str(path), **({"size": 6} if name == "image_folder" else {}), **fields}
    ).load()


def names_of(data: Data) -> tuple[list[str], list[str]]:
    """Return the files of both parts."""
    return data.train.names, data.held_out.names  # type: ignore[union-attr]


def whole(samples: Any) -> Tensor:
    return samples[torch.arange(len(samples))]


def refused(said: str, path: Path, name: str = "image_folder", **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_folder(path, name, **fields)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_zip_of_the_same_files_are_the_same_data(tmp_path: Path) -> None:
    files = coloured(40)
    places = [
        write(tmp_path / "folder", files),
        write_zip(tmp_path / "stored.zip", files),
        write_zip(tmp_path / "packed.zip", {"cat/": b"", **files}, zipfile.ZIP_DEFLATED),
    ]
    folder, *zips = (load_folder(place) for place in places)
    for other in zips:
        assert torch.equal(whole(other.train), whole(folder.train))
        assert torch.equal(whole(other.held_out), whole(folder.held_out))
        assert other.classes is not None
        assert folder.classes is not None
        assert torch.equal(other.classes, folder.classes)
        assert other.class_names == folder.class_names
        assert other.fingerprint == folder.fingerprint


def test_one_in_ten_of_each_class_is_held_out_and_keeps_its_class(tmp_path: Path) -> None:
    files = coloured(40)
    data = load_folder(write(tmp_path / "x", files))
    names = sorted(files)
    train, held = names_of(data)
    assert sorted(train + held) == names
    assert (train, held) == (sorted(train), sorted(held)), "in the order of names"
    assert len(held) == 4
    assert (data.kind, data.shape, data.class_names, data.num_classes) == ("image", (3, 6, 6), CLASSES, 3)
    assert data.classes is not None
    assert (data.classes.dtype, len(data.classes)) == (torch.int64, 36)
    assert [CLASSES[i] for i in data.classes.tolist()] == [name.split("/")[0] for name in train]
    assert data.held_out_classes is not None
    assert [CLASSES[i] for i in data.held_out_classes.tolist()] == [name.split("/")[0] for name in held]


def test_the_class_is_the_uppermost_folder(tmp_path: Path) -> None:
    files = {f"{'ba'[i % 2]}/{i % 3}/{i}.png": content for i, content in enumerate(coloured(12, loose=True).values())}
    assert load_folder(write(tmp_path / "x", files)).class_names == ("a", "b")


def test_loose_files_have_no_class_and_none_may_be_left_out(tmp_path: Path) -> None:
    files = coloured(12, loose=True)
    data = load_folder(write(tmp_path / "x", files))
    assert (data.classes, data.class_names, data.num_classes) == (None, (), 0)
    mixed = {f"{'cat/' if number % 4 else ''}{name}": content for number, (name, content) in enumerate(files.items())}
    refused(
        rf"^{tmp_path}/y: '000\.png' is in no subfolder, but other files are\. Move it to the folder of its class\.",
        write(tmp_path / "y", mixed),
    )


@pytest.mark.parametrize("colour", ["rgb", "grey"])
@pytest.mark.parametrize("size", [1, 5, 16])
def test_pictures_are_resized_and_cropped_as_pil_fits_them(colour: str, size: int, tmp_path: Path) -> None:
    files = coloured(20)
    data = load_folder(write(tmp_path / "x", files), size=size, colour=colour)
    train = whole(data.train)
    assert train.dtype == torch.uint8
    assert train.shape == (18, 3 if colour == "rgb" else 1, size, size)
    for picture, name in zip(train, names_of(data)[0], strict=True):
        read = Image.open(io.BytesIO(files[name])).convert("RGB" if colour == "rgb" else "L")
        expected = np.array(ImageOps.fit(read, (size, size), Image.Resampling.LANCZOS)).reshape(size, size, -1)
        assert np.array_equal(picture.numpy(), expected.transpose(2, 0, 1))


def test_a_wide_picture_keeps_its_middle(tmp_path: Path) -> None:
    thirds = np.zeros((6, 18, 3), np.uint8)
    thirds[:, :6, 0] = thirds[:, 6:12, 1] = thirds[:, 12:, 2] = 255
    turned = thirds.transpose(1, 0, 2)
    files = {f"{i}.png": encoded(Image.fromarray(array)) for i, array in enumerate([thirds, turned] * 6)}
    assert (whole(load_folder(write(tmp_path / "x", files)).train) == torch.tensor([0, 255, 0])[:, None, None]).all()


def one(tmp_path: Path, content: bytes, ending: str = "png", **fields: Any) -> Tensor:
    """Return the result of a single file, [C, H, W]."""
    folder = write(tmp_path / "one", {f"{i}.{ending}": content for i in range(10)})
    return load_folder(folder, **fields).train[torch.tensor([4])][0]


RAMP = np.arange(36, dtype=np.uint8).reshape(6, 6) * 7


def laid_on_white(colour: tuple[int, int, int], opacity: int) -> Tensor:
    return torch.tensor([round(c * opacity / 255 + 255 * (1 - opacity / 255)) for c in colour])[:, None, None].expand(
        3, 6, 6
    )


@pytest.mark.parametrize("colour", ["rgb", "grey"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1"])
def test_a_grey_ramp_is_read_in_every_mode(mode: str, colour: str, tmp_path: Path) -> None:
    if mode == "P":
        picture = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6), "P")
        picture.putpalette([value for level in range(256) for value in (level * 7 % 256,) * 3])
    else:
        picture = Image.fromarray(RAMP).convert("RGB").convert(mode)
    ending = "tiff" if mode == "CMYK" else "png"
    expected = np.where(np.array(picture), 255, 0) if mode == "1" else RAMP
    read = one(tmp_path, encoded(picture, ending), ending, colour=colour)
    assert read.shape == (3 if colour == "rgb" else 1, 6, 6)
    assert all(np.abs(channel.numpy().astype(int) - expected).max() <= 1 for channel in read)


@pytest.mark.parametrize("opacity", [0, 51, 255])
def test_transparent_pixels_become_white(opacity: int, tmp_path: Path) -> None:
    content = encoded(Image.new("RGBA", (6, 6), (200, 100, 0, opacity)))
    assert (one(tmp_path, content).int() - laid_on_white((200, 100, 0), opacity)).abs().max() <= 1


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    picture = Image.new("P", (6, 6), 0)
    picture.putpalette([200, 100, 0] * 2)
    picture.paste(1, (0, 0, 6, 6))
    assert (one(tmp_path, encoded(picture, transparency=1)) == 255).all()


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_are_brought_to_eight(ending: str, tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 36).reshape(6, 6).astype(np.uint16)
    read = one(tmp_path, encoded(Image.fromarray(deep), ending), ending, colour="grey")
    assert np.abs(read[0].numpy().astype(float) - deep / 257).max() <= 1


@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_sixteen_bits_are_turned_upright_too(colour: str, tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 36).reshape(6, 6).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3
    read = one(tmp_path, encoded(Image.fromarray(deep), exif=exif), colour=colour)
    assert all(np.abs(channel.numpy().astype(float) - deep[::-1, ::-1] / 257).max() <= 1 for channel in read)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(np.kron(np.array([[250, 0], [90, 170]], np.uint8), np.ones((3, 3), np.uint8)))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = upright.transpose(back[orientation]) if orientation > 1 else upright
    assert np.array_equal(one(tmp_path, encoded(lying, exif=exif), colour="grey")[0].numpy(), np.array(upright))


def test_endings_count_in_any_case_and_other_files_do_not(tmp_path: Path) -> None:
    picture = Image.fromarray(pixels(6, 6, 3))
    formats = {
        "PNG": "png",
        "jpg": "jpeg",
        "JPEG": "jpeg",
        "webp": "webp",
        "bmp": "bmp",
        "gif": "gif",
        "tif": "tiff",
        "ppm": "ppm",
    }
    files = {f"a/{i}.{ending}": encoded(picture, name) for i, (ending, name) in enumerate(formats.items())}
    files |= {
        "a/8.png": encoded(picture),
        "a/9.pgm": encoded(picture.convert("L"), "ppm"),
        "a/10.tiff": encoded(picture, "tiff"),
    }
    others = {"notes.txt": b"x", "a/labels.csv": b"x", "__MACOSX/a/._0.png": b"x", "a/png": b"x"}
    for place in (write(tmp_path / "x", files | others), write_zip(tmp_path / "x.zip", files | others)):
        data = load_folder(place)
        assert {*data.train.names, *data.held_out.names} == files.keys()  # type: ignore[union-attr]
        assert data.class_names == ("a",)
        assert whole(data.train).shape == (10, 3, 6, 6)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record every picture that is read completely."""
    asked: list[Any] = []
    original = Archive.read

    def read(archive: Archive, name: Any) -> Any:
        asked.append(name)
        return original(archive, name)

    monkeypatch.setattr(Archive, "read", read)
    return asked


def test_nothing_is_decoded_before_it_is_asked_for(
    tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "x", coloured(40))
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("a picture was decoded"))
        data = load_folder(place)
    assert (len(data.train), len(data.held_out), data.num_classes, data.fingerprint["train"]) == (36, 4, 3, 36)
    assert opened == []
    data.train[torch.tensor([5, 1, 5])]
    assert len(opened) == 3
    assert data.shape == (3, 6, 6)
    assert len(opened) == 3


def test_some_are_evenly_spaced_and_no_more_than_asked_for(tmp_path: Path, opened: list[Any]) -> None:
    data = load_folder(write(tmp_path / "x", coloured(40)))
    some = data.some(8)
    assert len(opened) == 8
    assert torch.equal(some, data.encode(data.train[torch.tensor([0, 5, 10, 15, 20, 25, 30, 35])]))
    assert len(data.some()) == 36


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"no picture",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:50] + bytes([content[50] ^ 255]) + content[51:],
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_corrupt_picture_is_named_when_it_is_asked_for(
    damage: Callable[[bytes], bytes], zipped: bool, tmp_path: Path
) -> None:
    files = coloured(40)
    names = names_of(load_folder(write(tmp_path / "intact", files)))[0]
    files[names[3]] = damage(files[names[3]])
    place = write_zip(tmp_path / "x.zip", files) if zipped else write(tmp_path / "x", files)
    data = load_folder(place)
    data.train[torch.tensor([2, 4])]
    with pytest.raises(
        UserError, match=rf"^{place}/{names[3]}: cannot be read \(.*\)\. Remove it, or set dataset\.skip_corrupt=true\."
    ) as caught:
        data.train[torch.tensor([2, 3])]
    assert "\n" not in str(caught.value)


def test_corrupt_pictures_are_left_out_and_named_only_on_request(tmp_path: Path) -> None:
    files = coloured(40)
    names = sorted(files)
    bad = [names[3], names[9], names[20]]
    for name in bad:
        files[name] = files[name][:40]
    place = write(tmp_path / "x", files)
    data = load_folder(place, skip_corrupt=True)
    assert [line.partition(": cannot be read")[0] for line in data.notes] == [
        f"left out: {place}/{name}" for name in bad
    ]
    assert all(line.endswith(")") for line in data.notes)
    assert sorted([*names_of(data)[0], *names_of(data)[1]]) == [name for name in names if name not in bad]
    assert whole(data.train).shape == (34, 3, 6, 6)
    assert len(load_folder(place).train) == 36
    for name in bad:
        (place / name).unlink()
    intact = load_folder(place)
    assert (intact.fingerprint, intact.notes) == (data.fingerprint, ())


def test_the_error_of_a_source_that_names_the_picture_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_folder(write(tmp_path / "x", coloured(20)))
    refuse_damaged(data)

    def named(*_: object) -> None:
        raise UserError("row 7: it is empty. Remove it.")

    monkeypatch.setattr(Archive, "open", named)
    with pytest.raises(UserError, match=r"^row 7: it is empty\. Remove it\.$"):
        refuse_damaged(data)


def test_a_folder_of_corrupt_pictures_alone_is_refused(tmp_path: Path) -> None:
    refused(
        "^dataset: 0 samples cannot be split",
        write(tmp_path / "x", dict.fromkeys(coloured(20), b"x")),
        skip_corrupt=True,
    )


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_too_few_pictures_are_refused(number: int, tmp_path: Path) -> None:
    said = rf"^dataset: {number} samples? cannot be split into training samples and one in 10 held out\. Give more\."
    refused(said, write(tmp_path / "x", coloured(number)))


@pytest.mark.parametrize("name", ["image_folder", "latents"])
def test_a_folder_without_its_kind_of_file_is_refused(name: str, tmp_path: Path) -> None:
    ending = r"\.png or \.jpg or \.jpeg" if name == "image_folder" else r"\.npy"
    said = rf"holds no {ending} file\. Give another folder\."
    (tmp_path / "empty").mkdir()
    refused(rf"^{tmp_path}/empty: {said}", tmp_path / "empty", name)
    other = rf"holds no {ending} file, but 2 files ending in \.txt, in a\. Give another folder\."
    texts = {"a/b.txt": b"", "a/c.TXT": b""}
    refused(rf"^{tmp_path}/x: {other}", write(tmp_path / "x", texts), name)
    refused(rf"^{tmp_path}/x\.zip: {other}", write_zip(tmp_path / "x.zip", texts), name)
    refused(rf"^dataset\.path: {tmp_path}/none does not exist\. Give a folder or zip;", tmp_path / "none", name)


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "a/.."])
def test_a_zip_that_climbs_out_is_refused(name: str, tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", {**coloured(20, loose=True), name: encoded(Image.new("L", (6, 6)))})
    refused(rf"^{place}: holds '{name}', a path that leads out of the zip\. Make the zip again\.", place)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"], ids=["empty", "text", "torn"])
def test_a_file_that_is_not_a_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    refused(rf"^{tmp_path}/x\.zip: cannot be read \(.*\)\. Give a folder or a zip of files\.", tmp_path / "x.zip")


def test_a_zip_cut_short_is_refused(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", coloured(20))
    place.write_bytes(place.read_bytes()[:-60])
    refused(rf"^{place}: cannot be read", place)


def spoilt(path: Path, how: str) -> Path:
    """Return a zip of bitmaps whose first member cannot be unpacked."""
    files = {f"{i:02d}.bmp": encoded(Image.new("RGB", (32, 32), (i, i, i)), "bmp") for i in range(20)}
    write_zip(path, files, zipfile.ZIP_STORED if how == "checksum" else zipfile.ZIP_DEFLATED)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("00.bmp").header_offset
        directory = archive.start_dir
        entry = directory + bytes(raw[directory:]).find(b"00.bmp") - 46
    if how == "encrypted":
        raw[start + 6] |= 1
        raw[entry + 8] |= 1
    else:
        for k in range(5):
            raw[start + 30 + 6 + k] ^= 0xFF
    path.write_bytes(raw)
    return path


ESCAPES = {"deflated": "zlib.error", "encrypted": "RuntimeError"}


@pytest.mark.parametrize(
    "how",
    ["checksum", *ESCAPES],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_member_that_does_not_unpack_is_a_corrupt_picture(how: str, skip: bool, tmp_path: Path) -> None:
    place = spoilt(tmp_path / "x.zip", how)
    if skip:
        assert len(load_folder(place, skip_corrupt=True).train) == 18
    else:
        with pytest.raises(UserError, match=rf"^{place}/00\.bmp: cannot be read"):
            load_folder(place).train[torch.tensor([0])]


@pytest.mark.parametrize("how", ["checksum", *ESCAPES])
def test_a_member_that_does_not_unpack_stops_the_fingerprint_with_its_name(how: str, tmp_path: Path) -> None:
    data = load_folder(spoilt(tmp_path / "x.zip", how))
    with pytest.raises(UserError, match=r"00\.bmp"):
        _ = data.fingerprint


def test_a_fingerprint_is_of_content_size_colour_and_classes(tmp_path: Path) -> None:
    files = coloured(20)
    names = sorted(files)
    place = write(tmp_path / "x", files)
    touched, touched_held_out = ({**files, names[i]: encoded(Image.new("RGB", (9, 8)))} for i in (0, 9))
    renamed = {name.replace("cat/", "cow/"): content for name, content in files.items()}
    regrouped = {name.replace("cat/", "cat/x"): content for name, content in files.items()}
    prints = [
        load_folder(place).fingerprint,
        load_folder(place, size=7).fingerprint,
        load_folder(place, colour="grey").fingerprint,
        *(
            load_folder(write(tmp_path / str(i), changed)).fingerprint
            for i, changed in enumerate((touched, touched_held_out, renamed, regrouped))
        ),
    ]
    assert len({str(each["sha256"]) for each in prints}) == len(prints)
    assert load_folder(write(tmp_path / "elsewhere", files), workers=0, flip=True).fingerprint == prints[0]


@pytest.mark.parametrize("name", ["image_folder", "npz", "cifar10"])
def test_pictures_are_flipped_only_on_request(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    write(tmp_path / "x", coloured(20))
    images = pixels(20, 32, 32, 3)
    np.savez(tmp_path / "x.npz", images=images)
    np.savez(
        tmp_path / "cifar10.npz", x_train=images, x_test=images, y_train=np.arange(20) % 10, y_test=np.arange(20) % 10
    )
    known: dict[str, dict[str, Any]] = {
        "image_folder": {"path": "x", "size": 6},
        "npz": {"path": "x.npz"},
        "cifar10": {},
    }
    fields = known[name]
    plain, flipped = (build("dataset", {"name": name, **fields, "flip": flip}).load() for flip in (False, True))
    assert plain.augment is None
    assert flipped.augment is mirror
    assert torch.equal(whole(plain.train), whole(flipped.train))


def test_flips_turn_about_half_of_the_images_independently() -> None:
    images = torch.from_numpy(pixels(4000, 2, 3, 5))
    turned = mirror(images, stream(0, "augment", 3))
    kept, flipped = ((turned == each).flatten(1).all(1) for each in (images, images.flip(-1)))
    assert (kept ^ flipped).all()
    assert abs(flipped.float().mean().item() - 0.5) < 4 * 0.5 / 4000**0.5
    assert abs((flipped[1:] ^ flipped[:-1]).float().mean().item() - 0.5) < 4 * 0.5 / 4000**0.5
    assert torch.equal(turned, mirror(images, stream(0, "augment", 3)))
    assert not torch.equal(turned, mirror(images, stream(0, "augment", 4)))


def latent_files(number: int = 20, shape: tuple[int, ...] = (4, 3, 2), dtype: str = "float32") -> dict[str, bytes]:
    return {
        f"{'ab'[i % 2]}/{i:02d}.npy": as_npy(np.random.default_rng(i).normal(3, 5, shape).astype(dtype))
        for i in range(number)
    }


def as_npy(array: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_latents_are_shifted_and_scaled(dtype: str, tmp_path: Path) -> None:
    files = latent_files(dtype=dtype)
    data = load_folder(write(tmp_path / "x", files), "latents", scale=0.3611, shift=0.1159)
    names, held = names_of(data)
    expected = np.stack([np.load(io.BytesIO(files[name])) for name in names]).astype(np.float32)
    stored = whole(data.train)
    assert (data.kind, data.shape, data.class_names) == ("latents", (4, 3, 2), ("a", "b"))
    assert data.classes is not None
    assert data.classes.tolist() == [int(name[0] == "b") for name in names]
    assert np.array_equal(stored.numpy(), expected)
    assert sorted(names + held) == sorted(files)
    np.testing.assert_allclose(data.encode(stored), (expected - 0.1159) * 0.3611, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(data.decode(data.encode(stored)), stored, rtol=1e-5, atol=1e-5)
    assert data.encode(stored.double()).dtype == torch.float32
    assert {name: value.item() for name, value in data.statistics.items()} == pytest.approx(
        {"scale": 0.3611, "shift": 0.1159}
    )


def test_latents_have_the_scale_of_stable_diffusion_by_default(tmp_path: Path) -> None:
    data = load_folder(write(tmp_path / "x", latent_files()), "latents")
    torch.testing.assert_close(data.encode(torch.tensor([2.0])), torch.tensor([2 * 0.18215]))


def test_latents_of_mirror_images_are_training_samples_too(tmp_path: Path) -> None:
    files = latent_files(shape=(2, 4, 3, 2))
    data = load_folder(write(tmp_path / "x", files), "latents", flip=True)
    one = load_folder(write(tmp_path / "y", latent_files()), "latents")
    names, held = names_of(one)
    both = np.stack([np.load(io.BytesIO(files[name])) for name in names])
    assert np.array_equal(whole(data.train).numpy(), np.concatenate([both[:, 0], both[:, 1]]))
    assert np.array_equal(whole(data.held_out).numpy(), [np.load(io.BytesIO(files[name]))[0] for name in held])
    assert data.classes is not None
    assert one.classes is not None
    assert data.classes.tolist() == 2 * one.classes.tolist()
    assert data.shape == (4, 3, 2)
    with pytest.raises(UserError, match=r"has 3 axes, not those of \[2, C, H, W\]\. Set dataset\.flip=false if"):
        load_folder(tmp_path / "y", "latents", flip=True)
    with pytest.raises(UserError, match=r"has 4 axes, not those of \[C, H, W\]\. Set dataset\.flip=true if"):
        load_folder(tmp_path / "x", "latents")


def test_latents_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(wraps=read_array)
    monkeypatch.setattr("harness.data.latents.read_array", read)
    data = load_folder(write(tmp_path / "x", latent_files(40)), "latents")
    assert read.call_count <= 2
    data.train[torch.tensor([3, 1])]
    assert [call.args[0].name for call in read.call_args_list[-2:]] == ["06.npy", "02.npy"]


def test_a_fingerprint_of_latents_is_of_their_content(tmp_path: Path) -> None:
    files = latent_files()
    first = load_folder(write(tmp_path / "x", files), "latents").fingerprint
    assert load_folder(write(tmp_path / "y", files), "latents", scale=1.0, workers=0).fingerprint == first
    assert load_folder(write(tmp_path / "z", {**files, "a/02.npy": files["a/04.npy"]}), "latents").fingerprint != first


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (
            np.zeros((4, 3, 3), np.float32),
            r"holds float32 \[4, 3, 3\], not finite floats \[4, 3, 2\]\. Make it again\.",
        ),
        (np.zeros((4, 3), np.float32), r"holds float32 \[4, 3\], not finite floats \[(C, H, W|4, 3, 2)\]\."),
        (np.full((4, 3, 2), np.nan, np.float32), r"holds float32 \[4, 3, 2\], not finite floats \[(C, H, W|4, 3, 2)\]"),
        (np.full((4, 3, 2), np.inf, np.float16), r"holds float16 \[4, 3, 2\], not finite floats"),
        (np.zeros((4, 3, 2), np.int64), r"holds int64 \[4, 3, 2\], not finite floats"),
        (np.zeros((4, 3, 2), np.complex64), r"holds complex64 \[4, 3, 2\], not finite floats"),
        (np.array([{}]), r"cannot be read \(.*pickle.*\)\. Make it again\."),
    ],
    ids=["another shape", "an axis too few", "NaN", "infinite", "whole numbers", "complex", "pickled"],
)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_a_file_that_is_not_a_latent_is_named(array: np.ndarray, said: str, first: bool, tmp_path: Path) -> None:
    files = latent_files()
    name = "a/00.npy" if first else "a/06.npy"
    if first and array.shape == (4, 3, 3):
        said = r"holds float32 \[4, 3, 2\], not finite floats \[4, 3, 3\]"
        name = "a/02.npy"
    files["a/00.npy" if first else name] = as_npy(array, allow_pickle=True)
    with pytest.raises(UserError, match=rf"^{tmp_path}/x/{name}: {said}") as caught:
        load_folder(write(tmp_path / "x", files), "latents").train[torch.tensor([0, 1, 3])]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"no array", as_npy(np.zeros((4, 3, 2), np.float32))[:150]], ids=["empty", "text", "cut"]
)
def test_a_damaged_latent_is_named(content: bytes, tmp_path: Path) -> None:
    data = load_folder(write(tmp_path / "x", {**latent_files(), "a/06.npy": content}), "latents")
    with pytest.raises(UserError, match=rf"^{tmp_path}/x/a/06\.npy: cannot be read \(.*\)\. Make it again\."):
        data.train[torch.tensor([3])]


def test_an_npz_that_is_called_npy_is_named(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, z=np.zeros((4, 3, 2), np.float32))
    data = load_folder(write(tmp_path / "x", {**latent_files(), "a/06.npy": content.getvalue()}), "latents")
    with pytest.raises(UserError, match=r"a/06\.npy"):
        data.train[torch.tensor([3])]


def test_held_out_latents_have_the_shape_of_the_others(tmp_path: Path) -> None:
    files = latent_files()
    held = names_of(load_folder(write(tmp_path / "intact", files), "latents"))[1]
    files |= {name: as_npy(np.zeros((4, 5, 5), np.float32)) for name in held}
    with pytest.raises(UserError, match=r"holds float32 \[4, 5, 5\], not finite floats \[4, 3, 2\]"):
        whole(load_folder(write(tmp_path / "x", files), "latents").held_out)


def test_a_zip_of_latents_is_refused(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", latent_files())
    refused(rf"^{place}: latents must be in a folder, .*\. Unpack the zip\.", place, "latents")


def test_latents_can_lie_loose(tmp_path: Path) -> None:
    data = load_folder(
        write(tmp_path / "x", {f"{i:02d}.npy": content for i, content in enumerate(latent_files().values())}), "latents"
    )
    assert (data.classes, len(data.train), len(data.held_out)) == (None, 18, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_an_npz_holds_images_in_either_layout(layout: str, channels: int, tmp_path: Path) -> None:
    first = pixels(25, channels, 6, 7)
    np.savez(tmp_path / "x.npz", images=first if layout == "NCHW" else first.transpose(0, 2, 3, 1))
    data = load_folder(tmp_path / "x.npz", "npz")
    train = whole(data.train)
    assert (data.kind, data.shape, data.classes, data.class_names) == ("image", (channels, 6, 7), None, ())
    assert (train.dtype, train.is_contiguous()) == (torch.uint8, True)
    apart = held_out(25, 10).numpy()
    assert np.array_equal(train.numpy(), first[~apart])
    assert np.array_equal(whole(data.held_out).numpy(), first[apart])


def test_images_that_could_be_either_layout_have_their_channels_last(tmp_path: Path) -> None:
    images = pixels(20, 3, 5, 3)
    np.savez(tmp_path / "x.npz", images=images)
    expected = images[held_out(20, 10).numpy()].transpose(0, 3, 1, 2)
    assert np.array_equal(whole(load_folder(tmp_path / "x.npz", "npz").held_out).numpy(), expected)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["dog", "cat", "dog", "emu"] * 5), ("cat", "dog", "emu")),
        (np.array([7, -2, 7, 9] * 5), ("-2", "7", "9")),
        (np.array([0.5, 0.25, 0.5, 0.75] * 5), ("0.25", "0.5", "0.75")),
        (np.array([True, False, True, True] * 5), ("False", "True")),
        (np.array([b"x", b"y"] * 10), ("x", "y")),
    ],
    ids=["texts", "whole numbers", "numbers", "truths", "bytes"],
)
def test_labels_of_any_type_become_classes_from_zero(
    labels: np.ndarray, names: tuple[str, ...], tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", images=pixels(20, 4, 4, 3), labels=labels)
    data = load_folder(tmp_path / "x.npz", "npz")
    assert (data.class_names, data.num_classes) == (names, len(names))
    assert data.classes is not None
    assert data.classes.dtype == torch.int64
    apart = held_out(20, 10, torch.from_numpy(np.unique(labels, return_inverse=True)[1]))
    said = [label.decode() if isinstance(label, bytes) else str(label) for label in labels[~apart.numpy()]]
    assert [names[i] for i in data.classes.tolist()] == said


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": pixels(20, 4, 4, 3)},
         r"holds no `images`, not uint8 \[N, H, W, C\] or \[N, C, H, W\] with C = 1 or 3\. Make it again\."),
        ({"images": pixels(20, 4, 4)}, r"holds `images` as uint8 \[20, 4, 4\], not uint8"),
        ({"images": pixels(20, 4, 4, 2)}, r"holds `images` as uint8 \[20, 4, 4, 2\], not"),
        ({"images": pixels(20, 4, 4, 4)}, r"holds `images` as uint8 \[20, 4, 4, 4\], not"),
        ({"images": pixels(20, 4, 4, 3) / 255}, r"holds `images` as float64 \[20, 4, 4, 3\], not"),
        ({"images": np.array([{}])}, "cannot be read"),
        ({"images": pixels(20, 4, 4, 3), "labels": np.arange(19)},
         r"`labels` has shape \[19\] for 20 images\. Give one label for each image\."),
        ({"images": pixels(20, 4, 4, 3), "labels": np.eye(20)}, r"`labels` has shape \[20, 20\] for 20 images"),
        ({"images": pixels(20, 4, 4, 3), "labels": np.array([None] * 20)}, "cannot be read"),
        ({"images": pixels(0, 4, 4, 3)}, "0 samples cannot be split"),
        ({"images": pixels(9, 4, 4, 3)}, "9 samples cannot be split"),
    ],
    ids=[
        "no images", "no channels", "two channels", "four channels", "floats", "pickled", "a label too few", "one-hot",
        "pickled labels",
        "no image", "too few",
    ],
)  # fmt: skip
def test_an_npz_without_images_is_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    refused(said, tmp_path / "x.npz", "npz")


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_damaged_npz_is_refused(keep: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=pixels(20, 6, 6, 3))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:keep])
    refused(rf"^{tmp_path}/x\.npz: cannot be read \(.*\)\. Make it again\.", tmp_path / "x.npz", "npz")
    refused(r"^dataset\.path: .*y\.npz does not exist\. Give an \.npz file with `images`;", tmp_path / "y.npz", "npz")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 0}, r"^dataset\.size: 0 is outside \[1, 16384\]"),
        ({"colour": "gray"}, r"^dataset\.colour: 'gray' is not a choice\. Did you mean 'grey'\?"),
        ({"workers": -1}, r"^dataset\.workers: -1 is outside"),
        ({"flip": "yes"}, r"^dataset\.flip: expected true or false, got 'yes'\."),
        ({"sise": 3}, r"^dataset\.sise: image_folder has no such field\. Did you mean 'size'\?"),
    ],
    ids=str,
)
def test_invalid_fields_are_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    refused(said, tmp_path, **fields)


def test_a_size_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^dataset\.size: image_folder needs it\. Give a value\."):
        build("dataset", {"name": "image_folder", "path": str(tmp_path)})
    refused(r"^dataset\.scale: 0\.0 is outside \[1e-150, 1e\+150\]", tmp_path, "latents", scale=0)
