"""Pictures of samples of every kind, and `harness data`, which loads a data set and draws it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.cli import main
from harness.core.errors import UserError
from harness.core.registry import build, names
from harness.data import pictures
from harness.data.base import Data, Kind, held_out
from harness.data.images import decode, encode
from harness.data.pictures import MOST, SHOWN, draw, require_drawable


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(train: Tensor, kind: str, **more: Any) -> Data:
    """Return data whose encoding is the identity."""
    return Data(train, train[:3], torch.Tensor.float, torch.Tensor.float, kind, **more)  # type: ignore[arg-type]


def images(number: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (number, channels, size, size), generator=generator(seed), dtype=torch.uint8)


def image_data(channels: int = 3) -> Data:
    return Data(images(20, channels), images(3, channels), encode, decode, "image")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


DATA: dict[str, Callable[[], Data]] = {
    "image": image_data,
    "latents": lambda: plain(normal(20, 4, 8, 8), "latents"),
    "points": lambda: plain(normal(200, 2), "points"),
    "cells": lambda: plain(normal(60, 7).relu(), "cells", names=tuple(f"gene {i}" for i in range(7))),
    "sequence": lambda: plain(normal(50, 12, 2), "sequence", names=("growth", "rate")),
}


def samples_like(data: Data, number: int, seed: int = 1) -> Tensor:
    if data.kind == "image":
        return images(number, data.shape[0], seed=seed)
    return (
        normal(number, *data.shape, seed=seed).relu()
        if data.kind == "cells"
        else normal(number, *data.shape, seed=seed)
    )


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def test_every_kind_of_data_is_drawn() -> None:
    assert DATA.keys() == SHOWN.keys() == pictures._PICTURES.keys()


@pytest.mark.parametrize("kind", DATA)
def test_a_picture_is_a_png_that_shows_every_sample_and_its_title(kind: str, tmp_path: Path) -> None:
    """The picture contains the last sample, even if there are more samples than by default; images and latents have no
    title.
    """
    data = DATA[kind]()
    samples = samples_like(data, SHOWN[kind] + 5)  # type: ignore[index]
    other = torch.cat([samples[:-1], samples[:1] * 2 if kind != "image" else 255 - samples[-1:]])
    folder = tmp_path / "new"
    for name, given in (("a", samples), ("again", samples), ("other", other), ("fewer", samples[:-1])):
        draw(data, given, folder / f"{name}.png")
    draw(data, samples, folder / "titled.png", "held-out samples")
    assert {path.name for path in folder.iterdir()} == {"a.png", "again.png", "other.png", "fewer.png", "titled.png"}
    first = read(folder / "a.png")
    assert min(first.shape[:2]) > 60
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3
    assert (folder / "a.png").read_bytes() == (folder / "again.png").read_bytes()
    assert first.shape == read(folder / "other.png").shape
    assert not np.array_equal(first, read(folder / "other.png"))
    assert not np.array_equal(first, read(folder / "fewer.png"))
    assert np.array_equal(first, read(folder / "titled.png")) == (kind in ("image", "latents"))


def test_images_fill_a_square_where_rows_of_eight_would_be_a_column(tmp_path: Path) -> None:
    """A search that does not know the grid finds every image in its place."""
    for number, across, rows in ((63, 8, 8), (64, 8, 8), (65, 9, 8), (100, 10, 10), (101, 11, 10), (250, 16, 16)):
        samples = torch.arange(number, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 32, 32)
        draw(image_data(1), samples, tmp_path / "x.png")
        picture = read(tmp_path / "x.png")
        assert picture.shape == (34 * rows + 2, 34 * across + 2, 3), f"{number} images"
        seen = [int(picture[2 + 34 * (i // across), 2 + 34 * (i % across), 0]) for i in range(number)]
        assert seen == list(range(number)), f"{number} images"


@pytest.mark.parametrize("kind", DATA)
def test_more_samples_than_a_picture_can_show_are_refused(kind: Kind) -> None:
    require_drawable(kind, MOST[kind])
    with pytest.raises(
        UserError, match=rf"^--number: a picture shows up to {MOST[kind]} samples, not {MOST[kind] + 1}\. Ask for fewer"
    ):
        require_drawable(kind, MOST[kind] + 1)
    assert SHOWN[kind] <= MOST[kind]


def test_the_brightness_of_latents_is_that_of_all_of_them(tmp_path: Path) -> None:
    """More than a million values, the first half all equal: the others also decide dark and bright."""
    samples = torch.cat([torch.zeros(5, 4, 384, 384), normal(5, 4, 384, 384)])
    draw(plain(normal(20, 4, 8, 8), "latents"), samples, tmp_path / "x.png")
    first, last = (read(tmp_path / "x.png")[2:386, 2 + 386 * i : 386 * (i + 1)].astype(float) for i in (0, 7))
    low, high = np.quantile(samples[:, :3].numpy(), [0.01, 0.99])
    assert abs(first.mean() - 255 * (0 - low) / (high - low)) < 2
    assert last.std() > 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "shown"), [(8, 32), (15, 30), (32, 32), (40, 40)])
def test_images_lie_eight_in_a_row_enlarged_by_whole_pixels(
    size: int, shown: int, channels: int, tmp_path: Path
) -> None:
    samples = images(10, channels, size)
    draw(image_data(channels), samples, tmp_path / "x.png")
    picture = read(tmp_path / "x.png")
    step = shown + 2
    factor = shown // size
    assert picture.shape == (2 * step + 2, 8 * step + 2, 3)
    for number in range(10):
        top = number // 8 * step + 2
        left = number % 8 * step + 2
        tile = picture[top : top + shown, left : left + shown]
        expected = samples[number].expand(3, -1, -1).permute(1, 2, 0).numpy()
        assert np.array_equal(tile, np.kron(expected, np.ones((factor, factor, 1), np.uint8)))
    assert (picture[0] == 128).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_latents_are_shown_by_their_first_channels_from_dark_to_bright(channels: int, tmp_path: Path) -> None:
    samples = normal(8, channels, 32, 32) * 7 + 3
    samples[0, 0, 0, 0] = 1e4  # one outlier does not darken the rest
    draw(plain(samples, "latents"), samples, tmp_path / "x.png")
    tiles = read(tmp_path / "x.png")[2:34, 2:]
    first = np.stack([tiles[:, 34 * i : 34 * i + 32] for i in range(8)]).astype(float)
    shown = samples[:, :3] if channels >= 3 else samples[:, :1].expand(-1, 3, -1, -1)
    low, high = np.quantile((samples[:, :3] if channels >= 3 else samples[:, :1]).numpy(), [0.01, 0.99])
    expected = ((shown.double().numpy() - low) / (high - low) * 255).clip(0, 255).transpose(0, 2, 3, 1)
    assert np.abs(first - np.floor(expected)).max() <= 1


def test_constant_latents_are_drawn(tmp_path: Path) -> None:
    draw(plain(normal(20, 4, 8, 8), "latents"), torch.zeros(4, 4, 8, 8), tmp_path / "x.png")
    assert read(tmp_path / "x.png").shape[0] == 36


def blue(picture: np.ndarray) -> int:
    """Count the pixels in the colour of the trajectories, pale ones included."""
    red, green, blue_ = picture.astype(int).transpose(2, 0, 1)
    return int(((blue_ > green + 8) & (green > red + 8)).sum())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_points_are_drawn_with_their_trajectories(dimensions: int, tmp_path: Path) -> None:
    data = plain(normal(200, dimensions), "points")
    samples = normal(30, dimensions, seed=1)
    noise = 3 * normal(30, dimensions, seed=2)
    way = [noise + share * (samples - noise) for share in torch.linspace(0, 1, 5)]
    draw(data, samples, tmp_path / "points.png")
    draw(data, samples, tmp_path / "ways.png", trajectories=way)
    without = read(tmp_path / "points.png")
    with_ = read(tmp_path / "ways.png")
    assert blue(without) == 0
    assert blue(with_) > 300
    middle = with_.shape[1] // 2
    assert blue(with_[:, :middle]) == 0, "real points came no way"


def test_trajectories_are_decoded(tmp_path: Path) -> None:
    train = normal(200, 2)
    doubled = Data(train, train[:3], lambda x: x.float() / 64, lambda x: x.float() * 64, "points")
    samples = normal(30, 2, seed=1)
    way = [share * samples for share in torch.linspace(0, 1, 5)]
    draw(plain(train, "points"), samples, tmp_path / "plain.png", trajectories=way)
    draw(doubled, samples, tmp_path / "decoded.png", trajectories=[x / 64 for x in way])
    assert np.array_equal(read(tmp_path / "plain.png"), read(tmp_path / "decoded.png"))


def test_at_most_150_trajectories_are_drawn(tmp_path: Path) -> None:
    data = plain(normal(300, 2), "points")
    samples = normal(300, 2, seed=1)
    way = [torch.zeros(300, 2), samples]
    for number in (150, 151, 149):
        draw(data, samples, tmp_path / f"{number}.png", trajectories=[x[:number] for x in way])
    pictures_ = [(tmp_path / f"{number}.png").read_bytes() for number in (150, 151, 149)]
    assert pictures_[0] == pictures_[1] != pictures_[2]


def test_real_cells_are_drawn_next_to_samples_for_the_most_correlated_genes() -> None:
    base = normal(500)
    genes = torch.stack([normal(500, seed=2), base, normal(500, seed=3), -base + 0.1 * normal(500, seed=4)], dim=1)
    assert set(pictures._related(genes)) == {1, 3}
    quiet = torch.cat([normal(500, 60, seed=5), 1e-3 * torch.stack([base, base], dim=1)], dim=1)
    assert not {60, 61} & set(pictures._related(quiet)), "genes that hardly vary are passed over"
    assert len(set(pictures._related(genes[:, :2]))) == 2
    still = torch.cat([genes, torch.zeros(500, 1)], dim=1)
    assert set(pictures._related(still)) == {1, 3}


def test_real_samples_are_spaced_evenly() -> None:
    data = plain(torch.arange(100.0)[:, None], "points")
    assert pictures._real(data, 4)[:, 0].tolist() == [0, 33, 66, 99]
    assert pictures._real(data, 1000)[:, 0].tolist() == list(range(100))


@pytest.mark.parametrize(("genes", "number"), [(1, 16), (7, 1), (1, 1)], ids=["one gene", "one cell", "one of each"])
def test_one_gene_or_one_cell_is_drawn(genes: int, number: int, tmp_path: Path) -> None:
    data = plain(normal(60, genes).relu(), "cells", names=tuple(f"gene {i}" for i in range(genes)))
    draw(data, samples_like(data, number), tmp_path / "x.png")
    read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["image", "latents", "points", "sequence"])
def test_one_sample_is_drawn(kind: str, tmp_path: Path) -> None:
    data = DATA[kind]()
    draw(data, samples_like(data, 1), tmp_path / "x.png")
    read(tmp_path / "x.png")


def test_a_sequence_has_a_row_of_panels_for_each_channel(tmp_path: Path) -> None:
    heights = []
    for channels in (1, 3):
        data = plain(normal(50, 12, channels), "sequence", names=tuple("abc"[:channels]))
        draw(data, samples_like(data, 9), tmp_path / "x.png")
        heights.append(read(tmp_path / "x.png").shape[0])
    assert heights[1] > 2 * heights[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HARNESS_DATA with pictures of three classes, a series and an .npz."""
    rng = np.random.default_rng(0)
    for i in range(30):
        place = tmp_path / "pets" / ("cat", "dog", "emu")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(place / f"{i:02d}.png")
    np.savez(tmp_path / "series.npz", series=rng.normal(size=(200, 10)))
    np.savez(tmp_path / "pets.npz", images=rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


def test_data_lists_every_set_and_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") == 4}
    assert rows.keys() >= set(names("dataset"))
    assert "path, size" in rows["image_folder"]
    assert rows["digits"].split("│")[3].strip() == ""
    assert rows["cells"].split("│")[3].strip() == "path"
    assert f"data folder: {folder};" in said


def test_data_loads_a_set_and_describes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "image_folder", "--set", "path=pets", "--set", "size=8"]) == 0
    said = told(capsys)
    assert said.pop("fingerprint").isalnum()
    assert said == {
        "samples": "27 to train on, 3 held out",
        "kind, shape": "image [3, 8, 8]",
        "classes": "cat, dog, emu",
    }


