"""Pictures of Hugging Face data sets: what is read from where, and what is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.core.errors import ConfigError, UserError
from harness.core.registry import build
from harness.data.base import Data

Needed = Callable[..., dict[str, Any]]


def picture(width: int, height: int, seed: int) -> dict[str, Any]:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "png")
    return {"bytes": content.getvalue(), "path": None}


def table(sizes: list[tuple[int, int]], **columns: list[Any]) -> datasets.Dataset:
    pictures = [picture(*size, seed) for seed, size in enumerate(sizes)]
    labels = ["cat" if i % 2 else "dog" for i in range(len(sizes))]
    made = datasets.Dataset.from_dict({"image": pictures, "label": labels, **columns})
    return made.cast_column("image", datasets.Image())


def load(path: Path | str, **fields: Any) -> Data:
    return build("dataset", {"name": "huggingface", "path": str(path), **fields}).load()


def rows(data: Data) -> Tensor:
    return data.train[torch.arange(len(data.train))]


def test_a_saved_folder_a_parquet_file_an_arrow_file_and_pictures_hold_the_same(tmp_path: Path) -> None:
    """Samples and classes; a README beside the Parquet files is left alone."""
    made = table([(6, 4)] * 20)
    places = {name: tmp_path / name for name in ("saved", "parquet", "arrow", "pictures")}
    made.save_to_disk(str(places["saved"]))
    for name in ("parquet", "arrow"):
        places[name].mkdir()
    made.to_parquet(str(places["parquet"] / "all.parquet"))
    (places["parquet"] / "README.md").write_text("Pets.")
    shutil.copy(next(places["saved"].glob("data-*.arrow")), places["arrow"] / "all.arrow")
    for i, row in enumerate(made.cast_column("image", datasets.Image(decode=False))):
        place = places["pictures"] / row["label"] / f"{i:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(row["image"]["bytes"])
    found = {name: load(place) for name, place in places.items()}
    found["file"] = load(places["parquet"] / "all.parquet")
    for name, data in found.items():
        assert data.class_names == ("cat", "dog"), name
        assert data.classes is not None
        assert rows(data).shape == (18, 3, 4, 6), name
        assert data.shape == (3, 4, 6)
        assert len(data.held_out) == 2
    same = {name: data.fingerprint["sha256"] for name, data in found.items() if name != "pictures"}
    assert len({*same.values()}) == 1, "the order of pictures in a folder is another"
    cats = {tuple(x.flatten().tolist()) for data in found.values() for x in rows(data)[data.classes == 0]}
    dogs = {tuple(x.flatten().tolist()) for data in found.values() for x in rows(data)[data.classes == 1]}
    assert len(cats) <= 10
    assert len(dogs) <= 10
    assert not cats & dogs


def test_a_name_is_looked_up_in_the_librarys_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = table([(8, 8)] * 20)
    made.save_to_disk(str(tmp_path / "saved"))
    place = tmp_path / "cache" / "my___pets" / "default" / "0.0.0" / "abc"
    place.mkdir(parents=True)
    shutil.copy(next((tmp_path / "saved").glob("data-*.arrow")), place / "pets-train.arrow")
    split = datasets.SplitInfo(name="train", num_examples=20, num_bytes=1, dataset_name="pets")
    info = datasets.DatasetInfo(
        features=made.features, splits=datasets.SplitDict({"train": split}), config_name="default", version="0.0.0"
    )
    info.write_to_directory(str(place))
    assert rows(load("my/pets")).shape == (18, 3, 8, 8)
    with pytest.raises(
        UserError,
        match=r"^my/dogs: is not in data, and cannot be read from the cache .*Set dataset\.online=true to download it",
    ):
        load("my/dogs")
    for name in ("../pets", "/nowhere/pets", "a/b/c", "", "hf://datasets/my/pets", "pets*"):
        with pytest.raises(ConfigError, match=r"^dataset\.path: .* does not exist\. Give a folder, or a name like"):
            load(name)


def test_the_classes_are_a_columns(needed: Needed) -> None:
    fields = needed("huggingface")
    named = build("dataset", {"name": "huggingface", **fields}).load()
    assert (named.class_names, named.num_classes) == (("a", "b"), 2)
    assert named.notes == ("left out: the columns other",)
    assert load(fields["path"], label="").classes is None


def test_pictures_of_several_sizes_are_resized_or_refused(tmp_path: Path) -> None:
    table([(8, 8)] * 19 + [(9, 8)]).save_to_disk(str(tmp_path / "pets"))
    data = load(tmp_path / "pets")
    with pytest.raises(UserError, match=r"/pets/train/row 19: the pictures differ in size \(9x8 and 8x8\)\. Resize"):
        [part[torch.arange(len(part))] for part in (data.train, data.held_out)]
    assert rows(load(tmp_path / "pets", size=4)).shape == (18, 3, 4, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "trian"}, r"^dataset\.split: there is no split 'trian'\. Did you mean 'train'\?"),
        ({"image": "img"}, r"^dataset\.image: there is no column 'img'\. Did you mean 'image'\?"),
        ({"image": "label"}, r"^dataset\.image: the column 'label' does not hold pictures\. Columns of pictures: im"),
        ({"label": "lable"}, r"^dataset\.label: there is no column 'lable'\. Did you mean 'label'\? Leave it empty f"),
        ({"label": "boxes"}, r"^dataset\.label: the column 'boxes' holds List.*, not classes\. Choose another\."),
        ({"label": "holes"}, r"/train: 1 values of 'holes' are missing\. Remove these rows\."),
    ],
    ids=str,
)
def test_a_wrong_column_is_told(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    table([(8, 8)] * 10, boxes=[[1]] * 10, holes=[None, *["x"] * 9]).save_to_disk(str(tmp_path / "pets"))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "pets", **fields)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.parquet").write_bytes(b"PAR1")
    given = [*[picture(8, 8, 0)] * 10, {"bytes": b"no picture", "path": None}, None]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": given, "label": ["x"] * 12}, features=kinds)
    made.save_to_disk(str(tmp_path / "lost"))
    with pytest.raises(UserError, match=r"/empty: holds no picture, \.parquet or .arrow file"):
        load(tmp_path / "empty")
    with pytest.raises(UserError, match=r"/broken: cannot be read \(.*\)\. Correct it, or give another\.$"):
        load(tmp_path / "broken")
    with pytest.raises(UserError, match=r"/lost/train/row \d+: cannot be read .*\. Remove it, or set dataset\.skip"):
        rows(load(tmp_path / "lost"))
    skipped = load(tmp_path / "lost", skip_corrupt=True)
    assert len(skipped.train) + len(skipped.held_out) == 10
    assert len(skipped.notes) == 2


def test_a_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    data = load(tmp_path, label="")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"/train/row \d+: cannot be read \(.*No such file"):
        rows(data)
