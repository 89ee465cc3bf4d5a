"""Single-cell gene expression: raw counts are normalised, mapped by log1p, and standardised per gene.

Counts stay sparse until a batch is requested. Scanpy normalises the counts and chooses the genes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.config import RUN_ONLY, Count, Index, Positive
from harness.core.errors import ConfigError, UserError, did_you_mean
from harness.data import counts
from harness.data.base import Data, Dataset, Standardise, existing, held_out, parted

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

LARGEST_FIT = 20_000
"""Maximum number of cells for the fit of the principal components."""


@dataclass(frozen=True, kw_only=True)
class Cells(Dataset, name="cells"):
    """Counts of single cells: an .h5ad, a 10x .h5 or folder, or a folder of 10x folders.

    A 10x folder holds matrix.mtx, genes.tsv and barcodes.tsv. If folders have different genes, only the genes of all
    folders are used. The counts of every cell are scaled to the same sum, over all genes of its folder, and stored as
    log1p. Decoding sets values below half the smallest positive value to zero: a model of densities never produces an
    exact zero. One cell in five, of each condition, is held out. Genes are chosen and standardised by the other cells,
    before `keep` is applied: two selections from one path share genes and statistics.
    """

    source: ClassVar[str] = "the preprocessing of scanpy (Wolf et al. 2018)"

    path: str = field(metadata=RUN_ONLY)
    """The file or folder; relative paths begin in HARNESS_DATA, or else in data/."""
    condition: str = ""
    """Column of an .h5ad's obs with the class of each cell (donor, disease). In a folder of 10x folders, the class of
    a cell is its folder."""
    keep: tuple[str, ...] = ()
    """Conditions whose cells are used; empty for all."""
    layer: str = ""
    """Layer of an .h5ad that holds the raw counts; empty for X. "raw" means .raw if no layer has that name."""
    genes: Index = 1000
    """Highly variable genes to choose; 0 for all."""
    min_cells: Count = 3
    """Minimum number of training cells with counts of a chosen gene: the standard deviation of a gene in very few
    cells is unreliable."""
    target_sum: Positive = 10_000.0
    """Sum to which the counts of every cell are scaled."""
    pca: Index = 0
    """Number of principal components, each of unit variance, that the network gets instead of genes; 0 for genes."""

    def load(self) -> Data:
        path = existing(self.path, "an .h5ad file, a 10x folder or a folder of them")
        cells = _prepare(path, self.condition, self.layer, self.genes, self.min_cells, self.target_sum)
        kept, classes, class_names = self._kept(cells)
        train, held = (Rows(cells.expression[kept & (cells.apart == apart)]) for apart in (False, True))
        if len(train) < 2 or not len(held):
            raise UserError(
                f"{path}: {len(train)} cells to train on and {len(held)} held out are too few. Keep more conditions."
            )
        scale = Projection(cells, self.pca) if self.pca else cells.scale
        labels = None if classes is None else torch.from_numpy(classes[kept])
        return Data(
            train, held, scale.encode, lambda x: F.threshold(scale.decode(x), cells.smallest / 2, 0.0), "cells",
            *parted(labels, torch.from_numpy(cells.apart[kept])), class_names, cells.genes,
            statistics=scale.statistics, notes=cells.notes,
        )  # fmt: skip

    def _kept(self, cells: Prepared) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
        """Return which cells are kept, bool [N]; the class of each, int64 [N], or None; and the classes' names."""
        if cells.conditions is None:
            if self.keep:
                raise ConfigError(
                    "dataset.keep",
                    "these cells have no condition. Name a column in dataset.condition, or give a folder of folders.",
                )
            return np.ones(len(cells.apart), dtype=bool), None, ()
        known = sorted(set(cells.conditions))
        for name in self.keep:
            if name not in known:
                raise ConfigError("dataset.keep", f"no cell's condition is '{name}'. {did_you_mean(name, known)}")
        names = tuple(name for name in known if not self.keep or name in self.keep)
        numbers = {name: number for number, name in enumerate(names)}
        classes = np.array([numbers.get(condition, -1) for condition in cells.conditions], dtype=np.int64)
        return classes >= 0, classes, names


class Rows:
    """log1p expression, float32 [N, G], stored as a sparse matrix; requested rows are dense."""

    workers = 0

    def __init__(self, expression: csr_matrix):
        self.expression = expression

    def __len__(self) -> int:
        return self.expression.shape[0]

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self.expression[indices.numpy()].toarray())

    def content(self) -> Iterator[bytes]:
        yield f"rows {self.expression.shape};".encode()
        for array in (self.expression.data, self.expression.indices, self.expression.indptr):
            yield array.tobytes()


