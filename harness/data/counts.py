"""Read raw counts of single cells with anndata and scanpy, and check them."""

from __future__ import annotations

import gzip
import math
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.errors import ConfigError, UserError, did_you_mean
from harness.core.reading import Damaged, require_file
from harness.core.signals import Say

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData
    from scipy.sparse import csr_matrix

RAW = "raw"
"""The layer name that means `.raw`, if no layer has this name."""
GENES = ("Gene Expression", "GEX")
"""Feature types of genes: Cell Ranger's term and a common short form."""
MATRICES = ("matrix.mtx", "matrix.mtx.gz")
SHORTEST = 6
"""Minimum bytes of a count in a text matrix: two indices, the count, and their separators."""
PACKED = 1100
"""Maximum compression ratio of gzip. An HDF5 array with a smaller written share cannot hold counts."""
WALK = Path(__file__).with_name("hdf5_walk.py")
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals that end a process when its compiled code fails."""
LARGE = 1 << 30
"""Size in bytes up to which an HDF5 array is accepted without a check of its written share."""
UNKNOWN = ("", "nan", "<na>")
"""Texts that mean a missing condition, in lower case; pandas writes the last two."""


def read(path: Path, layer: str, say: Say) -> dict[str, AnnData]:
    """Return {name of the 10x folder: sparse float32 counts [N, G]}; the name is "" if `path` is a single set.

    `say` gets lines on what is left out. `UserError` if something cannot be read or holds no counts.
    """
    if path.is_file() or _is_10x(path):
        return {"": _checked(_read(path), layer, path, say)}
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = [folder for folder in folders if _is_10x(folder)]
    if not found:
        raise UserError(f"{path}: contains no 10x folder. Give folders with matrix.mtx, genes.tsv and barcodes.tsv.")
    for folder in folders:
        if folder not in found:
            say(f"left out: {folder}: holds no matrix.mtx")
    return {folder.name: _checked(_read(folder), layer, folder, say) for folder in found}


def _is_10x(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MATRICES)


def _read(path: Path) -> AnnData:
    """Read one file or 10x folder, and make the names of cells and genes unique."""
    import anndata
    import scanpy

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that are not unique
            _refuse_crashing(path)
            _refuse_false_sizes(path)
            if path.is_dir():
                cells = scanpy.read_10x_mtx(path, make_unique=False, gex_only=False)
            elif path.suffix == ".h5":
                cells = scanpy.read_10x_h5(path, gex_only=False)
            else:
                cells = anndata.read_h5ad(path)
            for values in (cells.X, *_layers(cells).values()):
                if hasattr(values, "check_format"):  # compiled code would follow an index out of bounds
                    values.check_format(full_check=True)
            cells.obs_names_make_unique()
            cells.var_names_make_unique()
    except Exception as error:  # each reader raises other types
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: cannot be read as cells ({type(error).__name__}: {reason}). Give an .h5ad or a 10x folder."
        ) from error
    return cells


def _refuse_crashing(path: Path) -> None:
    """Raise `Damaged` if HDF5's compiled code crashes on a file. A separate process tries to read it.

    Exceptions in that process are ignored: the reader raises them again. Other signals, like Ctrl-C, do not count.
    """
    if path.is_file():
        walk = [sys.executable, "-P", str(WALK), str(path.absolute())]
        ended = subprocess.run(walk, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
        if -ended in CRASHES:
            raise Damaged("the HDF5 library crashes on it")


def _refuse_false_sizes(path: Path) -> None:
    """Raise `Damaged` if a file announces more than it can hold: a reader would allocate memory for it first."""
    if path.is_dir():
        for file in path.iterdir():
            if not file.is_dir():
                require_file(file)
        matrix = next(path / name for name in MATRICES if (path / name).is_file())
        packed = matrix.suffix == ".gz"
        with gzip.open(matrix, "rb") if packed else open(matrix, "rb") as lines:
            sizes = next((line for line in lines if not line.startswith(b"%")), b"")
        told = max(map(int, sizes.split()[2:]), default=0)
        if told * SHORTEST > matrix.stat().st_size * (PACKED if packed else 1):
            raise Damaged(f"{matrix.name} announces {told:,} counts, more than it can hold")
        return
    import h5py

    def check(name: str, dataset: Any) -> None:
        numbers = isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "biuf"
        if numbers and not dataset.is_virtual and dataset.nbytes > max(LARGE, PACKED * _written(dataset)):
            raise Damaged(f"{name} announces {dataset.dtype} {list(dataset.shape)}, more than it can hold")

    with h5py.File(path) as file:
        file.visititems(check)


def _written(dataset: h5py.Dataset) -> int:
    """Return the uncompressed size, in bytes, of the written part of an HDF5 array."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size()
    return dataset.id.get_num_chunks() * math.prod(dataset.chunks) * dataset.dtype.itemsize


def _checked(cells: AnnData, layer: str, path: Path, say: Say) -> AnnData:
    """Return the counts of the genes in `layer`; `UserError` if the values are not counts, or a cell is empty."""
    chosen = _genes(_chosen(cells, layer), path, say)
    if not _numeric(chosen.X):
        raise UserError(f"{path}: holds no counts ({chosen.n_obs} cells, {chosen.n_vars} genes). {_remedy(cells)}")
    counts = _sparse(chosen.X)
    if wrong := _fault(counts):
        raise UserError(f"{path}: {wrong}. {_remedy(cells)}")
    if empty := int((counts.sum(1) == 0).sum()):
        raise UserError(f"{path}: {empty} cells have no counts at all. Filter them out.")
    chosen = chosen.copy()
    chosen.X = counts.astype(np.float32)
    return chosen


