"""Valid files for every data set that reads files, and the settings that train on them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import FILES

Made = tuple[str, list[str]]
"""A scale and its changed settings."""


def _member(name: str, scale: str) -> Callable[[Path], Made]:
    """Return a function that writes files as conftest.py does."""

    def make(folder: Path) -> Made:
        spec: dict[str, Any] = {"name": name, **FILES[name](folder, np.random.default_rng(0))}
        if "image" in name or name == "latents":
            spec["workers"] = 0
        return scale, [f"dataset={json.dumps(spec)}"]

    return make


def _csv(folder: Path) -> Made:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(120, 3)).round(3), columns=["a", "b", "c"])
    table.insert(0, "day", pd.date_range("2020-01-01", periods=120).strftime("%Y-%m-%d"))
    table.to_csv(folder / "series.csv", index=False)
    return "sequences", [f'dataset={{"name": "time_series", "path": "{folder / "series.csv"}"}}']


def _zip(folder: Path) -> Made:
    pictures = folder / "pictures"
    pictures.mkdir()
    scale, [chosen] = KINDS["pictures"](pictures)
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(pictures.rglob("*.png")):
            archive.write(path, path.relative_to(pictures))
    shutil.rmtree(pictures)
    return scale, [chosen.replace(str(pictures), f"{pictures}.zip")]


def _10x(folder: Path) -> Made:
    from scipy.io import mmwrite
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 2, 30), (60, 30)) + np.eye(60, 30, dtype=np.int64)
    mmwrite(folder / "matrix.mtx", csr_matrix(counts.T))
    (folder / "genes.tsv").write_text("".join(f"G{i}\tgene {i}\n" for i in range(30)))
    (folder / "barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(60)))
    return "points", [f'dataset={{"name": "cells", "path": "{folder}", "genes": 20}}']


def _pairs(folder: Path) -> Made:
    rng = np.random.default_rng(0)
    for name in ("x0", "x1"):
        np.save(folder / f"{name}.npy", rng.normal(size=(40, 2)).astype(np.float32))
    return "points", [f'coupling={{"name": "pairs", "path": "{folder}"}}']


def _statistics(folder: Path) -> Made:
    """Write reference statistics of the 64 features of the digits classifier."""
    path = folder / "statistics.npz"
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    return "images", [f"evaluate.reference={path}", "evaluate.extractor=digits", 'evaluate.metrics=["fid"]']


KINDS: dict[str, Callable[[Path], Made]] = {
    "csv": _csv,
    "table": _member("table", "points"),
    "series": _member("time_series", "sequences"),
    "images": _member("npz", "images"),
    "pictures": _member("image_folder", "images"),
    "zip": _zip,
    "latents": _member("latents", "images"),
    "h5ad": _member("cells", "points"),
    "10x": _10x,
    "pairs": _pairs,
    "statistics": _statistics,
}
"""Each function writes files into a folder and returns the settings that train on them."""