@dataclass(frozen=True)
class Prepared:
    """All cells of a path, before `keep` selects conditions."""

    expression: csr_matrix
    """log1p expression of the chosen genes, float32 [N, G]."""
    conditions: np.ndarray | None
    """The condition of each cell, texts [N]."""
    genes: tuple[str, ...]
    apart: np.ndarray
    """Which cells are held out, bool [N]."""
    scale: Standardise
    smallest: float
    """The smallest positive value of the training cells."""
    notes: tuple[str, ...]
    """Lines that say what was left out."""


class Projection:
    """Map standardised genes to principal components of unit variance, and back; fitted on training cells."""

    def __init__(self, cells: Prepared, components: int):
        from sklearn.decomposition import PCA

        train = np.flatnonzero(~cells.apart)
        chosen = train[:: -(-len(train) // LARGEST_FIT)]
        standardised = cells.scale.encode(torch.from_numpy(cells.expression[chosen].toarray()))
        if components > (most := min(len(standardised) - 1, standardised.shape[1])):
            raise ConfigError(
                "dataset.pca", f"{components} is more than {most}, the most for these cells and genes. Choose fewer."
            )
        fitted = PCA(components, svd_solver="covariance_eigh", whiten=True).fit(standardised.double().numpy())
        self.scale = cells.scale
        self.mean = torch.from_numpy(fitted.mean_)
        self.axes = torch.from_numpy(fitted.components_)
        self.std = torch.from_numpy(fitted.explained_variance_).sqrt()
        own = {"pca_mean": self.mean.float(), "pca_axes": self.axes.float(), "pca_std": self.std.float()}
        self.statistics = {**cells.scale.statistics, **own}

    def encode(self, x: Tensor) -> Tensor:
        """Map log1p expression [B, G] to float32 [B, components]."""
        mean, axes, std = self._on(x.device)
        return ((self.scale.encode(x).double() - mean) @ axes.T / std).float()

    def decode(self, x: Tensor) -> Tensor:
        """Map [B, components] to log1p expression, float32 [B, G]."""
        mean, axes, std = self._on(x.device)
        return self.scale.decode((x.double() * std) @ axes + mean)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the statistics on a device, and keep them there."""
        self.mean = self.mean.to(device)
        self.axes = self.axes.to(device)
        self.std = self.std.to(device)
        return self.mean, self.axes, self.std


@functools.lru_cache(maxsize=2)
def _prepare(path: Path, condition: str, layer: str, genes: int, min_cells: int, target_sum: float) -> Prepared:
    import scanpy
    from scipy.sparse import csr_matrix
    from sklearn.utils.sparsefuncs import mean_variance_axis

    notes = list[str]()
    folders = counts.read(path, layer, notes.append)
    for counted in folders.values():
        scanpy.pp.normalize_total(counted, target_sum=target_sum)  # over all genes of a folder, shared or not
    cells = counts.joined(folders, path, notes.append)
    scanpy.pp.log1p(cells)
    column = condition or ("" if "" in folders else "sample")
    conditions = counts.conditions(cells, column, path) if column else None
    strata = None if conditions is None else torch.from_numpy(np.unique(conditions, return_inverse=True)[1])
    apart = held_out(cells.n_obs, 5, strata).numpy()
    expression = csr_matrix(cells.X, dtype=np.float32)
    mean, variance = mean_variance_axis(expression[~apart].astype(np.float64), axis=0)
    chosen = np.arange(cells.n_vars)
    if genes:
        seen = np.flatnonzero((variance > 0) & (expression[~apart].getnnz(axis=0) >= min_cells))
        if genes > len(seen):
            raise ConfigError(
                "dataset.genes",
                f"{genes} is more than the {len(seen)} genes that vary and have counts in {min_cells} cells. "
                "Choose fewer.",
            )
        chosen = seen[_most_variable(cells[~apart][:, seen], genes)]
    constant = chosen[variance[chosen] == 0]
    if len(constant):
        first = cells.var_names[constant[0]]
        raise UserError(
            f"{path}: {len(constant)} genes never vary, like {first}. Set dataset.genes to choose genes that vary."
        )
    scale = Standardise(torch.from_numpy(mean[chosen]), torch.from_numpy(variance[chosen]).sqrt())
    smallest = float(expression[~apart][:, chosen].data.min())  # a sparse matrix stores only the positive values
    names = tuple(map(str, cells.var_names[chosen]))
    return Prepared(expression[:, chosen], conditions, names, apart, scale, smallest, tuple(notes))


def _most_variable(cells: AnnData, number: int) -> np.ndarray:
    """Return the indices of the most variable genes by scanpy's measure, int64 [number], ascending.

    Of genes that are equal to six decimals, the first are taken.
    """
    import scanpy

    ranked = scanpy.pp.highly_variable_genes(cells, n_top_genes=number, inplace=False)
    spread = ranked["dispersions_norm"].fillna(-np.inf).to_numpy()
    return np.sort(np.argsort(-spread.round(6), kind="stable")[:number])
