"""Read exported tables as text: detect encoding, separator and header."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.core.errors import UserError
from harness.core.reading import Damaged, bytes_of

Separator = Literal["auto", "comma", "semicolon", "tab", "bar", "space"]
Decimal = Literal["auto", "point", "comma"]

csv.field_size_limit(sys.maxsize)  # later checks report overlong numbers with their cell
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


@dataclass(frozen=True)
class Table:
    """A table's header and the texts below it."""

    path: Path
    names: tuple[str, ...]
    """Names of the columns; "" for a column without a name."""
    texts: list[list[str]]
    """The cells of each column, without surrounding blanks."""
    first: int
    """Row number of the first cells in a spreadsheet."""
    separator: str

    def place(self, row: int, column: int) -> str:
        """Return the position of a cell in a spreadsheet, like B7."""
        letters = ""
        number = column + 1
        while number:
            number, letter = divmod(number - 1, 26)
            letters = chr(ord("A") + letter) + letters
        return f"{letters}{self.first + row}"

    def column(self, number: int) -> str:
        """Return the description of a column for a message."""
        name = f"'{self.names[number]}'" if self.names[number] else "without a name"
        return f"column {self.place(0, number).rstrip('0123456789')} {name}"


def read(path: Path, separator: Separator) -> Table:
    """Read a text file with a header; `UserError` if it cannot be read or its rows differ in length."""
    import pandas as pd

    text = _text(path)
    lines = text.split("\n")
    skipped = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if skipped == len(lines):
        raise UserError(f"{path}: cannot be read (it is empty). Give a .csv with a header.")
    sign = _separator(path, lines[skipped:], separator)
    try:
        cells = pd.read_csv(
            io.StringIO(text), sep=sign, header=None, dtype=object, skiprows=skipped,
            keep_default_na=False, skip_blank_lines=False, skipinitialspace=True,
        )  # fmt: skip
    except (ValueError, pd.errors.ParserError) as error:
        _refuse_ragged(path, lines, skipped, sign)
        raise UserError(f"{path}: cannot be read ({str(error).strip()}). Give a .csv with a header.") from error
    texts = [cells[column].astype(str).str.strip().tolist() for column in cells]
    if "" in texts[-1]:
        _refuse_ragged(path, lines, skipped, sign)
    rows = max((i for column in texts for i, text in enumerate(column) if text), default=0) + 1
    return Table(path, tuple(column[0] for column in texts), [column[1:rows] for column in texts], skipped + 2, sign)


def _text(path: Path) -> str:
    """Return the decoded content; `UserError` if it is not text in UTF-8 or UTF-16."""
    try:
        content = bytes_of(path)
        if content.startswith(b"PAR1"):
            raise Damaged("it is a Parquet file")
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (Damaged, OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Save it as .csv in UTF-8.") from error
    if "\0" in text:
        raise UserError(f"{path}: cannot be read (it holds NUL characters). Save it as .csv in UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _fields(line: str, sign: str) -> list[str]:
    """Split a line at its separators."""
    return line.split() if sign == r"\s+" else next(csv.reader([line], delimiter=sign, skipinitialspace=True), [])


def _separator(path: Path, lines: Sequence[str], given: Separator) -> str:
    """Return the separator of the header; of several, the one by which all first rows have equally many fields.

    `UserError` if several separators remain. A comma if the header has none.
    """
    if given != "auto":
        return r"\s+" if given == "space" else SEPARATORS[given]
    found = {name: sign for name, sign in SEPARATORS.items() if len(_fields(lines[0], sign)) > 1}
    if len(found) > 1:
        rows = [line for line in lines[:100] if line.strip()]
        found = {
            name: sign for name, sign in found.items() if len({len(_fields(row, sign)) for row in rows}) == 1
        } or found
    if len(found) > 1:
        raise UserError(
            f"{path}: the separator of its columns may be {' or '.join(found)}. Set dataset.separator to one of them."
        )
    return next(iter(found.values()), ",")


def _refuse_ragged(path: Path, lines: Sequence[str], skipped: int, sign: str) -> None:
    """Raise `UserError` for the first row that has more or fewer fields than the header."""
    rows = csv.reader(lines[skipped:], delimiter=sign) if len(sign) == 1 else map(str.split, lines[skipped:])
    width = len(next(rows))
    for row, fields in enumerate(rows, skipped + 2):
        if fields and len(fields) != width:
            raise UserError(
                f"{path}: row {row} has {len(fields)} fields, but the header has {width}. "
                "Give every row as many fields as the header: "
                "a comma in a number or at the end of a row counts as a separator."
            )
