"""Single-cell gene expression: counts as users have them, normalised, as log1p and standardised per gene.

Counts stay sparse until a batch is asked for. Normalising and choosing genes is scanpy's work.
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
"""Cells that principal components are fitted on at most."""


@dataclass(frozen=True, kw_only=True)
class Cells(Dataset, name="cells"):
    """Counts of single cells: an .h5ad, a 10x .h5 or folder, or a folder of 10x folders.

    A 10x folder holds matrix.mtx, genes.tsv and barcodes.tsv. Of folders whose genes differ, the genes are taken that
    all have. Stored is log1p of counts brought to the same sum in every cell, over all genes that the cell was counted
    for; decoding sets to zero what lies below half the smallest positive value, as a model of densities hits no value
    exactly. One cell in five, of each condition, is held out; genes are chosen, and their statistics taken, over the
    others, before `keep`: two selections from one path share them.
    """

    source: ClassVar[str] = "the preprocessing of scanpy (Wolf et al. 2018)"

    path: str = field(metadata=RUN_ONLY)
    """The file or folder; relative paths begin in HARNESS_DATA, or else in data/."""
    condition: str = ""
    """Column of an .h5ad's obs that is a cell's class (donor, disease). In a folder of 10x folders the folder is."""
    keep: tuple[str, ...] = ()
    """Conditions whose cells are trained on; empty for all."""
    layer: str = ""
    """Layer of an .h5ad that holds the raw counts; empty for X, "raw" for .raw where no layer is called so."""
    genes: Index = 1000
    """Highly variable genes to choose; 0 for all."""
    min_cells: Count = 3
    """Training cells that a chosen gene is seen in at least: a gene of a few cells has a standard deviation that
    means little."""
    target_sum: Positive = 10_000.0
    """Sum that the counts of every cell are brought to."""
    pca: Index = 0
    """Principal components that the network sees instead of genes, each of unit variance; 0 for the genes
    themselves."""

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
        """Which cells are kept, bool [N]; the class of each, int64 [N]; the classes' names."""
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
    """log1p expression, float32 [N, G]: rows of a sparse matrix, dense when asked for."""

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
    """All cells of a path, before a condition is chosen."""

    expression: csr_matrix
    """float32 [N, G] of the chosen genes."""
    conditions: np.ndarray | None
    """The condition of each cell, texts [N]."""
    genes: tuple[str, ...]
    apart: np.ndarray
    """Which cells are held out, bool [N]."""
    scale: Standardise
    smallest: float
    """The smallest positive value of the training cells."""
    notes: tuple[str, ...]
    """What was left out, a line each."""


class Projection:
    """Standardised genes to principal components of unit variance, fitted on training cells; and back."""

    def __init__(self, cells: Prepared, components: int):
        from sklearn.decomposition import PCA

        train = np.flatnonzero(~cells.apart)
        chosen = train[:: -(-len(train) // LARGEST_FIT)]
        standardised = cells.scale.encode(torch.from_numpy(cells.expression[chosen].toarray()))
        if components > (most := min(len(standardised) - 1, standardised.shape[1])):
            raise ConfigError(
                "dataset.pca", f"{components} is more than the {most} that these cells and genes have. Choose fewer."
            )
        fitted = PCA(components, svd_solver="covariance_eigh", whiten=True).fit(standardised.double().numpy())
        self.scale = cells.scale
        self.mean = torch.from_numpy(fitted.mean_)
        self.axes = torch.from_numpy(fitted.components_)
        self.std = torch.from_numpy(fitted.explained_variance_).sqrt()
        own = {"pca_mean": self.mean.float(), "pca_axes": self.axes.float(), "pca_std": self.std.float()}
        self.statistics = {**cells.scale.statistics, **own}

    def encode(self, x: Tensor) -> Tensor:
        """log1p expression [B, G] to float32 [B, components]."""
        mean, axes, std = self._on(x.device)
        return ((self.scale.encode(x).double() - mean) @ axes.T / std).float()

    def decode(self, x: Tensor) -> Tensor:
        """[B, components] to log1p expression [B, G]."""
        mean, axes, std = self._on(x.device)
        return self.scale.decode((x.double() * std) @ axes + mean)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The statistics, which stay where they were asked for last."""
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
                f"{genes} is more than the {len(seen)} genes that vary and are seen in {min_cells} cells. "
                "Choose fewer.",
            )
        chosen = seen[_most_variable(cells[~apart][:, seen], genes)]
    constant = chosen[variance[chosen] == 0]
    if len(constant):
        first = cells.var_names[constant[0]]
        raise UserError(
            f"{path}: {len(constant)} genes never vary, like {first}. Set dataset.genes to choose those that do."
        )
    scale = Standardise(torch.from_numpy(mean[chosen]), torch.from_numpy(variance[chosen]).sqrt())
    smallest = float(expression[~apart][:, chosen].data.min())  # sparse: the positive ones
    names = tuple(map(str, cells.var_names[chosen]))
    return Prepared(expression[:, chosen], conditions, names, apart, scale, smallest, tuple(notes))


def _most_variable(cells: AnnData, number: int) -> np.ndarray:
    """Which genes vary most by scanpy's measure, int64 [number], rising; of equal ones, to six decimals, the first."""
    import scanpy

    ranked = scanpy.pp.highly_variable_genes(cells, n_top_genes=number, inplace=False)
    spread = ranked["dispersions_norm"].fillna(-np.inf).to_numpy()
    return np.sort(np.argsort(-spread.round(6), kind="stable")[:number])
