"""Rows of a table as vectors, standardised per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from harness.core.config import RUN_ONLY, Range
from harness.core.errors import ConfigError, UserError
from harness.data import tables
from harness.data.base import Data, Dataset, existing, held_out, parted, standardise
from harness.data.tables import Decimal, Separator


@dataclass(frozen=True, kw_only=True)
class TableRows(Dataset, name="table"):
    """Rows of your table as vectors [D] or points: a .csv or .tsv with a header, a row for each sample.

    Columns of dates, of text and of row numbers are left out. Pictures show the first two columns.
    """

    path: str = field(metadata=RUN_ONLY)
    """The file; relative paths begin in HARNESS_DATA, or else in data/."""
    columns: tuple[str, ...] = ()
    """Columns to use, in this order; empty for all numeric columns except `label`."""
    label: str = ""
    """Column with the class of each row, as text or numbers; empty for no classes."""
    held_out: Annotated[float, Range(0, 1, ends="()")] = 0.2
    """Share of the rows, of each class, that is held out; drawn with a fixed seed."""
    separator: Separator = "auto"
    """Separator of the columns; auto takes the separator of the header."""
    decimal: Decimal = "auto"
    """Decimal sign; auto takes the only sign that reads all numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label and self.label in self.columns:
            raise ConfigError("label", f"'{self.label}' is one of dataset.columns too. Leave it out of one of them.")

    def load(self) -> Data:
        from harness.data.channels import channels

        notes = list[str]()
        table = tables.read(existing(self.path, "a .csv or .tsv file"), self.separator)
        classes, class_names, apart = _classes(table, self.label) if self.label else (None, (), ())
        values, names = channels(table, self.decimal, self.columns, notes.append, timed=False, apart=apart)
        whole = torch.from_numpy(values)
        held = held_out(len(whole), 1 / self.held_out, classes)
        if (number := int((~held).sum())) < 2:
            raise UserError(
                f"{table.path}: {len(whole)} rows leave {number} to train on. Give more, or lower dataset.held_out."
            )
        scale = standardise(whole, ~held, names, "column")
        return Data(
            whole[~held].float(), whole[held].float(), scale.encode, scale.decode, "points",
            *parted(classes, held), class_names, names, scale.statistics, notes=tuple(notes),
        )  # fmt: skip


def _classes(table: tables.Table, label: str) -> tuple[Tensor, tuple[str, ...], Sequence[int]]:
    """Return the class of each row, int64 [N], the names of the classes, and the index of their column."""
    from harness.data.channels import MISSING, PLAIN, position, refuse_unnamed

    number = position(table, label, "dataset.label", "column")
    refuse_unnamed(table, [number])
    texts = table.texts[number]
    for row, text in enumerate(texts):
        if MISSING.fullmatch(text):
            said = f"{table.place(row, number)} in column '{label}' holds no class ({repr(text) if text else 'empty'})"
            raise UserError(f"{table.path}: {said}. Fill it in, or remove the row.")
    found = set(texts)
    names = sorted(found, key=float if all(map(PLAIN.fullmatch, found)) else str)
    if 2 * len(names) > len(texts) > 0:
        reason = f"{table.column(number)} holds {len(names)} different values in {len(texts)} rows: they are no classes"
        raise ConfigError("dataset.label", f"{table.path}: {reason}. Name another column.")
    numbers = {name: place for place, name in enumerate(names)}
    return torch.tensor([numbers[text] for text in texts], dtype=torch.int64), tuple(names), [number]
