"""Tables as people export them: every form of the same numbers gives the same series; a doubtful cell is refused."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from harness.core.errors import UserError
from harness.core.registry import build
from harness.data.channels import PATTERNS, numbers
from harness.data.tables import Table

ROWS = 100
RNG = np.random.default_rng(0)
TEMP, LOAD = (np.round(RNG.normal(size=ROWS) * spread + mean, 2) for mean, spread in ((20, 5), (1250, 90)))
DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(i) for i in range(ROWS)]


def write(path: Path, header: str, row: Callable[[int], str], encoding: str = "utf-8", end: str = "\n") -> Path:
    path.write_bytes((header + end + "".join(row(i) + end for i in range(ROWS))).encode(encoding))
    return path


def series(path: Path, **fields: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names and values [80, D] of the training part."""
    data = build("dataset", {"name": "time_series", "path": str(path), "window": 2, **fields}).load()
    assert isinstance(data.train, Tensor)
    return data.names, np.concatenate([data.train[:, 0], data.train[-1:, 1]])


def notes(path: Path, **fields: Any) -> str:
    """Return the notes about a file, one per line."""
    data = build("dataset", {"name": "time_series", "path": str(path), "window": 2, **fields}).load()
    return "".join(f"{line}\n" for line in data.notes)


def refused(said: str, path: Path, **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        series(path, **fields)
    assert "\n" not in str(caught.value)


def german(value: float) -> str:
    """Write 1234.5 as 1.234,50."""
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


def pair(form: Callable[[float], str], separator: str = ";") -> Callable[[int], str]:
    return lambda i: separator.join(map(form, (TEMP[i], LOAD[i])))


FORMS: dict[str, tuple[str, Callable[[int], str], dict[str, str]]] = {
    "plain": ("temp,load", pair(lambda v: f"{v}", ","), {}),
    "semicolons": ("temp;load", pair(lambda v: f"{v:.2f}"), {}),
    "tabs": ("temp\tload", pair(lambda v: f"{v:.2f}", "\t"), {}),
    "bars": ("temp|load", pair(lambda v: f"{v:.2f}", "|"), {}),
    "a blank after each comma": ("temp, load", pair(lambda v: f"{v:.2f}", ", "), {}),
    "decimal commas": ("temp;load", pair(lambda v: f"{v:.2f}".replace(".", ",")), {}),
    "German thousands": ("temp;load", pair(german), {}),
    "quoted decimal commas": ("temp,load", pair(lambda v: f'"{german(v)}"', ","), {}),
    "quoted thousands": ("temp,load", pair(lambda v: f'"{v:,.2f}"', ","), {}),
    "Swiss thousands": ("temp;load", pair(lambda v: f"{v:,.2f}".replace(",", "'")), {}),
    "French thousands": ("temp;load", pair(lambda v: f"{v:,.2f}".replace(",", "\u202f").replace(".", ",")), {}),
    "blanks for thousands": ("temp;load", pair(lambda v: f"{v:,.2f}".replace(",", " ")), {}),
    "exponents": ("temp,load", pair(lambda v: f"{v:.6e}", ","), {}),
    "exponents with commas": ("temp;load", pair(lambda v: f"{v:.6E}".replace(".", ",")), {}),
    "plus signs": ("temp,load", pair(lambda v: f"{v:+.2f}", ","), {}),
    "per cent": ("temp,load", pair(lambda v: f"{v:.2f} %", ","), {}),
    "byte order mark": ("temp,load", pair(lambda v: f"{v:.2f}", ","), {"encoding": "utf-8-sig"}),
    "UTF-16": ("temp\tload", pair(lambda v: f"{v:.2f}", "\t"), {"encoding": "utf-16"}),
    "lines of Windows": ("temp,load", pair(lambda v: f"{v:.2f}", ","), {"end": "\r\n"}),
    "lines of old Macs": ("temp,load", pair(lambda v: f"{v:.2f}", ","), {"end": "\r"}),
    "comments above": ("# station 3\n#\n\ntemp,load", pair(lambda v: f"{v:.2f}", ","), {}),
    "a comma at every end": ("temp,load,", lambda i: f"{TEMP[i]},{LOAD[i]},", {}),
    "empty rows below": ("temp,load", lambda i: f"{TEMP[i]},{LOAD[i]}" + "\n\n,\n" * (i == ROWS - 1), {}),
    "a quoted header": ('"temp","load"', lambda i: f'"{TEMP[i]}","{LOAD[i]}"', {}),
    "pandas' index": (",temp,load", lambda i: f"{i},{TEMP[i]},{LOAD[i]}", {}),
    "a number of the row": ("id,temp,load", lambda i: f"{i + 4711},{TEMP[i]},{LOAD[i]}", {}),
    "seconds": ("s,temp,load", lambda i: f"{i * 0.1:.1f},{TEMP[i]},{LOAD[i]}", {}),
    "an index of dates": (",temp,load", lambda i: f"{DAYS[i]},{TEMP[i]},{LOAD[i]}", {}),
    "dates as numbers": ("when,temp,load", lambda i: f"{DAYS[i]:%Y%m%d},{TEMP[i]},{LOAD[i]}", {}),
    "booleans and texts": ("temp,on,mode,load", lambda i: f"{TEMP[i]},{i % 2 == 0},{'xy'[i % 2]},{LOAD[i]}", {}),
    "an empty column": ("temp,load,note", lambda i: f"{TEMP[i]},{LOAD[i]},", {}),
    "a column of dashes": ("temp,note,load", lambda i: f"{TEMP[i]},-,{LOAD[i]}", {}),
    "hexadecimal codes": ("temp,code,load", lambda i: f"{TEMP[i]},0x{i:02x},{LOAD[i]}", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_numbers_is_the_same_series(form: str, tmp_path: Path) -> None:
    header, row, fields = FORMS[form]
    path = write(tmp_path / "x.csv", header, row, **fields)
    names, values = series(path)
    assert names == ("temp", "load")
    np.testing.assert_allclose(values, np.stack([TEMP, LOAD], 1)[:80], rtol=1e-6)
    said = notes(path).splitlines()
    columns = re.split("[,;\t|]", header.splitlines()[-1].replace('"', ""))
    left = [name.strip() for name in columns if name.strip() not in names]
    assert sum(line.startswith(f"left out: {path}: column ") for line in said) == len(left)
    assert all(any(f"'{name}': " in line or not name for line in said) for name in left)


LEFT_OUT = {
    "pandas' index": "column A without a name: it counts the rows",
    "a number of the row": "column A 'id': it counts the rows",
    "an index of dates": "column A without a name: times",
    "dates as numbers": "column A 'when': times",
    "booleans and texts": "column B 'on': no numbers, like 'True' in B2",
    "an empty column": "column C 'note': it is empty",
    "a column of dashes": "column B 'note': it is empty",
    "hexadecimal codes": "column B 'code': no numbers, like '0x00' in B2",
    "a comma at every end": "column C without a name: it is empty",
}
READ = {
    "decimal commas": ("'{}' in A2 is read as {}", lambda: (f"{TEMP[0]:.2f}".replace(".", ","), f"{TEMP[0]:.15g}")),
    "per cent": ("'{}' in A2 is read as {}", lambda: (f"{TEMP[0]:.2f} %", f"{TEMP[0]:.15g}")),
    "quoted thousands": ("'{}' in B2 is read as {}", lambda: (f"{LOAD[0]:,.2f}", f"{LOAD[0]:.15g}")),
}


def test_columns_left_out_or_converted_are_reported_with_the_reason(tmp_path: Path) -> None:
    for number, form in enumerate([*LEFT_OUT, *READ, "plain"]):
        header, row, fields = FORMS[form]
        path = write(tmp_path / f"{number}.csv", header, row, **fields)
        said = notes(path)
        if form in LEFT_OUT:
            assert f"left out: {path}: {LEFT_OUT[form]}\n" in said, form
        elif form in READ:
            template, values = READ[form]
            assert template.format(*values()) in said, form
        else:
            assert said == ""
        assert "left out" not in notes(path, columns=["load"]), "columns that were chosen against"


def test_a_column_that_counts_or_times_is_taken_where_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "id,when,temp", lambda i: f"{i * i},{DAYS[i]:%Y%m%d},{TEMP[i]}")
    assert series(path)[0] == ("id", "temp"), "squares count nothing"
    path = write(tmp_path / "x.csv", "id,when,temp", lambda i: f"{i + 5},{i * 12 + 1970},{TEMP[i]}")
    assert series(path)[0] == ("temp",)
    names, values = series(path, columns=["when", "id"])
    assert names == ("when", "id")
    np.testing.assert_array_equal(values[:2], [[1970, 5], [1982, 6]])
    refused(rf"^dataset\.columns: {path} has no numeric column 'tmep'\. Did you mean 'temp'\?", path, columns=["tmep"])


WRONG: dict[str, tuple[str, Callable[[int], str], str]] = {
    "thousands or a fraction": (
        "a;b",
        lambda i: f"{i % 7};1,{i + 100}",
        "'1,100' in B2 may be thousands or a fraction. Set dataset.decimal=",
    ),
    "quoted, too": ("a,b", lambda i: f'{i % 7},"1,{i + 100}"', "'1,100' in B2 may be thousands or a fraction"),
    "points with semicolons": (
        "a;b",
        lambda i: f"{i % 7};{20 + i % 3}.{i + 100}",
        "'20.100' in B2 may be thousands or a fraction",
    ),
    "two signs": (
        "a;b",
        lambda i: f"{'2,5' if i == 3 else i + 0.5};1",
        "'0.5' in A2 and '2,5' in A5 use different decimal signs",
    ),
    "a longer row": (
        "a,b",
        lambda i: f"{TEMP[i]},{LOAD[i]}" + ",7" * (i == 4),
        "row 6 has 3 fields, but the header has 2",
    ),
    "longer rows": ("a,b", lambda i: f"{TEMP[i]},{LOAD[i]},7", "row 2 has 3 fields, but the header has 2"),
    "a comma at every row's end": (
        "a,b",
        lambda i: f"{TEMP[i]},{LOAD[i]},",
        "row 2 has 3 fields, but the header has 2",
    ),
    "decimal commas without a separator": (
        "a",
        lambda i: f"{TEMP[i]}".replace(".", ","),
        "row 2 has 2 fields, but the header has 1",
    ),
    "a shorter row": (
        "a,b,note",
        lambda i: f"{TEMP[i]},{LOAD[i]}" + ",x" * (i != 4),
        "row 6 has 2 fields, but the header has 3",
    ),
    "a row of nothing": (
        "a,b",
        lambda i: "" if i == 4 else f"{TEMP[i]},{LOAD[i]}",
        "2 cells hold no number, the first A6",
    ),
    "no header": ("20.1,1200.5", lambda i: f"{TEMP[i]},{LOAD[i]}", "row 1 holds no names of columns"),
    "no header, dates": ("2023-12-31,1200.5", lambda i: f"{DAYS[i]},{LOAD[i]}", "row 1 holds no names of columns"),
    "no header, texts": (
        "Berlin,1200.5",
        lambda i: f"Berlin,{LOAD[i]}",
        "'Berlin' is in row 1, which must hold the names of columns, and in the rows below",
    ),
    "no header, decimal commas": ("20,1;1200,5", lambda i: f"{TEMP[i]};{LOAD[i]}", "row 1 holds no names of columns"),
    "one bad cell": (
        "a,b",
        lambda i: f"{TEMP[i]},{'oops' if i == 7 else LOAD[i]}",
        "1 cell holds no number, the first B9 in column 'b' .'oops'.",
    ),
    "dashes": (
        "a,b",
        lambda i: f"{'-' if i % 5 == 3 else TEMP[i]},{LOAD[i]}",
        "20 cells hold no number, the first A5 in column 'a' .'-'.",
    ),
    "n/a": (
        "a,b",
        lambda i: f"{TEMP[i]},{'n/a' if i == 2 else LOAD[i]}",
        "1 cell holds no number, the first B4 in column 'b' .'n/a'.",
    ),
    "mostly missing": (
        "a,b",
        lambda i: f"{TEMP[i]},{'NA' if i % 9 else LOAD[i]}",
        "88 cells hold no number, the first B3",
    ),
    "a unit in one cell": (
        "a,b",
        lambda i: f"{TEMP[i]},{LOAD[i]}" + " kW" * (i == 9),
        "1 cell holds no number, the first B11 in column 'b' .'.* kW'.",
    ),
    "per cent in some cells": (
        "a,b",
        lambda i: f"{TEMP[i]},{LOAD[i]}" + "%" * (i == 9),
        "1 cell holds no number, the first B11",
    ),
    "per cent in most cells": (
        "a,b",
        lambda i: f"{TEMP[i]},{LOAD[i]}" + "%" * (i != 9),
        "1 cell holds no number, the first B11",
    ),
    "a row of units": (
        "a,b\nC,kW",
        lambda i: f"{TEMP[i]},{LOAD[i]}",
        "2 cells hold no number, the first A2 in column 'a' .'C'.",
    ),
    "underscores": (
        "a,b",
        lambda i: f"{TEMP[i]},{'1_000' if i == 2 else LOAD[i]}",
        "1 cell holds no number, the first B4 in column 'b' .'1_000'.",
    ),
    "wrong groups": (
        "a;b",
        lambda i: f"{TEMP[i]};{'1,00,000' if i == 2 else LOAD[i]}",
        "1 cell holds no number, the first B4 in column 'b' .'1,00,000'.",
    ),
    "a name twice": ("a,b,a", lambda i: f"{TEMP[i]},{LOAD[i]},{TEMP[i]}", "the columns A and C are called 'a'"),
    "numbers without a name": (
        "a,,b",
        lambda i: f"{TEMP[i]},{LOAD[i]},{TEMP[i]}",
        "column B without a name holds numbers. Name it in row 1",
    ),
    "two separators": (
        "a;b,c",
        lambda i: f"{i % 7};1,{i % 5}",
        "the separator of its columns may be comma or semicolon. Set dataset.separator",
    ),
    "blanks for separators": (
        "a b",
        lambda i: f"{TEMP[i]} {LOAD[i]}",
        "holds no numeric column .column A 'a b': no numbers, like",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_doubtful_cells_are_refused_by_their_address(kind: str, tmp_path: Path) -> None:
    header, row, said = WRONG[kind]
    path = write(tmp_path / "x.csv", header, row)
    refused(f"^{path}: {said}", path)


def test_fields_resolve_doubtful_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a;b", lambda i: f"{i % 7};1,{i * i % 800 + 100}")
    for decimal, first in (("point", 1100), ("comma", 1.1)):
        np.testing.assert_allclose(series(path, decimal=decimal)[1][0], [0, first], rtol=1e-6)
    path = write(tmp_path / "y.csv", "a b", lambda i: f"{TEMP[i]}   {LOAD[i]}")
    np.testing.assert_allclose(series(path, separator="space")[1], np.stack([TEMP, LOAD], 1)[:80], rtol=1e-6)


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    for content in (
        "Größe,b\n1,2\n".encode("latin-1"),
        "a,b\n1,2\n".encode("utf-16-le"),
        b"PK\x03\x04\x00\x00",
        b"# alone\n\n",
        b'a,b\n1,"2\n',
    ):
        (tmp_path / "x.csv").write_bytes(content)
        refused("x.csv: cannot be read", tmp_path / "x.csv")


# Single numbers


def test_numbers_are_read_as_python_reads_them() -> None:
    """Random numbers of all sizes, in both notations, with and without groups of digits."""
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [rng.normal(size=300) * 10.0 ** rng.integers(-8, 12, 300), rng.integers(-(10**9), 10**9, 100)]
    )
    for value in values.tolist():
        digits = int(rng.integers(0, 9))
        for text in (f"{value:.{digits}f}", f"{value:,.{digits}f}", f"{value:.{digits}e}", f"{value:+.{digits}f}"):
            expected = float(text.replace(",", ""))
            swapped = text.translate(str.maketrans(",.", ".,"))
            assert numbers([text], "point").tolist() == [expected], text
            assert numbers([swapped], "comma").tolist() == [expected], swapped


def test_texts_that_are_nearly_numbers_are_not_numbers() -> None:
    for text in (
        "1,23,456",
        "0,123",
        "12,34",
        "1,2345",
        "1'23",
        "1 2",
        "1,234 567",
        "0x10",
        "1e",
        "e5",
        "--1",
        "1-",
        "(5)",
        "True",
        "1_0",
        "٣",
        "",
        ".",
        "1.2.3",
    ):
        assert np.isnan(numbers([text], "point")).all(), text
    for text in ("1.23.456", "0.123", "12.34", "1.2345", "1,2,3"):
        assert np.isnan(numbers([text], "comma")).all(), text
    assert [name for name, pattern in PATTERNS.items() if pattern.fullmatch("1,234")] == ["point", "comma"]


def test_cells_are_named_as_a_spreadsheet_names_them() -> None:
    table = Table(Path("x.csv"), ("",) * 800, [[]] * 800, 2, ",")
    letters = [table.place(0, column).removesuffix("2") for column in range(800)]
    assert [letters[i] for i in (0, 25, 26, 51, 52, 701, 702, 799)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA", "ADT"]
    assert len(set(letters)) == 800


# The order of rows

STARTS = {
    "ISO": "%Y-%m-%d", "with a time": "%Y-%m-%dT%H:%M:%SZ", "American": "%m/%d/%Y", "British": "%d/%m/%Y",
    "German": "%d.%m.%Y",
    "one number": "%Y%m%d", "named month": "%d %B %Y",
}  # fmt: skip


def dated(path: Path, form: str, days: Sequence[int], name: str = "date") -> Path:
    rows = [(datetime.datetime(2024, 1, 1) + datetime.timedelta(day)).strftime(form) for day in days]
    path.write_text(f"{name},a\n" + "".join(f"{date},{TEMP[i % ROWS]}\n" for i, date in enumerate(rows)))
    return path


@pytest.mark.parametrize("form", STARTS)
def test_rows_must_be_in_the_order_of_time(form: str, tmp_path: Path) -> None:
    days = list(range(ROWS))
    file = tmp_path / "x.csv"
    assert series(dated(file, STARTS[form], days))[0] == ("a",)
    assert notes(file) == f"left out: {file}: column A 'date': times\n"
    falling = (
        rf"^{file}: its newest row is the first \(2024-04-09.* in A2, 2024-01-01.* in A101\), so the past "
        r"would be held out\. Sort"
    )
    refused(falling, dated(file, STARTS[form], days[::-1]))
    refused(falling, file, columns=["a"])
    swapped = [*days[:50], days[51], days[50], *days[52:]]
    refused(
        rf"^{file}: its rows are not in the order of time: 2024-02-20.* in A53 comes after a later",
        dated(file, STARTS[form], swapped),
    )
    refused("are not in the order of time: 2024-01-01.* in A52", dated(file, STARTS[form], days[:50] * 2))


def beside(firsts: Sequence[Any] | np.ndarray) -> Callable[[int], str]:
    """Return a table with these first values and a temperature in each row."""
    return lambda i: f"{firsts[i]},{TEMP[i]}"


def test_numbers_of_time_are_checked_too(tmp_path: Path) -> None:
    numbers = np.arange(ROWS + 1)
    for name, values in (("timestamp", 1.7e9 + numbers**2), ("Year", 1900 + numbers), ("id", numbers), ("", numbers)):
        path = write(tmp_path / "x.csv", f"{name},a", beside(values))
        assert series(path)[0] == ("a",)
        path = write(tmp_path / "x.csv", f"{name},a", beside(values[::-1]))
        refused("x.csv: its newest row is the first", path)


def test_dates_decide_where_row_numbers_fall(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ",date,a", lambda i: f"{ROWS - i},{DAYS[i]},{TEMP[i]}")
    assert series(path)[0] == ("a",)


def test_hours_next_to_dates_are_their_times(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "date,time,a", lambda i: f"{DAYS[i // 24]},{i % 24:02d}:00,{TEMP[i]}")
    assert "evenly" not in notes(path)
    path = write(tmp_path / "x.csv", "date,time,a", lambda i: f"{DAYS[i // 24]},{23 - i % 24:02d}:00,{TEMP[i]}")
    refused("are not in the order of time: 2024-01-01 22:00:00.* in A3", path)


EVEN: dict[str, Callable[[int], str]] = {
    "days": lambda i: f"{DAYS[i]}",
    "months": lambda i: f"{2000 + i // 12}-{i % 12 + 1:02d}-01",
    "quarters": lambda i: f"{1980 + i // 4}-{i % 4 * 3 + 1:02d}-01",
    "years": lambda i: f"{1900 + i}-01-01",
    "working days": lambda i: f"{datetime.date(2024, 1, 1) + datetime.timedelta(i // 5 * 7 + i % 5)}",
    "months as numbers": lambda i: f"{2000 + i // 12}{i % 12 + 1:02d}",
}
UNEVEN: dict[str, tuple[Callable[[int], str], str]] = {
    "a gap": (
        lambda i: f"{DAYS[0] + datetime.timedelta(i + 5 * (i > 30))}",
        "its rows are 1 days .* to 6 days .* apart, the widest step before A33",
    ),
    "a gap in months": (
        lambda i: f"{2000 + (i + (i > 9)) // 12}-{(i + (i > 9)) % 12 + 1:02d}-01",
        "its rows are 28 days .* to 61 days .*before A12",
    ),
    "a time twice": (lambda i: f"{DAYS[i // 2]}", "50 rows have the same time as the row before"),
    "seconds since 1970": (
        lambda i: f"{1700000000 + 3600 * i + 7200 * (i > 40)}",
        "its rows are 3600.0 to 10800.0 apart, the widest step before A43",
    ),
}


def test_uneven_times_are_reported(tmp_path: Path) -> None:
    for kind, time in EVEN.items():
        path = write(tmp_path / "x.csv", "date,a", beside([time(i) for i in range(ROWS)]))
        assert "evenly" not in notes(path), kind
    for kind, (time, said) in UNEVEN.items():
        path = write(tmp_path / "x.csv", "date,a", beside([time(i) for i in range(ROWS)]))
        assert re.search(rf"^dataset: {path}: {said}.* Windows treat rows as evenly spaced\.$", notes(path), re.M), kind


def test_times_next_to_an_array_are_checked(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=ROWS).to_numpy()
    values = np.stack([TEMP, LOAD], 1)
    path = tmp_path / "x.npz"
    for name, times in (("dates", days), ("when", days.astype("M8[D]").astype(str)), ("time", np.arange(ROWS) * 60.0)):
        np.savez(path, **{"series": values, name: times})  # type: ignore[arg-type]  # names that a user chose
        assert notes(path) == f"left out: {path}: array '{name}' [100]: it is neither `series` nor `names`\n"
        np.savez(path, **{"series": values, name: times[::-1]})  # type: ignore[arg-type]
        refused(rf"its newest row is the first \(.* in {name}\[0\], .* in {name}\[99\]\)", path)
    gap = days + np.timedelta64(5, "D") * (np.arange(ROWS) > 30)
    np.savez(path, series=values, dates=gap)
    assert "to 6 days 00:00:00 apart, the widest step before dates[31]. Windows treat rows as evenly" in notes(path)
    np.savez(path, series=values, dates=np.full(ROWS, "NaT", "M8[s]"))
    assert "evenly" not in notes(path), "no time is known"
    np.savez(path, series=values, mask=np.ones(ROWS), names=np.array([b"a", b"b"]))
    assert series(path)[0] == ("a", "b")
    assert "array 'mask' [100]" in notes(path)