def _chosen(cells: AnnData, layer: str) -> AnnData:
    """Return the cells with the values of `layer` as X; `ConfigError` if there is no such layer."""
    if not layer:
        return cells
    if layer == RAW and RAW not in cells.layers and cells.raw is not None:
        return cells.raw.to_adata()
    if layer not in cells.layers:
        raise ConfigError("dataset.layer", f"the cells have no layer '{layer}'. {did_you_mean(layer, _layers(cells))}")
    cells = cells.copy()
    cells.X = cells.layers[layer]
    return cells


def _layers(cells: AnnData) -> dict[str, Any]:
    """Return {name: values} of all layers that dataset.layer may name."""
    raw = {} if cells.raw is None else {RAW: cells.raw.X}
    return raw | {name: values for name, values in cells.layers.items() if name}


def _genes(cells: AnnData, path: Path, say: Say) -> AnnData:
    """Return the cells with only the features that are genes; antibodies, guides, peaks must not enter a cell's sum."""
    if "feature_types" not in cells.var or cells.var["feature_types"].nunique() < 2:
        return cells
    kinds = cells.var["feature_types"].astype(str)
    genes = kinds.isin(GENES)
    others = ", ".join(f"{number} of '{kind}'" for kind, number in kinds[~genes].value_counts().items())
    if not genes.any():
        raise UserError(f"{path}: its features are {others}, none of '{GENES[0]}'. Keep features of one kind.")
    say(f"left out: {path}: features that are not genes: {others}")
    return cells[:, genes.to_numpy()]


def _numeric(values: Any) -> bool:
    """Whether the values are real numbers of at least one cell and one gene."""
    return values is not None and 0 not in values.shape and values.dtype.kind in "biuf"


def _sparse(values: Any) -> csr_matrix:
    """Return a sparse copy of values [N, G], in float32 or float64, with each entry stored once and no zeros."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(values.astype(np.promote_types(values.dtype, np.float32)))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _fault(matrix: csr_matrix) -> str | None:
    """Return why the values are not counts; None if they are."""
    checks: tuple[tuple[Callable[[np.ndarray], np.ndarray], str], ...] = (
        (lambda values: ~np.isfinite(values), "NaN or infinite"),
        (lambda values: values < 0, "negative"),
        (lambda values: values % 1 != 0, f"not whole numbers{_made(matrix)}"),
    )
    for find, said in checks:
        if (wrong := find(matrix.data)).any():
            return f"{int(wrong.sum())} of its counts are {said}"
    return None


def _made(matrix: csr_matrix) -> str:
    """Return which transformation was applied to the counts, if the sums of all cells reveal it; otherwise empty."""
    from scipy.sparse import csr_matrix

    with np.errstate(all="ignore"):
        for values, said in ((matrix.data, "normalised"), (np.expm1(matrix.data), "log1p of normalised counts")):
            sums = csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape).sum(1)
            if np.ptp(sums) < 1e-3 * sums.max():
                return f": they are {said}"
    return ""


def _remedy(cells: AnnData) -> str:
    """Return advice that names the layers with counts."""
    found = [name for name, values in _layers(cells).items() if _numeric(values) and not _fault(_sparse(values))]
    if not found:
        return "Give raw counts; no layer holds them."
    return f"Set dataset.layer={' or '.join(found)}, which holds counts."


def joined(folders: Mapping[str, AnnData], path: Path, say: Say) -> AnnData:
    """Join the cells of all folders, with the genes (by id) of every folder; `obs["sample"]` names the folder.

    `say` gets a line on the number of genes that are left out. `UserError` if no gene is in every folder.
    """
    import anndata

    if len(folders) == 1 and "" in folders:
        return folders[""]
    for name, folder in folders.items():
        folder.var["symbol"] = folder.var_names.to_numpy()
        folder.var_names = folder.var["gene_ids"].astype(str)
        if len(twice := folder.var_names[folder.var_names.duplicated()]):
            raise UserError(f"{path / name}: lists the gene {twice[0]} twice. Give every gene a different id.")
    cells = anndata.concat(folders, label="sample", index_unique="-", merge="first")
    if not cells.n_vars:
        raise UserError(
            f"{path}: no gene id is in every folder ({', '.join(folders)}). Give folders of one annotation."
        )
    lost = {name: folder.n_vars - cells.n_vars for name, folder in folders.items() if folder.n_vars > cells.n_vars}
    if lost:
        said = ", ".join(f"{number} of {folders[name].n_vars} in {name}" for name, number in lost.items())
        say(f"left out: {path}: genes that are not in every folder: {said}; {cells.n_vars} are shared")
    cells.var_names = cells.var["symbol"].astype(str)
    cells.var_names_make_unique()
    return cells


def conditions(cells: AnnData, column: str, path: Path) -> np.ndarray:
    """Return the condition of each cell, texts [N].

    `UserError` if one is missing, or if more than half of the cells have different conditions.
    """
    if column not in cells.obs:
        raise ConfigError(
            "dataset.condition", f"the cells have no column '{column}'. {did_you_mean(column, map(str, cells.obs))}"
        )
    values = cells.obs[column]
    texts = values.astype(object).map(str).to_numpy()
    if missing := sum(text.strip().lower() in UNKNOWN for text in texts):
        raise UserError(
            f"{path}: {missing} of {len(texts)} cells have no '{column}'. Fill it in, or filter these cells out."
        )
    if (number := len(set(texts))) > max(len(texts) // 2, 1):
        raise ConfigError(
            "dataset.condition", f"'{column}' has {number} values for {len(texts)} cells. Name a column of groups."
        )
    return texts
