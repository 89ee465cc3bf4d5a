"""Single cells: counts on disk, compared with plain NumPy, scanpy and scikit-learn."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import torch
from scipy import sparse
from scipy.io import mmwrite
from sklearn.decomposition import PCA

from harness.core.checkpoint import below, read_checkpoint
from harness.core.config import override
from harness.core.errors import UserError
from harness.core.registry import build
from harness.data import cells
from harness.data.base import Data, held_out, load
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.sample import restore, samples
from harness.runs.train import train

CELLS = 60
GENES = 40
HELD = held_out(CELLS, 5).numpy()
LAST_HELD = int(np.flatnonzero(HELD)[-1])


@pytest.fixture(autouse=True)
def unwalked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the process that first checks a file, which takes a quarter of a second; test_hostile_data.py tests it."""
    monkeypatch.setattr("harness.data.counts._refuse_crashing", lambda path: None)


def held(conditions: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return which cells are held out for these conditions, bool [N]."""
    return held_out(
        len(conditions), 5, torch.from_numpy(np.unique(np.asarray(conditions), return_inverse=True)[1])
    ).numpy()


def draw_counts(seed: int = 0) -> np.ndarray:
    """Return float32 [CELLS, GENES]: overdispersed, two populations, some count in every cell and every gene."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.7, 3, GENES) * np.where(np.arange(CELLS)[:, None] % 2, 1, rng.lognormal(0, 0.7, GENES))
    counts = rng.poisson(mean * rng.gamma(2, 0.5, (CELLS, GENES)))
    counts[np.arange(CELLS), np.arange(CELLS) % GENES] += 1
    return counts.astype(np.float32)


COUNTS = draw_counts()


def write_h5ad(
    path: Path, counts: Any = COUNTS, obs: dict[str, Any] | None = None, layers: dict[str, Any] | None = None
) -> Path:
    rows, columns = (COUNTS if counts is None else counts).shape
    with (
        pd.option_context("mode.string_storage", "python"),
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        table = pd.DataFrame(obs or {}, index=[f"cell {i}" for i in range(rows)])
        genes = pd.DataFrame(index=[f"gene {i}" for i in range(columns)])
        anndata.AnnData(counts, table, genes, layers=layers).write_h5ad(path)
    return path


def write_10x(folder: Path, counts: np.ndarray = COUNTS, gz: bool = False) -> Path:
    """Write the files of Cell Ranger: genes by cells; plain before version 3, later gzipped and with a third column."""
    folder.mkdir(parents=True)
    mmwrite(folder / "matrix.mtx", sparse.coo_matrix(counts.T.astype(int)))
    third = "\tGene Expression" if gz else ""
    tables = {
        "features.tsv" if gz else "genes.tsv": [f"ENSG{i}\tgene {i}{third}" for i in range(counts.shape[1])],
        "barcodes.tsv": [f"AAC{i}-1" for i in range(len(counts))],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    for path in list(folder.iterdir()) if gz else []:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


FOLDERS = np.arange(CELLS) >= 25


def split_by_donor(folder: Path) -> Path:
    """Write donors to folders whose names sort like the rows, next to an unrelated file."""
    for name, rows in (("a donor", slice(0, 25)), ("b donor", slice(25, CELLS))):
        write_10x(folder / name, COUNTS[rows])
    (folder / "readme.txt").write_text("two donors")
    (folder / "notes").mkdir()
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "sparse h5ad": lambda folder: write_h5ad(folder / "x.h5ad", sparse.csr_matrix(COUNTS)),
    "dense h5ad": lambda folder: write_h5ad(folder / "x.h5ad"),
    "h5ad by columns": lambda folder: write_h5ad(folder / "x.h5ad", sparse.csc_matrix(COUNTS)),
    "whole numbers": lambda folder: write_h5ad(folder / "x.h5ad", COUNTS.astype(np.int64)),
    "10x": lambda folder: write_10x(folder / "x"),
    "10x gzipped": lambda folder: write_10x(folder / "x", gz=True),
    "folder of 10x": lambda folder: split_by_donor(folder / "x"),
}


def load_cells(path: Path, **fields: Any) -> Data:
    cells._prepare.cache_clear()
    return build("dataset", {"name": "cells", "path": str(path), **fields}).load()


def whole(samples: Any) -> np.ndarray:
    return samples[torch.arange(len(samples))].double().numpy()


def log_normalised(counts: np.ndarray = COUNTS, target_sum: float = 10_000.0) -> np.ndarray:
    counts = counts.astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * target_sum)


def standardised(stored: np.ndarray = log_normalised()) -> np.ndarray:  # noqa: B008
    train = stored[~HELD]
    return (stored - train.mean(0)) / train.std(0)


def cut(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Set decoded values below half the smallest positive value of the training cells to zero."""
    return np.where(values > train[train > 0].min() / 2, values, 0)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_format_is_brought_to_the_logarithm_of_normalised_counts(
    writer: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = load_cells(writer(tmp_path), genes=0)
    expected = log_normalised()
    apart = HELD if data.classes is None else held(FOLDERS)
    assert (data.kind, data.shape, data.names) == ("cells", (GENES,), tuple(f"gene {i}" for i in range(GENES)))
    np.testing.assert_allclose(whole(data.train), expected[~apart], atol=1e-5)
    np.testing.assert_allclose(whole(data.held_out), expected[apart], atol=1e-5)


def test_all_formats_of_the_same_counts_are_the_same_data(tmp_path: Path) -> None:
    prints = []
    for number, (name, writer) in enumerate(WRITERS.items()):
        (folder := tmp_path / str(number)).mkdir()
        data = load_cells(writer(folder), genes=20)
        assert data.class_names == (("a donor", "b donor") if name == "folder of 10x" else ())
        prints.append(str({**data.fingerprint, "sha256": ""} if data.classes is not None else data.fingerprint))
    assert len(set(prints[:-1])) == 1


def test_every_cell_sums_to_the_target_sum(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, target_sum=500)
    np.testing.assert_allclose(np.expm1(whole(data.train)).sum(1), 500, rtol=1e-5)
    np.testing.assert_allclose(whole(data.held_out), log_normalised(target_sum=500)[HELD], atol=1e-5)


def test_cells_are_encoded_by_the_statistics_of_training_cells_alone(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0)
    encoded = data.encode(data.train[torch.arange(len(data.train))])
    assert encoded.dtype == torch.float32
    np.testing.assert_allclose(encoded, standardised()[~HELD], atol=1e-5)
    np.testing.assert_allclose(
        data.encode(data.held_out[torch.arange(len(data.held_out))]), standardised()[HELD], atol=1e-5
    )
    np.testing.assert_allclose(encoded.double().mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(encoded.double().std(0, unbiased=False), 1, atol=1e-5)
    assert torch.equal(data.some(), encoded)
    np.testing.assert_allclose(data.statistics["mean"], log_normalised()[~HELD].mean(0), atol=1e-5)
    np.testing.assert_allclose(data.statistics["std"], log_normalised()[~HELD].std(0), atol=1e-5)


def test_decoding_inverts_encoding_and_sets_tiny_values_to_zero(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0)
    stored = data.held_out[torch.arange(len(data.held_out))]
    decoded = data.decode(data.encode(stored))
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, stored, atol=1e-5, rtol=0)
    wild = 5 * torch.randn(200, GENES, generator=torch.Generator().manual_seed(0))
    train = log_normalised()[~HELD]
    np.testing.assert_allclose(data.decode(wild), cut(wild.numpy() * train.std(0) + train.mean(0), train), atol=1e-4)
    zero = -train.mean(0) / train.std(0)
    near = torch.from_numpy(
        np.stack([zero + share * train[train > 0].min() / train.std(0) for share in (-9, 0.49, 0.51)])
    ).float()
    assert [(row > 0).any().item() for row in data.decode(near)] == [False, False, True]
    assert (data.decode(near)[2] > 0).all()


def test_only_training_cells_and_chosen_genes_decide_which_values_are_tiny(tmp_path: Path) -> None:
    """A held-out cell and a gene that is not chosen have smaller values than all others."""
    counts = 20 * COUNTS
    counts[:, 5] = COUNTS[:, 5]
    counts[LAST_HELD, 1] = 1
    chosen = load_cells(write_h5ad(tmp_path / "x.h5ad", counts), genes=10)
    stored = log_normalised(counts)
    columns = [int(name.split()[1]) for name in chosen.names]
    assert 1 in columns
    assert 5 not in columns
    train = stored[~HELD][:, columns]
    assert max(stored[LAST_HELD, 1], stored[~HELD][:, 5][COUNTS[~HELD, 5] > 0].min()) < 0.8 * train[train > 0].min()
    wild = torch.linspace(-3, 3, 5000)[:, None].expand(-1, len(columns))
    values = wild.numpy() * train.std(0) + train.mean(0)
    np.testing.assert_allclose(chosen.decode(wild), cut(values, train), atol=1e-4)


def test_stored_zeros_change_nothing(tmp_path: Path) -> None:
    stored = sparse.csr_matrix(COUNTS + 1)
    stored.data -= 1
    assert stored.nnz == COUNTS.size
    plain = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0)
    padded = load_cells(write_h5ad(tmp_path / "y.h5ad", stored), genes=0)
    wild = 5 * torch.randn(200, GENES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(padded.decode(wild), plain.decode(wild))
    assert padded.fingerprint == plain.fingerprint


@pytest.mark.parametrize("genes", [1, 4, 25])
def test_the_genes_are_those_that_scanpy_finds_most_variable_among_training_cells(genes: int, tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[~HELD, 3] = 0  # varies only among the held-out cells
    counts[HELD, 3] += 50
    counts[:, 11] = 0
    data = load_cells(write_h5ad(tmp_path / "x.h5ad", counts), genes=genes)
    stored = log_normalised(counts)
    varying = np.flatnonzero(stored[~HELD].std(0) > 0)
    assert sorted({*range(GENES)} - {*varying.tolist()}) == [3, 11]

    def choice(rows: np.ndarray) -> list[int]:
        ranked = scanpy.pp.highly_variable_genes(
            anndata.AnnData(rows[:, varying].astype(np.float32)), n_top_genes=genes, inplace=False
        )
        return varying[ranked["highly_variable"].to_numpy()].tolist()

    expected = choice(stored[~HELD])
    assert len(expected) == genes, "no ties here"
    assert data.names == tuple(f"gene {i}" for i in expected)
    assert genes == 1 or choice(stored) != expected
    np.testing.assert_allclose(whole(data.train), stored[~HELD][:, expected], atol=1e-5)
    train = stored[~HELD][:, expected]
    np.testing.assert_allclose(
        data.encode(data.train[torch.arange(3)]), ((train - train.mean(0)) / train.std(0))[:3], atol=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "least"), [({}, 3), ({"min_cells": 1}, 1), ({"min_cells": 2}, 2), ({"min_cells": 4}, 4)], ids=str
)
def test_genes_of_a_few_training_cells_are_not_chosen(fields: dict[str, int], least: int, tmp_path: Path) -> None:
    """Genes 0 to 2 have high counts in one, two and three training cells and in every held-out cell."""
    counts = np.maximum(COUNTS, 1)
    counts[~HELD, :3] = 0
    for gene in range(3):
        counts[np.flatnonzero(~HELD)[: gene + 1], gene] = 500
    data = load_cells(write_h5ad(tmp_path / "x.h5ad", counts), genes=6, **fields)
    seen = np.flatnonzero((counts[~HELD] > 0).sum(0) >= least)
    assert len(seen) == GENES + 1 - min(least, 4)
    ranked = scanpy.pp.highly_variable_genes(
        anndata.AnnData(log_normalised(counts)[~HELD][:, seen].astype(np.float32)), n_top_genes=6, inplace=False
    )
    assert data.names == tuple(f"gene {i}" for i in seen[ranked["highly_variable"].to_numpy()])
    assert load_cells(tmp_path / "x.h5ad", genes=len(seen), **fields).names == tuple(f"gene {i}" for i in seen)
    with pytest.raises(
        UserError,
        match=rf"^dataset\.genes: 41 is more than the {len(seen)} genes that vary and have counts in {least} cells\.",
    ):
        load_cells(tmp_path / "x.h5ad", genes=41, **fields)
    assert len(load_cells(tmp_path / "x.h5ad", genes=0, **fields).names) == GENES


def test_components_are_orthonormal_and_of_unit_variance_over_training_cells(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, pca=6)
    assert data.shape == (6,)
    assert data.names == tuple(f"gene {i}" for i in range(GENES))
    axes = data.statistics["pca_axes"].double()
    torch.testing.assert_close(axes @ axes.T, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)
    encoded = data.some().double()
    torch.testing.assert_close(encoded.T.cov(), torch.eye(6, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-5, rtol=0)
    assert {"mean", "std", "pca_mean", "pca_axes", "pca_std"} == data.statistics.keys()


def test_components_are_those_of_scikit_learn(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, pca=6)
    reference = PCA(6, svd_solver="full").fit(standardised()[~HELD])
    scores = reference.transform(standardised()) / np.sqrt(reference.explained_variance_)
    for part_, rows in ((data.train, ~HELD), (data.held_out, HELD)):
        encoded = data.encode(part_[torch.arange(len(part_))]).double().numpy()
        signs = np.sign((encoded * scores[rows]).sum(0))
        np.testing.assert_allclose(encoded * signs, scores[rows], atol=1e-4)
    np.testing.assert_allclose(data.statistics["pca_std"].double() ** 2, reference.explained_variance_, rtol=1e-4)


def test_decoding_components_is_the_least_squares_projection(tmp_path: Path) -> None:
    """The expected values are the least-squares projection of standardised genes, converted to expression and cut
    below.
    """
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, pca=6)
    stored = log_normalised()
    train = log_normalised()[~HELD]
    centred = standardised() - standardised()[~HELD].mean(0)
    axes = data.statistics["pca_axes"].double().numpy()
    coefficients = np.linalg.lstsq(axes.T, centred.T, rcond=None)[0]
    projected = (axes.T @ coefficients).T + standardised()[~HELD].mean(0)
    expected = cut(projected * train.std(0) + train.mean(0), train)
    decoded = data.decode(data.encode(torch.from_numpy(stored).float())).double().numpy()
    np.testing.assert_allclose(decoded, expected, atol=2e-4)
    assert (decoded == 0).any()
    assert np.abs(decoded - stored).max() > 0.1
    again = data.encode(torch.from_numpy(projected * train.std(0) + train.mean(0)).float())
    torch.testing.assert_close(again, data.encode(torch.from_numpy(stored).float()), atol=1e-4, rtol=1e-4)


def test_as_many_components_as_genes_lose_nothing(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, pca=GENES)
    stored = data.held_out[torch.arange(len(data.held_out))]
    torch.testing.assert_close(data.decode(data.encode(stored)), stored, atol=1e-3, rtol=0)


def test_components_of_very_many_cells_are_fitted_on_evenly_spaced_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "LARGEST_FIT", 20)
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0, pca=4)
    reference = PCA(4, svd_solver="full").fit(standardised()[~HELD][::3])
    axes = data.statistics["pca_axes"].double().numpy()
    np.testing.assert_allclose(np.abs((axes * reference.components_).sum(1)), 1, atol=1e-5)
    monkeypatch.setattr(cells, "LARGEST_FIT", 48)
    all_of_them = load_cells(tmp_path / "x.h5ad", genes=0, pca=4).statistics["pca_axes"].double().numpy()
    np.testing.assert_allclose(
        np.abs((all_of_them * PCA(4).fit(standardised()[~HELD]).components_).sum(1)), 1, atol=1e-5
    )


DONORS = np.array(["beta", "alpha", "gamma"])[np.arange(CELLS) % 3]
CATEGORIES = pd.Categorical.from_codes(np.arange(CELLS) % 3, pd.Index(["beta", "alpha", "gamma"], dtype=object))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (DONORS, ("alpha", "beta", "gamma")),
        (CATEGORIES, ("alpha", "beta", "gamma")),
        (np.arange(CELLS) % 3, ("0", "1", "2")),
    ],
    ids=["texts", "categories", "numbers"],
)
def test_a_condition_is_a_class_by_the_order_of_its_name(values: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad", obs={"donor": values}), condition="donor", genes=0)
    assert data.class_names == names
    assert data.num_classes == 3
    assert data.classes is not None
    assert (data.classes.dtype, len(data.classes)) == (torch.int64, len(data.train))
    assert [names[i] for i in data.classes.tolist()] == [
        str(value) for value in np.asarray(values)[~held(np.asarray(values))]
    ]


def test_folders_of_10x_folders_are_the_conditions(tmp_path: Path) -> None:
    data = load_cells(split_by_donor(tmp_path / "x"), genes=0)
    assert data.class_names == ("a donor", "b donor")
    assert data.classes is not None
    assert data.classes.tolist() == FOLDERS[~held(FOLDERS)].astype(int).tolist()
    kept = load_cells(tmp_path / "x", genes=0, keep=["b donor"])
    assert kept.class_names == ("b donor",)
    np.testing.assert_allclose(whole(kept.train), log_normalised()[FOLDERS & ~held(FOLDERS)], atol=1e-5)


@pytest.mark.parametrize("pca", [0, 5])
@pytest.mark.parametrize("keep", [("alpha",), ("gamma", "alpha")], ids=str)
def test_keep_chooses_cells_and_leaves_genes_and_statistics_of_the_whole(
    keep: Sequence[str], pca: int, tmp_path: Path
) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": DONORS})
    every, kept = (load_cells(path, condition="donor", genes=12, pca=pca, keep=k) for k in ((), keep))
    assert kept.names == every.names
    assert kept.statistics.keys() == every.statistics.keys()
    assert all(torch.equal(kept.statistics[name], every.statistics[name]) for name in every.statistics)
    assert kept.class_names == tuple(sorted(keep))
    chosen = np.isin(DONORS, keep)
    apart = held(DONORS)
    assert np.array_equal(whole(kept.train), whole(every.train)[chosen[~apart]])
    assert np.array_equal(whole(kept.held_out), whole(every.held_out)[chosen[apart]])
    assert kept.classes is not None
    assert [kept.class_names[i] for i in kept.classes.tolist()] == DONORS[chosen & ~apart].tolist()
    probe = torch.rand(4, len(every.names), generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept.encode(probe), every.encode(probe))


def test_two_selections_read_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": DONORS})
    read = Mock(wraps=anndata.read_h5ad)
    monkeypatch.setattr(anndata, "read_h5ad", read)
    cells._prepare.cache_clear()
    for keep in ("alpha", "beta"):
        build("dataset", {"name": "cells", "path": str(path), "condition": "donor", "keep": [keep], "genes": 5}).load()
    read.assert_called_once_with(path)


def test_a_layer_replaces_an_x_without_counts(tmp_path: Path) -> None:
    path = write_h5ad(
        tmp_path / "x.h5ad", log_normalised(), layers={"counts": COUNTS, "doubled": sparse.csr_matrix(2 * COUNTS + 1)}
    )
    np.testing.assert_allclose(
        whole(load_cells(path, layer="counts", genes=0).train), log_normalised()[~HELD], atol=1e-5
    )
    doubled = log_normalised(2 * COUNTS + 1)
    np.testing.assert_allclose(whole(load_cells(path, layer="doubled", genes=0).train), doubled[~HELD], atol=1e-5)
    with pytest.raises(UserError, match="not whole numbers"):
        load_cells(path, genes=0)


def test_a_layer_is_enough_without_x(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", None, layers={"counts": COUNTS})
    np.testing.assert_allclose(
        whole(load_cells(path, layer="counts", genes=0).train), log_normalised()[~HELD], atol=1e-5
    )


def test_cells_stay_sparse_until_a_batch_is_asked_for(tmp_path: Path) -> None:
    data = load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=0)
    for rows, wanted in ((data.train, ~HELD), (data.held_out, HELD)):
        assert sparse.issparse(rows.expression)  # type: ignore[union-attr]
        assert rows.expression.dtype == np.float32  # type: ignore[union-attr]
        assert rows.expression.nnz == np.count_nonzero(COUNTS[wanted])  # type: ignore[union-attr]
    batch = data.train[torch.tensor([7, 0, 7])]
    assert (type(batch), batch.dtype, batch.shape) == (torch.Tensor, torch.float32, (3, GENES))
    assert torch.equal(batch[0], batch[2])
    np.testing.assert_allclose(batch, log_normalised()[~HELD][[7, 0, 7]], atol=1e-5)


def test_a_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    def sha(name: str, counts: np.ndarray = COUNTS, donors: np.ndarray = DONORS, **fields: Any) -> str | int:
        path = write_h5ad(tmp_path / f"{name}.h5ad", counts, {"donor": donors})
        return load_cells(path, **{"genes": 0, "condition": "donor", **fields}).fingerprint["sha256"]

    touched = COUNTS.copy()
    touched_held_out = COUNTS.copy()
    touched[np.flatnonzero(~held(DONORS))[0], 5] += 1
    touched_held_out[np.flatnonzero(held(DONORS))[0], 5] += 1
    swapped = COUNTS.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    prints = [
        sha("a"),
        sha("b", touched),
        sha("c", touched_held_out),
        sha("d", swapped),
        sha("e", donors=np.roll(DONORS, 1)),
        sha("f", condition=""),
        sha("g", keep=["alpha"]),
        sha("h", genes=12),
        sha("i", target_sum=500),
    ]
    assert len(set(prints)) == len(prints)
    assert sha("elsewhere") == prints[0]
    assert len(str(prints[0])) == 12


def test_a_relative_path_begins_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    write_h5ad(tmp_path / "lab" / "x.h5ad")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "lab"))
    assert len(load_cells(Path("x.h5ad"), genes=0).train) == 48
    with pytest.raises(
        UserError, match=rf"^dataset.path: {tmp_path}/lab/y.h5ad does not exist. Give an .h5ad file, a 10x folder"
    ):
        load_cells(Path("y.h5ad"))


def changed(row: int, column: int, value: float) -> np.ndarray:
    counts = COUNTS.astype(np.float64)
    counts[row, column] = value
    return counts


def columns_apart(constant: int) -> np.ndarray:
    counts = COUNTS.copy()
    counts[:, :constant] = 0
    return counts


@pytest.mark.parametrize(
    ("counts", "fields", "said"),
    [
        (changed(3, 2, np.nan), {}, r"x\.h5ad: 1 of its counts are NaN or infinite\. Give raw counts"),
        (changed(3, 2, np.inf), {}, r"x\.h5ad: 1 of its counts are NaN or infinite"),
        (changed(3, 2, -1), {}, r"x\.h5ad: 1 of its counts are negative"),
        (changed(3, 2, 0.5), {},
         r"x\.h5ad: 1 of its counts are not whole numbers\. Give raw counts; no layer holds them\.$"),
        (log_normalised(), {},
         r"of its counts are not whole numbers: they are log1p of normalised counts\. Give raw counts"),
        (np.expm1(log_normalised()), {}, r"of its counts are not whole numbers: they are normalised\. Give raw counts"),
        (sparse.csr_matrix(changed(3, 2, -1)), {}, "1 of its counts are negative"),
        (COUNTS * (np.arange(CELLS) != 7)[:, None], {}, r"x\.h5ad: 1 cells have no counts at all\. Filter them out\."),
        (columns_apart(2), {"genes": 0}, r"x\.h5ad: 2 genes never vary, like gene 0\. Set dataset\.genes"),
        (columns_apart(2), {"genes": 39},
         r"^dataset\.genes: 39 is more than the 38 genes that vary and have counts in 3 cells\. Choose"),
        (COUNTS, {}, r"^dataset\.genes: 1000 is more than the 40 genes that vary"),
        (COUNTS, {"genes": 0, "pca": 41},
         r"^dataset\.pca: 41 is more than 40, the most for these cells and genes\. Choose fewer\."),
        (COUNTS[:20], {"genes": 12, "pca": 17}, r"^dataset\.pca: 17 is more than 1[0-9], the most for these cells"),
        (COUNTS[:4], {"genes": 5}, "4 samples cannot be split into training samples and one in 5 held out"),
        (COUNTS[:1], {"genes": 5}, "1 sample cannot be split"),
        (COUNTS, {"condition": "donr"},
         r"^dataset\.condition: the cells have no column 'donr'\. Did you mean 'donor'\?"),
        (COUNTS, {"layer": "count"}, r"^dataset\.layer: the cells have no layer 'count'\. Did you mean 'counts'\?"),
        (COUNTS, {"genes": 5, "condition": "donor", "keep": ["d_"]},
         r"^dataset\.keep: no cell's condition is 'd_'\. Known: d0, d1\."),
        (COUNTS, {"genes": 5, "keep": ["d0"]},
         r"^dataset\.keep: these cells have no condition\. Name a column in dataset\.condition"),
        (COUNTS, {"genes": 5, "condition": "rare", "keep": ["z one"]},
         "1 cells to train on and 1 held out are too few. Keep more"),
        (COUNTS, {"genes": 5, "condition": "rare", "keep": ["a none held"]},
         "2 cells to train on and 0 held out are too few"),
    ],
    ids=[
        "NaN", "infinite", "negative", "half", "logarithms", "shares", "negative, sparse", "empty cell",
        "constant genes",
        "too many genes to choose",
        "default genes", "more components than genes", "more components than cells", "four cells", "one cell",
        "unknown condition",
        "unknown layer", "unknown keep", "keep without condition", "one cell kept", "none held out",
    ],
)  # fmt: skip
def test_wrong_counts_and_choices_are_refused_in_one_line(
    counts: Any, fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    rows = np.arange(counts.shape[0])
    rare = np.select([np.isin(rows, (0, 4)), np.isin(rows, (1, 2))], ["z one", "a none held"], "most")
    path = write_h5ad(
        tmp_path / "x.h5ad", counts, {"donor": [f"d{i % 2}" for i in rows], "rare": rare}, {"counts": counts}
    )
    with pytest.raises(UserError, match=said) as caught:
        load_cells(path, **fields)
    assert "\n" not in str(caught.value)


def test_two_cells_to_train_on_and_one_held_out_are_enough(tmp_path: Path) -> None:
    path = write_h5ad(
        tmp_path / "x.h5ad", obs={"donor": np.where(np.isin(np.arange(CELLS), (1, 2, 4)), "some", "most")}
    )
    data = load_cells(path, genes=5, condition="donor", keep=["some"])
    assert (len(data.train), len(data.held_out), data.num_classes) == (2, 1, 1)


def test_names_are_known_only_where_there_are_some(tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad")
    for field in ("condition", "layer"):
        with pytest.raises(UserError, match=rf"^dataset\.{field}: the cells have no \w+ 'x'\. There are none\."):
            load_cells(path, **{field: "x"})


@pytest.mark.parametrize("field", ["genes", "pca", "target_sum", "keep"])
def test_fields_outside_their_range_are_refused(field: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.{field}: "):
        load_cells(tmp_path, **{field: -1})


@pytest.mark.parametrize(
    "broken", ["cut", "text", "csv", "no genes", "no matrix", "few barcodes", "few genes", "torn gz"]
)
def test_files_without_cells_are_refused_by_name(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    said = r"cannot be read as cells \(.*\)\. Give an \.h5ad or a 10x folder\."
    if broken == "cut":
        path.write_bytes(write_h5ad(tmp_path / "whole.h5ad").read_bytes()[:3000])
    elif broken in ("text", "csv"):
        path.write_text("no cells" if broken == "text" else "gene 0,gene 1\n3,4\n")
    else:
        write_10x(path, gz=broken == "torn gz")
    if broken == "no genes":
        (path / "genes.tsv").unlink()
    elif broken == "no matrix":
        (path / "matrix.mtx").unlink()
        said = r"contains no 10x folder\. Give folders with matrix\.mtx, genes\.tsv and barcodes\.tsv\."
    elif broken == "few barcodes":
        (path / "barcodes.tsv").write_text("AAC1\n")
    elif broken == "few genes":
        (path / "genes.tsv").write_text("ENSG1\tgene 1\n")
    elif broken == "torn gz":
        (path / "matrix.mtx.gz").write_bytes((path / "matrix.mtx.gz").read_bytes()[:100])
    with pytest.raises(UserError, match=rf"^{path}: {said}") as caught:
        load_cells(path, genes=0)
    assert "\n" not in str(caught.value)


def test_one_damaged_folder_of_several_is_refused(tmp_path: Path) -> None:
    split_by_donor(tmp_path / "x")
    (tmp_path / "x" / "b donor" / "matrix.mtx").write_text(
        "%%MatrixMarket matrix coordinate integer general\n40 35 2\n1 1 x\n"
    )
    with pytest.raises(UserError, match="cannot be read as cells"):
        load_cells(tmp_path / "x", genes=0)


@pytest.mark.parametrize("counts", [None, COUNTS[:0]], ids=["no X", "no cells"])
def test_cells_without_counts_are_refused(counts: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load_cells(
            write_h5ad(tmp_path / "x.h5ad", counts, layers={"other": COUNTS} if counts is None else None), genes=0
        )


def test_no_component_without_variance_is_taken(tmp_path: Path) -> None:
    """There are as many components as training cells: centred cells span one dimension less."""
    data = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = load_cells(write_h5ad(tmp_path / "x.h5ad", COUNTS[:25]), genes=30, pca=20)
        except UserError:
            return
    np.testing.assert_allclose(data.some().double().std(0), 1, atol=1e-3)


@pytest.fixture
def run_on_cells(tiny: RunConfig, tmp_path: Path) -> RunConfig:
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": DONORS})
    changes = {
        "dataset": {"name": "cells", "path": str(path), "genes": 10, "condition": "donor", "keep": ["alpha"], "pca": 4},
        "backbone": {"name": "mlp", "width": 8, "blocks": 1},
        "train.batch_size": 8,
        "train.steps": 4,
        "evaluate.extractor": "values",
        "evaluate.metrics": ["sliced_wasserstein"],
    }
    load.cache_clear()
    return override(tiny, changes)


def test_statistics_travel_in_the_checkpoint(run_on_cells: RunConfig) -> None:
    run = Run.of(run_on_cells)
    train(run, lambda _: None, lambda: False)
    statistics = load(run_on_cells.dataset).statistics
    saved = below(read_checkpoint(run.folder / "checkpoints", "cpu")[1], "data")
    assert saved.keys() == statistics.keys() == {"mean", "std", "pca_mean", "pca_axes", "pca_std"}
    assert all(torch.equal(saved[name], statistics[name]) for name in saved)
    drawn = torch.cat([batch.x for batch in samples(run, restore(run), 2, 20)])
    assert drawn.shape == (20, len(load(run_on_cells.dataset).names))
    assert (drawn >= 0).all()


def test_a_moved_file_is_the_same_run(run_on_cells: RunConfig, tmp_path: Path) -> None:
    name = Run.of(run_on_cells).name
    (tmp_path / "x.h5ad").rename(tmp_path / "moved.h5ad")
    load.cache_clear()
    assert Run.of(override(run_on_cells, {"dataset.path": str(tmp_path / "moved.h5ad")})).name == name


@pytest.mark.parametrize("touched", ["alpha", "beta"])
def test_changed_cells_are_not_sampled_from_with_old_statistics(
    run_on_cells: RunConfig, touched: str, tmp_path: Path
) -> None:
    """Also if the changed cells are not among the kept cells."""
    run = Run.of(run_on_cells)
    train(run, lambda _: None, lambda: False)
    counts = COUNTS.copy()
    counts[touched == DONORS, 3] += 1
    write_h5ad(tmp_path / "x.h5ad", counts, {"donor": DONORS})
    load.cache_clear()
    cells._prepare.cache_clear()
    said = rf"^{run.name}: the data's \w+ has changed since training\. Restore the same data, or train again\.$"
    with pytest.raises(UserError, match=said):
        restore(run)
    with pytest.raises(UserError, match=rf"{run.name}: it was trained on other data"):
        Run.open(run.name)
