"""Counts of single cells as users have them, read and checked. Reading is the work of anndata and scanpy."""

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
"""The layer that stands for `.raw`, where no layer is called so."""
GENES = ("Gene Expression", "GEX")
"""Feature types that are genes: Cell Ranger's word and a common short one."""
MATRICES = ("matrix.mtx", "matrix.mtx.gz")
SHORTEST = 6
"""Bytes of a count in a matrix of text, at least: two indices, the count and what parts them."""
PACKED = 1100
"""How many times smaller gzip makes a file, at most. An array of HDF5 of which less was written is none of counts."""
WALK = Path(__file__).with_name("hdf5_walk.py")
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""What ends a process whose compiled code went wrong."""
LARGE = 1 << 30
"""Bytes below which nobody asks whether an array of HDF5 was written whole."""
UNKNOWN = ("", "nan", "<na>")
"""Texts that stand for a missing condition, in lower case: pandas writes the last two."""


def read(path: Path, layer: str, say: Say) -> dict[str, AnnData]:
    """Sparse float32 counts by the name of the 10x folder that holds them, or by "" where there is but one set.

    `say` is told what is left out. `UserError` where something cannot be read or holds no counts.
    """
    if path.is_file() or _is_10x(path):
        return {"": _checked(_read(path), layer, path, say)}
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = [folder for folder in folders if _is_10x(folder)]
    if not found:
        raise UserError(f"{path}: no 10x folder is in it. One holds matrix.mtx, genes.tsv and barcodes.tsv.")
    for folder in folders:
        if folder not in found:
            say(f"left out: {folder}: holds no matrix.mtx")
    return {folder.name: _checked(_read(folder), layer, folder, say) for folder in found}


def _is_10x(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MATRICES)


def _read(path: Path) -> AnnData:
    """The content of one file or 10x folder, with unique names."""
    import anndata
    import scanpy

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are made unique
            _refuse_crashing(path)
            _refuse_false_sizes(path)
            if path.is_dir():
                cells = scanpy.read_10x_mtx(path, make_unique=False, gex_only=False)
            elif path.suffix == ".h5":
                cells = scanpy.read_10x_h5(path, gex_only=False)
            else:
                cells = anndata.read_h5ad(path)
            for values in (cells.X, *_layers(cells).values()):
                if hasattr(values, "check_format"):  # compiled code would follow an index out of a sparse matrix
                    values.check_format(full_check=True)
            cells.obs_names_make_unique()
            cells.var_names_make_unique()
    except Exception as error:  # each reader raises its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: cannot be read as cells ({type(error).__name__}: {reason}). Give an .h5ad or a 10x folder."
        ) from error
    return cells


def _refuse_crashing(path: Path) -> None:
    """`Damaged` where HDF5's own code crashes on a file.

    What it raises is left to the reader. A walk that another signal ends, like Ctrl-C, says nothing of the file.
    """
    if path.is_file():
        walk = [sys.executable, "-P", str(WALK), str(path.absolute())]
        ended = subprocess.run(walk, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
        if -ended in CRASHES:
            raise Damaged("HDF5's own code crashes on it")


def _refuse_false_sizes(path: Path) -> None:
    """`Damaged` where more is announced than a file can hold: memory would be taken for it first."""
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
    """Bytes of an array of HDF5 that were written, before they were packed."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size()
    return dataset.id.get_num_chunks() * math.prod(dataset.chunks) * dataset.dtype.itemsize


def _checked(cells: AnnData, layer: str, path: Path, say: Say) -> AnnData:
    """The counts of the genes in `layer`; `UserError` where they are none, or a cell is empty."""
    chosen = _genes(_chosen(cells, layer), path, say)
    if not _numeric(chosen.X):
        raise UserError(f"{path}: holds no counts ({chosen.n_obs} cells, {chosen.n_vars} genes). {_remedy(cells)}")
    counts = _sparse(chosen.X)
    if wrong := _fault(counts):
        raise UserError(f"{path}: {wrong}. {_remedy(cells)}")
    if empty := int((counts.sum(1) == 0).sum()):
        raise UserError(f"{path}: {empty} cells have no count at all. Filter them out.")
    chosen = chosen.copy()
    chosen.X = counts.astype(np.float32)
    return chosen