def test_data_shows_the_first_features_and_how_many_there_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "time_series", "--set", "path=series.npz", "--set", "window=5"]) == 0
    said = told(capsys)
    assert said["features"] == ", ".join(f"channel {i}" for i in range(8)) + ", ... (10)"
    assert (said["kind, shape"], said["classes"]) == ("sequence [5, 10]", "none")
    assert main(["data", "time_series", "--set", "path=series.npz", "--set", 'columns=["channel 9","channel 0"]']) == 0
    assert told(capsys)["features"] == "channel 9, channel 0"
    assert main(["data", "eight_gaussians", "--set", "number=1000"]) == 0
    said = told(capsys)
    assert (said["samples"], said["classes"], "features" in said) == ("1000 to train on, 200 held out", "8", False)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["image_folder", "--set", "path=pets", "--set", "size=8"], "3 of 3"),
        (["npz", "--set", "path=pets.npz"], "2 of 2"),
        (["digits"], "64 of 359"),
        (["time_series", "--set", "path=series.npz"], "25 of 25"),
        (["swiss_roll", "--set", "number=500"], "100 of 100"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_data_draws_held_out_samples(
    arguments: list[str], shown: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "new" / "x.png"
    assert main(["data", *arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {out}: {shown} held-out samples\n")
    assert min(read(out).shape[:2]) > 30


def test_data_draws_the_pictures_that_are_held_out(folder: Path) -> None:
    assert main(["data", "npz", "--set", "path=pets.npz", "--out", str(folder / "x.png")]) == 0
    held = np.load(folder / "pets.npz")["images"][held_out(20, 10).numpy()]
    assert np.array_equal(read(folder / "x.png")[2:34, 36:68], np.kron(held[1], np.ones((4, 4, 1), np.uint8)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digit"], "dataset: 'digit' is not a known dataset. Did you mean 'digits'?"),
        (["image_folder"], "dataset.path: image_folder needs it. Give a value."),
        (["image_folder", "--set", "path=pets"], "dataset.size: image_folder needs it. Give a value."),
        (
            ["image_folder", "--set", "path=pets", "--set", "size=big"],
            "dataset.size: expected a whole number, got 'big'.",
        ),
        (
            ["image_folder", "--set", "path=pest", "--set", "size=8"],
            "dataset.path: {folder}/pest does not exist. Give a folder or zip;",
        ),
        (
            ["image_folder", "--set", "path=here/pets", "--set", "size=8"],
            "dataset.path: {folder}/here/pets does not exist. ./here/pets exists: give its absolute path, "
            "{folder}/work/here/pets.\n",
        ),
        (["digits", "--set", "size=8"], "dataset.size: digits has no such field."),
        (["digits", "--set", "size"], "--set: 'size' is not path=value."),
        (["digits", "--out", "x.pdf"], "--out: x.pdf must end in .png."),
        (["--out", "x.png"], "NAME: no data set is named. Pass one that `harness data` lists."),
        (["--set", "size=8"], "NAME: no data set is named."),
        (
            ["time_series", "--set", "path=series.npz", "--set", "window=500"],
            "dataset.window: 500 is longer than the 160 rows",
        ),
        (["time_series", "--set", "path=pets.npz"], "{folder}/pets.npz: holds no `series`"),
        (["npz", "--set", "path=series.npz"], "{folder}/series.npz: holds no `images`"),
        (["digits", "--out", "{folder}/pets.npz/x.png"], "{folder}/pets.npz"),
    ],
    ids=str,
)
def test_impossible_requests_to_data_are_one_line_and_code_2(
    arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "work" / "here" / "pets").mkdir(parents=True)
    monkeypatch.chdir(folder / "work")
    assert main(["data", *(argument.format(folder=folder) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said.format(folder=folder)}")
    assert error.count("\n") == 1
    assert not list(folder.glob("x.*"))


def test_data_names_the_pictures_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training stops at the first of them, so `harness data` does not count them as samples."""
    arguments = ["data", "image_folder", "--set", f"path={folder / 'pets'}", "--set"]
    junk = folder / "pets" / "cat" / "junk.png"
    junk.write_text("no picture")
    said = f"{junk}: cannot be read (Pillow does not know its format)"
    assert main([*arguments, "size=8"]) == 2
    assert capsys.readouterr().err == f"error: {said}. Remove it, or set dataset.skip_corrupt=true.\n"
    other = folder / "pets" / "dog" / "other.jpg"
    other.write_bytes(b"")
    assert main([*arguments, "size=9"]) == 2  # a data set is loaded once per process
    more = f"{said}, nor can 1 more: {other}. Remove them, or set dataset.skip_corrupt=true."
    assert capsys.readouterr().err == f"error: {more}\n"
    assert main([*arguments, "size=9", "--set", "skip_corrupt=true"]) == 0
    assert told(capsys)["samples"] == "27 to train on, 3 held out"


def test_a_corrupt_picture_is_one_line_when_it_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = build("dataset", {"name": "image_folder", "path": "pets", "size": 8})
    held = folder / "pets" / dataset.load().held_out.names[1]
    held.write_bytes(held.read_bytes()[:60])
    arguments = ["data", "image_folder", "--set", "path=pets", "--set", "size=8"]
    assert main([*arguments, "--out", str(folder / "x.png")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {held}: cannot be read (")
    assert main([*arguments, "--set", "skip_corrupt=true", "--out", str(folder / "x.png")]) == 0
    said = capsys.readouterr().out
    assert f"\nleft out: {held}: cannot be read (" in said
    assert "samples: 27 to train on, 2 held out" in said


def test_data_that_are_not_finite_are_refused_when_they_are_loaded() -> None:
    bad = normal(10, 2)
    bad[3, 1] = bad[4, 0] = torch.nan
    with pytest.raises(
        UserError, match=r"^dataset: 2 of the 20 training values are NaN or infinite\. Remove or replace them\."
    ):
        plain(bad, "points")
    bad[4, 0] = -torch.inf
    with pytest.raises(UserError, match=r"^dataset: 2 of the 20 held-out values are NaN or infinite"):
        Data(normal(10, 2), bad, torch.Tensor.float, torch.Tensor.float, "points")


def test_a_picture_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_data()
    draw(data, images(4), tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        draw(data, images(4, seed=1), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == before
    Image.open(io.BytesIO(before)).verify()


@pytest.mark.parametrize(("number", "channels", "size"), [(64, 1, 8), (13, 3, 32), (3, 1, 28)])
def test_images_are_arranged_as_in_torchvisions_grid(tmp_path: Path, number: int, channels: int, size: int) -> None:
    from torchvision.utils import make_grid

    shown = images(number, channels, size)
    factor = max(1, 32 // size)
    draw(image_data(channels), shown, tmp_path / "grid.png")
    enlarged = shown.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    expected = make_grid(enlarged, nrow=8, padding=2, pad_value=128).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), expected)
