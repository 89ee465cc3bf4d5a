"""Windows of a multivariate time series, standardised per channel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch

from harness.core.config import RUN_ONLY, Count, Range
from harness.core.errors import ConfigError, UserError, did_you_mean
from harness.core.memory import Need, require
from harness.core.signals import Say
from harness.data.base import Data, Dataset, existing, standardise
from harness.data.tables import Decimal, Separator, read


@dataclass(frozen=True, kw_only=True)
class Windows(Dataset):
    """Every window [L, D] of a series [T, D]. The end of the series is held out; no window crosses the border."""

    window: Annotated[int, Range(2, 10**6, why="no network takes longer windows")] = 16
    """Length L of a window, in rows of the series."""
    stride: Count = 1
    """Rows between the starts of two windows."""
    held_out: Annotated[float, Range(0, 1, ends="()")] = 0.2
    """Share of the series, at its end, that is held out."""

    @abstractmethod
    def series(self, say: Say) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the series, float64 [T, D], and the names of its channels; `say` gets lines on what is left out."""

    def load(self) -> Data:
        notes = list[str]()
        series, names = self.series(notes.append)
        border = round(len(series) * (1 - self.held_out))
        for split, length in (("training", border), ("held-out", len(series) - border)):
            if length < self.window:
                raise ConfigError(
                    "dataset.window",
                    f"{self.window} is longer than the {length} rows of the {split} samples. Choose a shorter one.",
                )
        whole = torch.from_numpy(series)
        scale = standardise(whole, torch.arange(len(whole)) < border, names, "channel")
        windows = (border - self.window) // self.stride + 1
        size = 12 if self.stride < self.window else 4  # bytes per number, with a copy in float64 if windows overlap
        samples = Need("dataset.window", f"{windows} windows", size * windows * self.window * series.shape[1])
        require([samples], "the series cut into windows")
        train, held = (
            rows.unfold(0, self.window, self.stride).transpose(1, 2).contiguous().float()
            for rows in (whole[:border], whole[border:])
        )
        return Data(
            train, held, scale.encode, scale.decode, "sequence",
            names=names, statistics=scale.statistics, notes=tuple(notes),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TimeSeries(Windows, name="time_series"):
    """Windows of your series, the oldest row first: a .csv with a header, or an .npz.

    An .npz holds `series` [T, D] and optional `names` [D]. Columns of times and row numbers of a .csv are not channels,
    but are checked: the rows must be in the order of time.
    """

    path: str = field(metadata=RUN_ONLY)
    """The file; relative paths begin in HARNESS_DATA, or else in data/."""
    columns: tuple[str, ...] = ()
    """Channels to use, in this order; empty for all numeric columns."""
    separator: Separator = "auto"
    """Separator of the columns of a .csv; auto takes the separator of its header."""
    decimal: Decimal = "auto"
    """Decimal sign of a .csv; auto takes the only sign that reads all numbers."""

    def series(self, say: Say) -> tuple[np.ndarray, tuple[str, ...]]:
        path = existing(self.path, "a .csv or .npz file")
        if path.suffix == ".npz":
            return _npz(path, self.columns, say)
        from harness.data.channels import channels

        return channels(read(path, self.separator), self.decimal, self.columns, say)


def _npz(path: Path, columns: tuple[str, ...], say: Say) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the chosen channels of an .npz, or all, float64 [T, D], and their names."""
    from harness.data.images import npz

    arrays = npz(path)
    series = arrays.pop("series", None)
    if series is None or series.ndim != 2 or not series.size or series.dtype.kind not in "fiu":
        said = "no `series`" if series is None else f"`series` as {series.dtype} {list(series.shape)}"
        raise UserError(f"{path}: holds {said}, not numbers [T, D]. Make it again.")
    names = _names(path, arrays.pop("names", None), series.shape[1])
    _say_others(path, arrays, len(series), say)
    for name in columns:
        if name not in names:
            raise ConfigError("dataset.columns", f"{path} has no numeric column '{name}'. {did_you_mean(name, names)}")
    chosen = columns or names
    values = series[:, [names.index(name) for name in chosen]].astype(np.float64)
    rows, places = np.nonzero(~np.isfinite(values))
    if len(rows):
        where = f"series[{rows[0]}, {names.index(chosen[places[0]])}], channel '{chosen[places[0]]}'"
        raise UserError(f"{path}: {len(rows)} values are missing or infinite, the first {where}. Fill or remove them.")
    return values, chosen


def _names(path: Path, given: np.ndarray | None, number: int) -> tuple[str, ...]:
    """Return the names of an .npz's channels; `UserError` unless each channel has a different name."""
    if given is None:
        return tuple(f"channel {i}" for i in range(number))
    if given.dtype.kind == "S":
        given = np.char.decode(given, "utf-8", "replace")
    names = tuple(map(str, np.atleast_1d(given)))
    if given.ndim > 1 or len(names) != number:
        raise UserError(f"{path}: holds names {list(given.shape)} for {number} channels. Make it again.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: two channels are called '{twice[0]}'. Give each a different name.")
    return names


def _say_others(path: Path, arrays: dict[str, np.ndarray], rows: int, say: Say) -> None:
    """Say which arrays are left out, and check those with the times of the rows."""
    from harness.data import times

    for name, array in arrays.items():
        say(f"left out: {path}: array '{name}' {list(array.shape)}: it is neither `series` nor `names`")
        if array.shape == (rows,) and (found := times.of_array(name, array)) is not None:
            for line in times.check(found, path, f"{name}[{{}}]".format):
                say(line)


@dataclass(frozen=True, kw_only=True)
class USMacro(Windows, name="us_macro"):
    """The US economy by quarter, 1959 to 2009, from statsmodels: growth, investment, unemployment, inflation."""

    source: ClassVar[str] = "statsmodels' macrodata (Federal Reserve Bank of St. Louis)"

    def series(self, say: Say) -> tuple[np.ndarray, tuple[str, ...]]:
        from statsmodels.datasets import macrodata

        table = macrodata.load_pandas().data
        growth = 100 * np.log(table[["realgdp", "realcons", "realinv"]]).diff()
        whole = growth.join(table[["unemp", "tbilrate", "infl"]]).iloc[1:]
        growths = ("GDP growth", "consumption growth", "investment growth")
        return whole.to_numpy(dtype=np.float64), (*growths, "unemployment", "T-bill rate", "inflation")
