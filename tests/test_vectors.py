"""Rows of tables as vectors: values, classes and the split, and messages about tables that hold none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.cli import main
from harness.core.errors import UserError
from harness.core.registry import build
from harness.data.base import Data, held_out

ROWS = 90
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(ROWS, 3)).round(4) * [1, 1000, 0.01] + [0, 50_000, -2]
NAMES = ("age", "income", "rate")
KINDS = [("oak", "elm", "ash")[i % 3] for i in range(ROWS)]


def write(path: Path, columns: dict[str, Any], separator: str = ",") -> Path:
    lines = [columns, *zip(*columns.values(), strict=True)]
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    return path


def whole(path: Path, **more: Any) -> Path:
    return write(path, {name: VALUES[:, i] for i, name in enumerate(NAMES)} | {"tree": KINDS} | more)


def rows(path: Path, **fields: Any) -> Data:
    return build("dataset", {"name": "table", "path": str(path), **fields}).load()


def stored(samples: Any) -> np.ndarray:
    assert isinstance(samples, Tensor)
    assert samples.dtype == torch.float32
    return samples.numpy()


def refused(said: str, path: Path, **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        rows(path, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
def test_rows_are_split_and_standardised_by_the_training_rows(ending: str, separator: str, tmp_path: Path) -> None:
    columns = {name: VALUES[:, i] for i, name in enumerate(NAMES)}
    data = rows(write(tmp_path / f"x.{ending}", columns, separator))
    apart = held_out(ROWS, 5).numpy()
    np.testing.assert_array_equal(stored(data.train), VALUES[~apart].astype(np.float32))
    np.testing.assert_array_equal(stored(data.held_out), VALUES[apart].astype(np.float32))
    train = VALUES[~apart]
    encoded = data.encode(torch.from_numpy(stored(data.held_out)))
    np.testing.assert_allclose(encoded, (VALUES[apart] - train.mean(0)) / train.std(0, ddof=1), atol=1e-3)
    np.testing.assert_allclose(data.decode(encoded), VALUES[apart], rtol=1e-6)
    assert (data.kind, data.shape, data.names, data.num_classes) == ("points", (3,), NAMES, 0)


def test_a_label_gives_the_classes_and_each_has_its_share(tmp_path: Path) -> None:
    data = rows(whole(tmp_path / "x.csv"), label="tree", held_out=0.3)
    assert data.class_names == ("ash", "elm", "oak")
    assert data.names == NAMES
    assert data.classes is not None
    assert data.held_out_classes is not None
    assert data.held_out_classes.bincount().tolist() == [9, 9, 9]
    kind = {float(np.float32(age)): tree for age, tree in zip(VALUES[:, 0], KINDS, strict=True)}
    for samples, classes in ((data.train, data.classes), (data.held_out, data.held_out_classes)):
        known = [kind[float(age)] for age in stored(samples)[:, 0]]
        assert known == [data.class_names[number] for number in classes.tolist()]


def test_numbers_that_are_labels_are_no_column_and_are_ordered_by_size(tmp_path: Path) -> None:
    path = whole(tmp_path / "x.csv", grade=[(10, 9, -1)[i % 3] for i in range(ROWS)])
    assert rows(path).names == (*NAMES, "grade")
    data = rows(path, label="grade")
    assert (data.names, data.class_names) == (NAMES, ("-1", "9", "10"))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
def test_the_share_that_is_held_out_is_the_one_asked_for(share: float, tmp_path: Path) -> None:
    data = rows(whole(tmp_path / "x.csv"), held_out=share)
    assert abs(len(data.held_out) - share * ROWS) < 1
    assert len(data.train) + len(data.held_out) == ROWS


def test_columns_are_taken_in_the_order_that_they_are_named(tmp_path: Path) -> None:
    data = rows(whole(tmp_path / "x.csv"), columns=["rate", "age"])
    np.testing.assert_array_equal(stored(data.train), VALUES[:, [2, 0]][~held_out(ROWS, 5).numpy()].astype(np.float32))
    assert data.names == ("rate", "age")


def test_a_table_is_no_series_its_rows_have_no_order(tmp_path: Path) -> None:
    """Years and evenly spaced values are columns; dates and row numbers are left out, with the reason."""
    falling = [f"20{99 - i:02d}-01-01" for i in range(ROWS)]
    more = {"year": range(1990, 1990 + 2 * ROWS, 2), "x": np.linspace(0, 1, ROWS), "day": falling, "row": range(ROWS)}
    data = rows(whole(tmp_path / "x.csv", **more))
    assert data.names == (*NAMES, "year", "x")
    assert [line.partition("column ")[2] for line in data.notes if line.startswith("left out")] == [
        "D 'tree': no numbers, like 'oak' in D2",
        "G 'day': times",
        "H 'row': it counts the rows",
    ]
    assert rows(tmp_path / "x.csv", columns=["row"]).names == ("row",)


def test_one_column_and_many_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each axis has its own scale: incomes beside ages fill the panel."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    whole(tmp_path / "x.csv")
    for number, columns in enumerate((["age"], ["age", "income"], ["income", "rate", "age"])):
        out = tmp_path / f"{number}.png"
        chosen = f"columns={columns}".replace("'", '"')
        assert main(["data", "table", "--set", "path=x.csv", "--set", chosen, "--out", str(out)]) == 0
        pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
        drawn = np.abs(pixels - pixels.mean(2, keepdims=True)).sum(2) > 60
        assert len(columns) == 1 or np.ptp(np.flatnonzero(drawn.any(0))) > 200


@pytest.mark.parametrize(
    ("changes", "fields", "said"),
    [
        ({}, {"columns": ["incom"]}, r"^dataset\.columns: .*x\.csv has no numeric column 'incom'\. Did you mean"),
        ({}, {"label": "three"}, r"^dataset\.label: .*x\.csv has no column 'three'\. Did you mean 'tree'\?"),
        ({}, {"columns": ["age", "tree"]}, r"x\.csv: 90 cells hold no number, the first D2 in column 'tree'"),
        ({"age": [*VALUES[:40, 0], "young", *VALUES[41:, 0]]}, {}, r"1 cell .* first A42 in column 'age' \('young'"),
        ({"rate": [*VALUES[:9, 0], "nan", *VALUES[10:, 0]]}, {}, r"1 cell .* first C11 in column 'rate' \('nan'\)"),
        ({"rate": [0.1] * ROWS}, {}, r"^dataset: the column 'rate' never varies\. Set dataset\.columns to the other"),
        ({"rate": 1e9 + VALUES[:, 0]}, {}, r"^dataset: the column 'rate' varies by .* too little for float32\."),
        ({"tree": ["oak", "", *KINDS[2:]]}, {"label": "tree"}, r"x\.csv: D3 in column 'tree' holds no class \(empty\)"),
        ({"tree": ["oak", "NaN", *KINDS[2:]]}, {"label": "tree"}, r"D3 in column 'tree' holds no class \('NaN'\)"),
        ({}, {"label": "age"}, r"^dataset\.label: .*column A 'age' holds \d+ different values in 90 rows: they are"),
        ({}, {"label": "age", "columns": ["age"]}, r"^dataset\.label: 'age' is one of dataset\.columns too\. Leave"),
        ({}, {"held_out": 0.999}, r"x\.csv: 90 rows leave 1 to train on\. Give more, or lower dataset\.held_out\."),
        ({}, {"held_out": 0.001}, r"^dataset: 90 samples cannot be split into training samples and one in 1000 held"),
        ({}, {"held_out": 1.0}, r"^dataset\.held_out: 1\.0 is outside \(0, 1\)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(changes: dict[str, Any], fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    refused(said, whole(tmp_path / "x.csv", **changes), **fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.1,0.2\n0.3,0.5\n0.2,0.7\n", r"x\.csv: row 1 holds no names of columns\. Write them in a first row\."),
        ("x,y\n", r"x\.csv: holds no numeric column .* and a row for each sample\."),
        ("x,y\na,b\nc,d\n", r"x\.csv: holds no numeric column \(column A 'x': no numbers, like 'a' in A2; .* sample\."),
        ("x,y\n1,2\n2,5\n3,1\n", r"^dataset: 3 samples cannot be split into training samples and one in 5 held out"),
        ("x,y\n1,2\n2\n3,1\n", r"x\.csv: row 3 has 1 fields, but the header has 2\."),
        ("x,x\n" + "1,2\n2,5\n7,1\n" * 9, r"x\.csv: the columns A and B are called 'x'\. Give each a different name\."),
    ],
)  # fmt: skip
def test_a_table_without_samples_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    refused(said, tmp_path / "x.csv")


def test_other_files_are_refused_with_the_form_to_save(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1\x15\xff\xfe\0\x80")
    refused(r"x\.parquet: cannot be read \(.*\)\. Save it as \.csv in UTF-8\.", tmp_path / "x.parquet")
    refused(r"^dataset\.path: .*y\.csv does not exist\. Give a \.csv or \.tsv file", tmp_path / "y.csv")
