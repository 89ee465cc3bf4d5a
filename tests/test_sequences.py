"""Windows of a series, compared with NumPy's, and messages about files without a series."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from statsmodels.datasets import macrodata
from torch import Tensor

from harness.core.errors import UserError
from harness.core.registry import build
from harness.data.base import Data

ROWS = 97
SERIES = np.cumsum(np.random.default_rng(0).normal(size=(ROWS, 3)), axis=0) * [1, 10, 0.1] + [0, 5, -2]
NAMES = ["level", "price", "rate"]


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **(arrays or {"series": SERIES, "names": NAMES}))
    return path


def write_csv(path: Path, header: list[str], columns: list[Any]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    return path


def load_series(path: Path, **fields: Any) -> Data:
    return build("dataset", {"name": "time_series", "path": str(path), **fields}).load()


def stored(samples: Any) -> Tensor:
    assert isinstance(samples, Tensor)
    return samples


def windows(part: np.ndarray, length: int, stride: int = 1) -> np.ndarray:
    return sliding_window_view(part, length, axis=0).transpose(0, 2, 1)[::stride]


@pytest.mark.parametrize(
    ("window", "stride", "share"), [(16, 1, 0.2), (2, 1, 0.5), (7, 3, 0.25), (19, 19, 0.2), (10, 100, 0.9)]
)
def test_windows_are_numpys_on_both_sides_of_the_border(window: int, stride: int, share: float, tmp_path: Path) -> None:
    data = load_series(write_npz(tmp_path / "x.npz"), window=window, stride=stride, held_out=share)
    border = round(ROWS * (1 - share))
    for part, rows in ((data.train, SERIES[:border]), (data.held_out, SERIES[border:])):
        assert stored(part).dtype == torch.float32
        assert stored(part).is_contiguous()
        np.testing.assert_array_equal(stored(part).numpy(), windows(rows, window, stride).astype(np.float32))
    assert (data.kind, data.shape, data.names) == ("sequence", (window, 3), tuple(NAMES))


def test_no_window_crosses_into_the_held_out_end(tmp_path: Path) -> None:
    counted = write_npz(tmp_path / "x.npz", series=np.arange(100.0)[:, None])
    data = load_series(counted, window=16)
    assert sorted(set(stored(data.train).flatten().tolist())) == list(range(80))
    assert sorted(set(stored(data.held_out).flatten().tolist())) == list(range(80, 100))
    assert (len(data.train), len(data.held_out)) == (65, 5)
    every = load_series(counted, window=16, stride=5)
    assert stored(every.train)[:, 0, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]
    assert stored(every.held_out)[:, 0, 0].tolist() == [80]


def test_each_channel_is_standardised_by_the_training_part(tmp_path: Path) -> None:
    data = load_series(write_npz(tmp_path / "x.npz"), window=5)
    train = SERIES[: round(ROWS * 0.8)]
    for part in (data.train, data.held_out):
        encoded = data.encode(stored(part))
        assert encoded.dtype == torch.float32
        np.testing.assert_allclose(encoded, (stored(part).numpy() - train.mean(0)) / train.std(0, ddof=1), atol=1e-5)
        torch.testing.assert_close(data.decode(encoded), stored(part), atol=1e-5, rtol=1e-6)
    assert data.encode(torch.from_numpy(train)).double().std(0).sub(1).abs().max() < 1e-6
    np.testing.assert_allclose(data.statistics["mean"], train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.statistics["std"], train.std(0, ddof=1), rtol=1e-6)


def test_numbers_far_from_zero_keep_their_digits(tmp_path: Path) -> None:
    """The statistics come from the series as written, in float64."""
    far = np.random.default_rng(0).normal(size=(100, 1)) + 1e5
    data = load_series(write_npz(tmp_path / "x.npz", series=far))
    assert data.statistics["std"].item() == pytest.approx(far[:80].std(ddof=1), rel=1e-6)
    expected = (windows(far[:80], 16) - far[:80].mean(0)) / far[:80].std(0, ddof=1)
    np.testing.assert_allclose(data.encode(stored(data.train)), expected, atol=0.01)


@pytest.mark.parametrize("offset", [1e7, -1e9, 1e16])
def test_numbers_too_far_from_zero_for_32_bits_are_refused(offset: float, tmp_path: Path) -> None:
    near = np.random.default_rng(0).normal(size=(100, 2)) + np.array([0, offset])
    said = r"^dataset: the channel 'channel 1' varies by .* around .*, too little for float32\. Subtract its mean"
    refused(said, write_npz(tmp_path / "x.npz", series=near))
    write_csv(tmp_path / "x.csv", ["channel 0", "channel 1"], [[repr(float(v)) for v in column] for column in near.T])
    refused(said, tmp_path / "x.csv")


def test_numbers_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=(100, 1)) * 1e39
    refused("the channel 'channel 0' varies by .*too little for float32", write_npz(tmp_path / "x.npz", series=large))


def test_a_csv_gives_its_numeric_columns(tmp_path: Path) -> None:
    dates = [f"2001-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(ROWS)]
    whole = np.arange(ROWS) % 7
    columns = [dates, SERIES[:, 0], ["calm"] * ROWS, SERIES[:, 1], whole]
    data = load_series(write_csv(tmp_path / "x.csv", ["date", "level", "mood", "price", "weekday"], columns), window=4)
    assert data.names == ("level", "price", "weekday")
    expected = np.column_stack([SERIES[:, 0], SERIES[:, 1], whole])[: round(ROWS * 0.8)]
    np.testing.assert_array_equal(stored(data.train).numpy(), windows(expected, 4).astype(np.float32))


@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_columns_are_taken_in_the_order_that_they_are_named(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    write_npz(path) if ending == "npz" else write_csv(path, NAMES, list(SERIES.T))
    data = load_series(path, columns=["rate", "level"], window=3)
    assert data.names == ("rate", "level")
    np.testing.assert_array_equal(
        stored(data.train).numpy(), windows(SERIES[:, [2, 0]][: round(ROWS * 0.8)], 3).astype(np.float32)
    )
    np.testing.assert_allclose(data.statistics["mean"], SERIES[: round(ROWS * 0.8), [2, 0]].mean(0), rtol=1e-6)


def test_csv_and_npz_of_the_same_numbers_are_the_same_data(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "x.csv", NAMES, list(SERIES.T))
    arrays = write_npz(tmp_path / "y.npz")
    assert load_series(table).fingerprint == load_series(arrays).fingerprint
    assert load_series(arrays, window=15).fingerprint != load_series(arrays).fingerprint
    touched = SERIES.copy()
    touched[-1, 2] += 1
    assert load_series(write_npz(tmp_path / "z.npz", series=touched)).fingerprint != load_series(arrays).fingerprint


def test_channels_without_names_are_numbered_and_whole_numbers_are_taken(tmp_path: Path) -> None:
    data = load_series(write_npz(tmp_path / "x.npz", series=np.arange(200, dtype=np.int16).reshape(100, 2)), window=2)
    assert data.names == ("channel 0", "channel 1")
    assert stored(data.train)[0].tolist() == [[0, 1], [2, 3]]


def test_only_the_chosen_columns_must_be_complete(tmp_path: Path) -> None:
    holed = SERIES.copy()
    holed[5, 1] = np.nan
    holed[:, 2] = 0.1
    data = load_series(write_npz(tmp_path / "x.npz", series=holed, names=NAMES), columns=["level"])
    np.testing.assert_array_equal(
        stored(data.held_out)[:, :, 0].numpy(), windows(SERIES[78:, :1], 16)[:, :, 0].astype(np.float32)
    )


def refused(said: str, path: Path, **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_series(path, **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", ["csv", "npz"])
def test_a_missing_value_is_named_by_its_place(value: float, ending: str, tmp_path: Path) -> None:
    """In a .csv by its cell in a spreadsheet, in an .npz by its index."""
    holed = SERIES.copy()
    holed[[6, 90], [1, 0]] = value
    path = tmp_path / f"x.{ending}"
    if ending == "npz":
        write_npz(path, series=holed, names=NAMES)
        refused(
            rf"^{path}: 2 values are missing or infinite, the first series\[6, 1\], channel 'price'\. "
            r"Fill or remove them\.",
            path,
        )
    else:
        write_csv(path, NAMES, list(holed.T))
        refused(
            rf"^{path}: 2 cells hold no number, the first B8 in column 'price' \('{value}'\)\. "
            r"Fill them in, or set",
            path,
        )
        assert load_series(path, columns=["rate"]).names == ("rate",)


def test_an_empty_cell_of_a_csv_is_missing(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + "1,2\n3,\n" + "4,5\n" * 60)
    refused(r"x\.csv: 1 cell holds no number, the first B3 in column 'b' \(empty\)", tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"window": 79},
            r"^dataset\.window: 79 is longer than the 78 rows of the training samples\. Choose a shorter one\.",
        ),
        ({"window": 20}, r"^dataset\.window: 20 is longer than the 19 rows of the held-out samples\."),
        ({"window": 2, "held_out": 0.999}, r"^dataset\.window: 2 is longer than the 0 rows of the training samples\."),
        ({"window": 2, "held_out": 0.001}, r"^dataset\.window: 2 is longer than the 0 rows of the held-out samples\."),
        ({"columns": ["prize"]}, r"^dataset\.columns: .*x\.npz has no numeric column 'prize'\. Did you mean 'price'\?"),
        ({"columns": ["level", "zzz"]}, r"no numeric column 'zzz'\. Known: level, price, rate\."),
        ({"window": 1}, r"^dataset\.window: 1 is outside \[2, 1000000\]"),
        ({"stride": 0}, r"^dataset\.stride: 0 is outside \[1, 1000000000\]"),
        ({"held_out": 1.0}, r"^dataset\.held_out: 1\.0 is outside \(0, 1\)"),
        ({"held_out": 0.0}, r"^dataset\.held_out: 0\.0 is outside \(0, 1\)"),
        ({"columns": "level"}, r"^dataset\.columns: expected a list, got 'level'\. Write it like \[1, 2\]\."),
    ],
    ids=str,
)
def test_a_column_that_the_series_does_not_have_is_refused(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    refused(said, write_npz(tmp_path / "x.npz"), **fields)


def test_windows_as_long_as_a_part_are_its_one_window(tmp_path: Path) -> None:
    data = load_series(write_npz(tmp_path / "x.npz"), window=19)
    assert (len(data.train), len(data.held_out)) == (60, 1)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
def test_a_channel_that_never_varies_in_training_is_named(value: float, tmp_path: Path) -> None:
    still = SERIES.copy()
    still[:78, 1] = value
    path = write_npz(tmp_path / "x.npz", series=still, names=NAMES)
    refused(r"^dataset: the channel 'price' never varies\. Set dataset\.columns to the other channels\.", path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "", r"cannot be read \(.*\)\. Give a \.csv with a header\."),
        ("x.csv", "a,b\n", "holds no numeric column"),
        (
            "x.csv",
            "a,b\nx,y\n",
            r"holds no numeric column \(column A 'a': no numbers, like 'x' in A2; .*\)\. Give a \.csv "
            r"with a header and a row",
        ),
        ("x.csv", "a,b\n1,2\n1,2,3\n", "row 3 has 3 fields, but the header has 2"),
        ("x.csv", b"a\n\xff\xfe\n", "cannot be read"),
        ("x.npz", "no zip", r"cannot be read .*\. Make it again\."),
        ("x.npz", b"PK\x03\x04 torn", "cannot be read"),
    ],
    ids=["empty", "header alone", "texts", "a row too long", "no text", "no zip", "torn zip"],
)
def test_files_without_a_series_are_refused(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(rf"^{tmp_path / name}: .*{said}", tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"values": SERIES}, r"holds no `series`, not numbers \[T, D\]\. Make it again\."),
        ({"series": SERIES[:, 0]}, r"holds `series` as float64 \[97\], not numbers \[T, D\]"),
        ({"series": SERIES[None]}, r"holds `series` as float64 \[1, 97, 3\], not"),
        ({"series": SERIES.astype(str)}, r"holds `series` as <U32 \[97, 3\], not"),
        ({"series": SERIES.astype(complex)}, r"holds `series` as complex128 \[97, 3\], not"),
        ({"series": SERIES.astype(object)}, "cannot be read"),
        ({"series": SERIES, "names": ["a", "b"]}, r"holds names \[2\] for 3 channels\. Make it again\."),
        ({"series": SERIES, "names": ["a", "b", "a"]}, r"two channels are called 'a'\. Give each a different name\."),
        ({"series": SERIES[:, :1], "names": [["a", "b"]]}, r"holds names \[1, 2\] for 1 channels\. Make it again\."),
        ({"series": SERIES > 0}, r"holds `series` as bool \[97, 3\], not"),
        ({"series": SERIES.astype("M8[s]")}, r"holds `series` as datetime64\[s\] \[97, 3\], not"),
        ({"series": SERIES[:0]}, r"holds `series` as float64 \[0, 3\], not"),
    ],
    ids=[
        "no series",
        "a single channel without its axis",
        "an axis too many",
        "texts",
        "complex",
        "pickled",
        "a name too few",
        "a name twice",
        "an axis of names too many",
        "booleans",
        "times",
        "no rows",
    ],
)
def test_arrays_that_are_not_a_series_are_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    refused(said, write_npz(tmp_path / "x.npz", **arrays))


def test_a_single_name_is_that_of_the_only_channel(tmp_path: Path) -> None:
    assert load_series(write_npz(tmp_path / "x.npz", series=SERIES[:, :1], names="level")).names == ("level",)
    refused(
        r"y.npz: holds names \[\] for 3 channels", write_npz(tmp_path / "y.npz", series=SERIES[:, :3], names="level")
    )


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        rf"^dataset\.path: {tmp_path}/none\.csv does not exist\. Give a \.csv or \.npz file; relative paths",
        tmp_path / "none.csv",
    )
    refused(rf"^{tmp_path}: cannot be read", tmp_path)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    write_npz(tmp_path / "mine.npz")
    assert len(load_series(Path("mine.npz")).train) == 63


def test_us_macro_is_statsmodels_table(tmp_path: Path) -> None:
    table = macrodata.load_pandas().data
    data = build("dataset", {"name": "us_macro", "window": 8}).load()
    assert data.names == (
        "GDP growth",
        "consumption growth",
        "investment growth",
        "unemployment",
        "T-bill rate",
        "inflation",
    )
    growth = [100 * np.diff(np.log(table[name].to_numpy())) for name in ("realgdp", "realcons", "realinv")]
    series = np.column_stack([*growth, *(table[name].to_numpy()[1:] for name in ("unemp", "tbilrate", "infl"))])
    assert series.shape == (202, 6)
    border = round(202 * 0.8)
    np.testing.assert_allclose(stored(data.train), windows(series[:border], 8), rtol=1e-6)
    np.testing.assert_allclose(stored(data.held_out), windows(series[border:], 8), rtol=1e-6)
    assert np.abs(series).max() < 30
    encoded = data.encode(torch.from_numpy(series[:border])).double()
    assert encoded.mean(0).abs().max() < 1e-6
