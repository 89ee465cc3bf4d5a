"""Windows of a multivariate time series, standardised per channel."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch

from harness.config import RUN_ONLY, Count, Range
from harness.data.base import Data, Dataset, Standardise, existing
from harness.errors import ConfigError, UserError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Windows(Dataset):
    """Every window [L, D] of a series [T, D]. The end of the series is held out; no window lies across the border."""

    window: Annotated[int, Range(2)] = 16
    """Length L of a window, in rows of the series."""
    stride: Count = 1
    """Rows between the starts of two windows."""
    held_out: Annotated[float, Range(0, 1, ends="()")] = 0.2
    """Share of the series, at its end, that is held out."""

    def series(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """The series, float64 [T, D], and the names of its channels."""
        raise NotImplementedError

    def load(self) -> Data:
        series, names = self.series()
        border = round(len(series) * (1 - self.held_out))
        for part, length in (("training", border), ("held-out", len(series) - border)):
            if length < self.window:
                raise ConfigError(
                    "dataset.window", f"{self.window} is longer than the {length} rows of the {part} part. Choose a shorter one."
                )
        whole = torch.from_numpy(series)
        scale = Standardise(whole[:border].mean(0), whole[:border].std(0))
        if constant := [name for name, std in zip(names, scale.std, strict=True) if std == 0]:
            raise UserError(f"dataset: the channel '{constant[0]}' never varies. Leave it out by dataset.columns.")
        train, held = (
            part.unfold(0, self.window, self.stride).transpose(1, 2).contiguous().float() for part in (whole[:border], whole[border:])
        )
        return Data(train, held, scale.encode, scale.decode, "sequence", names=names, statistics=scale.statistics)


@dataclass(frozen=True, kw_only=True)
class TimeSeries(Windows, name="time_series"):
    """Windows of a series of your own: a .csv with a header, or an .npz with `series` [T, D] and perhaps `names` [D]."""

    path: str = field(metadata=RUN_ONLY)
    """The file; relative paths begin in HARNESS_DATA, or else in data/."""
    columns: tuple[str, ...] = ()
    """Channels to take, in this order; empty for all numeric ones."""

    def series(self) -> tuple[np.ndarray, tuple[str, ...]]:
        path = existing(self.path, "a .csv or .npz file")
        values, names = _npz(path) if path.suffix == ".npz" else _csv(path)
        for name in self.columns:
            if name not in names:
                raise ConfigError("dataset.columns", f"{path} has no numeric column '{name}'. {did_you_mean(name, names)}")
        if self.columns:
            values, names = values[:, [names.index(name) for name in self.columns]], self.columns
        rows, columns = np.nonzero(~np.isfinite(values))
        if len(rows):
            where = f"row {rows[0] + 1}, column '{names[columns[0]]}'"
            raise UserError(f"{path}: {len(rows)} values are missing or infinite, the first in {where}. Fill or remove them.")
        return values, names


def _csv(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    import pandas as pd

    try:
        numeric = pd.read_csv(path).select_dtypes("number")
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise UserError(f"{path}: cannot be read ({str(error).strip()}). Give a .csv with a header.") from error
    if numeric.empty:
        raise UserError(f"{path}: holds no numeric column. Give a .csv with a header and a row for each time.")
    return numeric.to_numpy(dtype=np.float64), tuple(map(str, numeric.columns))


def _npz(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    from harness.data.images import npz

    arrays = npz(path)
    series = arrays.get("series")
    if series is None or series.ndim != 2 or not series.size or series.dtype.kind not in "fiu":
        said = "no `series`" if series is None else f"`series` as {series.dtype} {list(series.shape)}"
        raise UserError(f"{path}: holds {said}, not numbers [T, D]. Make it again.")
    names = tuple(map(str, np.atleast_1d(arrays["names"]))) if "names" in arrays else tuple(f"channel {i}" for i in range(series.shape[1]))
    if len(names) != series.shape[1]:
        raise UserError(f"{path}: holds {len(names)} names for {series.shape[1]} channels. Make it again.")
    return series.astype(np.float64), names


@dataclass(frozen=True, kw_only=True)
class USMacro(Windows, name="us_macro"):
    """The US economy by quarters, 1959 to 2009, embedded in statsmodels: growth, investment, unemployment, interest, inflation."""

    source: ClassVar[str] = "statsmodels' macrodata (Federal Reserve Bank of St. Louis)"

    def series(self) -> tuple[np.ndarray, tuple[str, ...]]:
        from statsmodels.datasets import macrodata

        table = macrodata.load_pandas().data
        growth = 100 * np.log(table[["realgdp", "realcons", "realinv"]]).diff()
        whole = growth.join(table[["unemp", "tbilrate", "infl"]]).iloc[1:]
        return whole.to_numpy(dtype=np.float64), (
            "GDP growth",
            "consumption growth",
            "investment growth",
            "unemployment",
            "T-bill rate",
            "inflation",
        )