def _chosen(cells: AnnData, layer: str) -> AnnData:
    """The cells with the values of `layer` as X."""
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
    """All that dataset.layer may name, and its values."""
    raw = {} if cells.raw is None else {RAW: cells.raw.X}
    return raw | {name: values for name, values in cells.layers.items() if name}


def _genes(cells: AnnData, path: Path, say: Say) -> AnnData:
    """The cells without features that are no genes (antibodies, guides, peaks): these must not enter a cell's sum."""
    if "feature_types" not in cells.var or cells.var["feature_types"].nunique() < 2:
        return cells
    kinds = cells.var["feature_types"].astype(str)
    genes = kinds.isin(GENES)
    others = ", ".join(f"{number} of '{kind}'" for kind, number in kinds[~genes].value_counts().items())
    if not genes.any():
        raise UserError(f"{path}: its features are {others}, none of '{GENES[0]}'. Keep those of one kind.")
    say(f"left out: {path}: features that are no genes: {others}")
    return cells[:, genes.to_numpy()]


def _numeric(values: Any) -> bool:
    """Whether there are real numbers of some cells and genes."""
    return values is not None and 0 not in values.shape and values.dtype.kind in "biuf"


def _sparse(values: Any) -> csr_matrix:
    """A copy of values [N, G] that float32 or float64 hold exactly, each entry stored once and no zeros."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(values.astype(np.promote_types(values.dtype, np.float32)))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _fault(matrix: csr_matrix) -> str | None:
    """Why the values are no counts, if they are none."""
    checks: tuple[tuple[Callable[[np.ndarray], np.ndarray], str], ...] = (
        (lambda values: ~np.isfinite(values), "NaN or infinite"),
        (lambda values: values < 0, "negative"),
        (lambda values: values % 1 != 0, f"no whole numbers{_made(matrix)}"),
    )
    for find, said in checks:
        if (wrong := find(matrix.data)).any():
            return f"{int(wrong.sum())} of its counts are {said}"
    return None


def _made(matrix: csr_matrix) -> str:
    """What was done to counts whose cells all have one sum, as far as that can be seen."""
    from scipy.sparse import csr_matrix

    with np.errstate(all="ignore"):
        for values, said in ((matrix.data, "normalised"), (np.expm1(matrix.data), "log1p of normalised counts")):
            sums = csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape).sum(1)
            if np.ptp(sums) < 1e-3 * sums.max():
                return f": they are {said}"
    return ""


def _remedy(cells: AnnData) -> str:
    """The layers that hold counts, as advice."""
    found = [name for name, values in _layers(cells).items() if _numeric(values) and not _fault(_sparse(values))]
    if not found:
        return "Give raw counts; no layer holds them."
    return f"Set dataset.layer={' or '.join(found)}: counts are there."


def joined(folders: Mapping[str, AnnData], path: Path, say: Say) -> AnnData:
    """The cells of all folders with the genes, by id, that every folder has; `obs["sample"]` names the folder.

    `say` is told how many genes are left out.
    """
    import anndata

    if len(folders) == 1 and "" in folders:
        return folders[""]
    for name, folder in folders.items():
        folder.var["symbol"] = folder.var_names.to_numpy()
        folder.var_names = folder.var["gene_ids"].astype(str)
        if len(twice := folder.var_names[folder.var_names.duplicated()]):
            raise UserError(f"{path / name}: lists the gene {twice[0]} twice. Give every gene an id of its own.")
    cells = anndata.concat(folders, label="sample", index_unique="-", merge="first")
    if not cells.n_vars:
        raise UserError(
            f"{path}: no gene id is in every folder ({', '.join(folders)}). Give folders of one annotation."
        )
    lost = {name: folder.n_vars - cells.n_vars for name, folder in folders.items() if folder.n_vars > cells.n_vars}
    if lost:
        said = ", ".join(f"{number} of {folders[name].n_vars} in {name}" for name, number in lost.items())
        say(f"left out: {path}: genes that not every folder has: {said}; {cells.n_vars} are shared")
    cells.var_names = cells.var["symbol"].astype(str)
    cells.var_names_make_unique()
    return cells


def conditions(cells: AnnData, column: str, path: Path) -> np.ndarray:
    """The condition of each cell, texts [N]; `UserError` where one is missing, or there are hardly fewer than cells."""
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
