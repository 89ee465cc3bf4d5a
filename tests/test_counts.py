"""Inputs of cells as people have them: gene lists, conditions, layers and features, against counts written by hand."""

from __future__ import annotations

import contextlib
import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import torch
from scipy import sparse
from test_cells import (
    CELLS,
    COUNTS,
    DONORS,
    FOLDERS,
    GENES,
    HELD,
    held,
    load_cells,
    log_normalised,
    split_by_donor,
    whole,
    write_10x,
    write_h5ad,
)

from harness.core.errors import UserError
from harness.data import counts
from harness.data.base import Data
from harness.data.cells import _most_variable


@pytest.fixture(autouse=True)
def unwalked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the process that first checks a file, which takes a quarter of a second; test_hostile_data.py tests it."""
    monkeypatch.setattr("harness.data.counts._refuse_crashing", lambda path: None)


@contextlib.contextmanager
def writable_texts() -> Iterator[None]:
    """Set the options that anndata needs to write the texts of pandas 3."""
    with (
        pd.option_context("mode.string_storage", "python"),
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        yield


def refused(said: str, path: Path, **fields: Any) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_cells(path, **{"genes": 0, **fields})
    assert "\n" not in str(caught.value)


def shares(data: Data, number: int) -> list[tuple[int, int]]:
    """Return the numbers of training and held-out cells of each class."""
    assert data.classes is not None
    assert data.held_out_classes is not None
    parts = (torch.bincount(part, minlength=number).tolist() for part in (data.classes, data.held_out_classes))
    return list(zip(*parts, strict=True))


# The held-out cells


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6, 10])
def test_alternating_donors_each_have_their_share_held_out(period: int, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": [f"d{i % period}" for i in range(CELLS)]})
    for trained, apart in shares(load_cells(path, condition="donor", genes=0), period):
        assert trained + apart == CELLS // period
        assert abs(apart - CELLS / period / 5) < 1


def test_shares_are_kept_whatever_the_conditions_are() -> None:
    """Random conditions of all sizes, in any order."""
    rng = np.random.default_rng(0)
    for case in range(30):
        weights = rng.dirichlet(np.full(rng.integers(2, 9), 0.5))
        conditions = rng.choice(len(weights), 300, p=weights)
        apart = held(conditions)
        for value, size in Counter(conditions.tolist()).items():
            number = int(apart[conditions == value].sum())
            assert abs(number - size / 5) < 1, f"case {case}: {number} of {size} cells of condition {value}"
            assert number < size


@pytest.mark.parametrize("arranged", ["in turns", "one after the other", "by chance"])
def test_a_rare_condition_is_trained_on(arranged: str, tmp_path: Path) -> None:
    donors = np.array(["a"] * 40 + ["b"] * 19 + ["c"])
    order = {
        "in turns": np.argsort(np.arange(CELLS) % 5, kind="stable"),
        "by chance": np.random.default_rng(1).permutation(CELLS),
    }
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": donors[order.get(arranged, np.arange(CELLS))]})
    a, b, c = shares(load_cells(path, condition="donor", genes=0), 3)
    assert (a, c) == ((32, 8), (1, 0))
    assert b in ((15, 4), (16, 3))


# Genes that folders do not share, and the number of chosen genes


def test_cells_are_normalised_over_all_genes_of_their_folder(tmp_path: Path) -> None:
    write_10x(tmp_path / "x" / "a", COUNTS[:25])
    write_10x(tmp_path / "x" / "b", COUNTS[25:, :30])
    data = load_cells(tmp_path / "x", genes=0)
    expected = np.concatenate([log_normalised(COUNTS[:25])[:, :30], log_normalised(COUNTS[25:, :30])])
    assert data.names == tuple(f"gene {i}" for i in range(30))
    np.testing.assert_allclose(whole(data.train), expected[~held(FOLDERS)], atol=1e-5)
    np.testing.assert_allclose(whole(data.held_out), expected[held(FOLDERS)], atol=1e-5)
    assert data.notes == (f"left out: {tmp_path}/x: genes that are not in every folder: 10 of 40 in a; 30 are shared",)


def write_genes(folder: Path, genes: list[tuple[str, str]], counts: np.ndarray) -> Path:
    """Write a 10x folder of genes with these ids and names."""
    write_10x(folder, counts)
    (folder / "genes.tsv").write_text("".join(f"{gene}\t{name}\n" for gene, name in genes))
    return folder


def test_folders_share_genes_by_their_ids_and_not_by_their_names(tmp_path: Path) -> None:
    """Two genes have the same name. The second folder has only the second of them, with lines in another order."""
    first = write_genes(
        tmp_path / "a", [("E0", "twin"), ("E1", "twin"), ("E2", "other")], np.array([[1, 2, 3], [4, 5, 6]])
    )
    second = write_genes(tmp_path / "b", [("E2", "renamed"), ("E1", "twin")], np.array([[7, 8], [9, 1]]))
    parts = {name: counts.read(path, "", print)[""] for name, path in (("a", first), ("b", second))}
    cells = counts.joined(parts, tmp_path, print)
    assert dict(zip(cells.var["gene_ids"], cells.var_names, strict=True)) == {"E1": "twin-1", "E2": "other"}
    columns = [list(cells.var["gene_ids"]).index(gene) for gene in ("E1", "E2")]
    assert cells.X.toarray()[:, columns].tolist() == [[2, 3], [5, 6], [8, 7], [1, 9]]
    assert list(cells.obs["sample"]) == ["a", "a", "b", "b"]


def test_folders_of_other_annotations_are_refused(tmp_path: Path) -> None:
    write_10x(tmp_path / "x" / "a", COUNTS[:25])
    write_genes(tmp_path / "x" / "b", [(f"ENSG{i}.2", f"gene {i}") for i in range(GENES)], COUNTS[25:])
    refused(r"x: no gene id is in every folder \(a, b\)\. Give folders of one annotation\.$", tmp_path / "x")
    write_genes(tmp_path / "y" / "a", [(f"ENSG{i // 2}", f"gene {i}") for i in range(GENES)], COUNTS[:25])
    write_10x(tmp_path / "y" / "b", COUNTS[25:])
    refused(r"y/a: lists the gene ENSG0 twice\. Give every gene a different id\.$", tmp_path / "y")


def test_genes_of_one_name_stay_apart_in_a_single_folder(tmp_path: Path) -> None:
    names = ["MT", "MT", *(f"gene {i}" for i in range(2, GENES))]
    data = load_cells(
        write_genes(tmp_path / "x", [(f"ENSG{i}", name) for i, name in enumerate(names)], COUNTS), genes=0
    )
    assert data.names[:3] == ("MT", "MT-1", "gene 2")
    np.testing.assert_allclose(whole(data.train), log_normalised()[~HELD], atol=1e-5)


def test_exactly_as_many_genes_are_chosen_as_asked_for(tmp_path: Path) -> None:
    """scanpy takes more if genes are tied; here the first of the tied genes are chosen."""
    assert len(load_cells(write_h5ad(tmp_path / "x.h5ad"), genes=7, min_cells=1).names) == 7
    train = anndata.AnnData(log_normalised()[~HELD].astype(np.float32))
    tied = 0
    ranked = scanpy.pp.highly_variable_genes(train, n_top_genes=5, inplace=False)
    spread = ranked["dispersions_norm"].fillna(-np.inf).to_numpy()
    for number in (1, 4, 6, 7, 8, 11, 14, 20):
        chosen = np.isin(np.arange(GENES), _most_variable(train, number))
        assert chosen.sum() == number
        cutoff = spread[chosen].min()
        assert (spread[~chosen] <= cutoff + 1e-5).all(), number
        equal = np.flatnonzero(np.isclose(spread, cutoff, atol=1e-5, rtol=0))
        assert not np.diff(chosen[equal].astype(int)).max(initial=0) > 0, f"{number}: a later one of equal genes"
        tied += (spread >= cutoff).sum() > number
    assert tied > 2


# Conditions


def categories(codes: np.ndarray, *names: str, ordered: bool = False) -> pd.Categorical:
    """Return plain texts, as anndata writes them; -1 is missing."""
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object), ordered=ordered)


MISSING = {
    "None among texts": np.where(np.arange(CELLS) % 6 == 0, np.array(None), DONORS).astype(object),
    "None among categories": categories(
        np.where(np.arange(CELLS) % 6 == 0, -1, np.arange(CELLS) % 3), "beta", "alpha", "gamma"
    ),
    "NaN among numbers": np.where(np.arange(CELLS) % 6 == 0, np.nan, np.arange(CELLS) % 3),
    "the text nan": np.where(np.arange(CELLS) % 6 == 0, "nan", DONORS),
    "empty texts": np.where(np.arange(CELLS) % 6 == 0, "", DONORS),
    "blanks": np.where(np.arange(CELLS) % 6 == 0, "  ", DONORS),
    "missing integers": pd.array([None if i % 6 == 0 else i % 3 for i in range(CELLS)], dtype="Int64"),
    "missing booleans": pd.array([None if i % 6 == 0 else i % 2 == 0 for i in range(CELLS)], dtype="boolean"),
}


@pytest.mark.parametrize("values", MISSING.values(), ids=MISSING)
def test_missing_conditions_are_counted(values: Any, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path / "x.h5ad", obs={"donor": values})
    refused(
        rf"^{path}: 10 of 60 cells have no 'donor'\. Fill it in, or filter these cells out\.$", path, condition="donor"
    )
    assert load_cells(path, genes=0).classes is None, "a column that is not asked for may be anything"


def test_conditions_of_any_kind_are_classes_by_their_texts(tmp_path: Path) -> None:
    kinds: dict[str, tuple[Any, tuple[str, ...]]] = {
        "whole": (np.arange(CELLS) % 11, tuple(sorted(map(str, range(11))))),
        "decimal": (np.arange(CELLS) % 2 / 4, ("0.0", "0.25")),
        "boolean": (np.arange(CELLS) % 2 == 0, ("False", "True")),
        "ordered": (categories(np.arange(CELLS) % 2, "z", "a", ordered=True), ("a", "z")),
        "with a category of no cell": (categories(np.arange(CELLS) % 2, "x", "y", "z"), ("x", "y")),
        "untreated called None": (np.where(np.arange(CELLS) % 2, "None", "drug"), ("None", "drug")),
    }
    for kind, (values, names) in kinds.items():
        data = load_cells(write_h5ad(tmp_path / f"{kind}.h5ad", obs={"group": values}), condition="group", genes=0)
        assert data.class_names == names, kind


def test_a_column_of_measurements_is_not_a_condition(tmp_path: Path) -> None:
    path = write_h5ad(
        tmp_path / "x.h5ad",
        obs={"total": COUNTS.sum(1) + np.arange(CELLS) / 100, "name": [f"c{i}" for i in range(CELLS)]},
    )
    for column in ("total", "name"):
        refused(
            rf"^dataset\.condition: '{column}' has 60 values for 60 cells\. Name a column of groups\.$",
            path,
            condition=column,
        )


# The place of the counts


def write_raw(path: Path, raw: np.ndarray, x: np.ndarray, layers: dict[str, np.ndarray] | None = None) -> Path:
    """Write an .h5ad whose .raw has other genes than X."""
    with writable_texts():
        cells = anndata.AnnData(x.astype(np.float32), layers=layers)
        cells.raw = anndata.AnnData(
            raw.astype(np.float32), var=pd.DataFrame(index=[f"gene {i}" for i in range(raw.shape[1])])
        )
        cells.write_h5ad(path)
    return path


def test_counts_in_raw_are_chosen_by_name(tmp_path: Path) -> None:
    """Also if X has fewer genes."""
    for name, x in (("all", log_normalised()), ("some", log_normalised()[:, :7])):
        path = write_raw(tmp_path / f"{name}.h5ad", COUNTS, x)
        data = load_cells(path, layer="raw", genes=0)
        assert data.names == tuple(f"gene {i}" for i in range(GENES))
        np.testing.assert_allclose(whole(data.train), log_normalised()[~HELD], atol=1e-5)
        refused("Set dataset\\.layer=raw, which holds counts\\.$", path)
    refused(r"the cells have no layer 'rw'\. Did you mean 'raw'\?", path, layer="rw")


def test_a_layer_called_raw_goes_before_the_slot(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.h5ad", COUNTS, log_normalised(), {"raw": COUNTS + 1})
    np.testing.assert_allclose(
        whole(load_cells(path, layer="raw", genes=0).train), log_normalised(COUNTS + 1)[~HELD], atol=1e-5
    )


SCALED = (log_normalised() - log_normalised().mean(0)) / (log_normalised().std(0) + 1)


@pytest.mark.parametrize(
    ("x", "fields", "said"),
    [
        (log_normalised(), {}, "not whole numbers: they are log1p of normalised counts"),
        (np.expm1(log_normalised(target_sum=1e6)), {}, "not whole numbers: they are normalised"),
        (np.log1p(COUNTS), {}, "not whole numbers"),
        (SCALED, {}, "negative"),
        (COUNTS, {"layer": "scaled"}, "negative"),
    ],
    ids=["log1p", "per million", "log1p of counts", "scaled", "another layer"],
)
def test_the_refusal_names_every_place_that_holds_counts(
    x: np.ndarray, fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    layers = {"scaled": SCALED, "spliced": COUNTS, "mostly": COUNTS + 0.5 * (np.arange(GENES) == 3)}
    path = write_raw(tmp_path / "x.h5ad", COUNTS, x, layers)
    refused(
        rf"^{path}: \d+ of its counts are {said}\. Set dataset\.layer=raw or spliced, which holds counts\.$",
        path,
        **fields,
    )


def test_counts_that_are_stored_otherwise_are_the_same_counts(tmp_path: Path) -> None:
    """Integers and booleans of every width, negative zeros, and entries stored as several parts to be summed."""
    small = np.minimum(COUNTS, 100)
    twice = sparse.coo_matrix(small)
    halves = [np.floor(twice.data / 2), np.ceil(twice.data / 2)]
    order = np.argsort(np.tile(twice.row, 2), kind="stable")
    starts = np.concatenate([[0], np.cumsum(2 * np.bincount(twice.row, minlength=CELLS))])
    apart = sparse.csr_matrix((np.concatenate(halves)[order], np.tile(twice.col, 2)[order], starts), small.shape)
    negative = small.copy()
    negative[negative == 0] = -0.0
    forms = {
        kind: small.astype(kind)
        for kind in ("int8", "uint8", "int16", "uint32", "int64", "uint64", "float16", "float64")
    }
    forms |= {
        "stored apart": apart,
        "negative zeros": negative,
        "sparse int64": sparse.csr_matrix(small.astype(np.int64)),
    }
    expected = log_normalised(small)[~HELD]
    for kind, values in forms.items():
        np.testing.assert_allclose(
            whole(load_cells(write_h5ad(tmp_path / f"{kind}.h5ad", values), genes=0).train), expected, atol=1e-5
        )
    seen = np.random.default_rng(0).random((CELLS, GENES)) < 0.5
    data = load_cells(write_h5ad(tmp_path / "seen.h5ad", seen), genes=0)
    np.testing.assert_allclose(whole(data.train), log_normalised(seen)[~HELD], atol=1e-5)


def test_large_counts_keep_their_ratio_and_large_fractions_are_seen(tmp_path: Path) -> None:
    large = COUNTS.astype(np.int64)
    large[:, 5] += 2**24 + 1 + np.arange(CELLS) * 2**20
    data = load_cells(write_h5ad(tmp_path / "x.h5ad", large), genes=0)
    np.testing.assert_allclose(whole(data.train), log_normalised(large)[~HELD], atol=1e-5)
    fraction = COUNTS.astype(np.float64)
    fraction[3, 2] = 2**24 + 0.5  # a whole number in float32
    refused("1 of its counts are not whole numbers", write_h5ad(tmp_path / "y.h5ad", fraction))


def mixed_features(folder: Path) -> Path:
    """Write a gzipped 10x folder whose last ten features are nine antibodies and a guide."""
    write_10x(folder, COUNTS, gz=True)
    kinds = ["Gene Expression"] * 30 + ["Antibody Capture"] * 9 + ["CRISPR Guide Capture"]
    lines = "".join(f"ENSG{i}\tgene {i}\t{kind}\n" for i, kind in enumerate(kinds))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def as_h5ad(folder: Path) -> Path:
    with writable_texts():
        scanpy.read_10x_mtx(folder, gex_only=False).write_h5ad(folder.with_suffix(".h5ad"))
    return folder.with_suffix(".h5ad")


def as_10x_h5(folder: Path) -> Path:
    """Write the file that Cell Ranger 3 puts next to its folder."""
    cells = scanpy.read_10x_mtx(folder, gex_only=False)
    path = folder.with_suffix(".h5")
    matrix = sparse.csr_matrix(cells.X)
    with h5py.File(path, "w") as file:
        arrays = {
            "data": matrix.data.astype(np.int32),
            "indices": matrix.indices,
            "indptr": matrix.indptr,
            "shape": matrix.shape[::-1],
        }
        for name, array in arrays.items():
            file[f"matrix/{name}"] = array
        file["matrix/barcodes"] = np.array(cells.obs_names, dtype="S")
        for name, values in (
            ("id", cells.var["gene_ids"]),
            ("name", cells.var_names),
            ("feature_type", cells.var["feature_types"]),
        ):
            file[f"matrix/features/{name}"] = np.array(values, dtype="S")
        file["matrix/features/genome"] = np.array(["GRCh38"] * cells.n_vars, dtype="S")
    return path


@pytest.mark.parametrize("form", [lambda folder: folder, as_h5ad, as_10x_h5], ids=["10x folder", "h5ad", "10x h5"])
def test_features_that_are_not_genes_are_left_out_with_a_note(form: Any, tmp_path: Path) -> None:
    path = form(mixed_features(tmp_path / "x"))
    data = load_cells(path, genes=0)
    assert data.names == tuple(f"gene {i}" for i in range(30))
    np.testing.assert_allclose(whole(data.train), log_normalised(COUNTS[:, :30])[~HELD], atol=1e-5)
    assert data.notes == (
        f"left out: {path}: features that are not genes: 9 of 'Antibody Capture', 1 of 'CRISPR Guide Capture'",
    )


def test_features_of_several_kinds_without_genes_are_refused(tmp_path: Path) -> None:
    folder = write_10x(tmp_path / "x", COUNTS, gz=True)
    lines = "".join(f"E{i}\tf {i}\t{'Peaks' if i % 2 else 'Antibody Capture'}\n" for i in range(GENES))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    refused(
        "x: its features are 20 of 'Antibody Capture', 20 of 'Peaks', none of 'Gene Expression'\\. Keep "
        "features of one kind",
        folder,
    )


def test_folders_without_counts_are_reported_or_refused(tmp_path: Path) -> None:
    path = split_by_donor(tmp_path / "x")
    (path / ".cache").mkdir()
    data = load_cells(path, genes=0)
    assert data.notes == (f"left out: {path}/notes: holds no matrix.mtx",)
    write_10x(path / "c donor", COUNTS[:2] * 0)
    refused(rf"^{path}/c donor: 2 cells have no counts at all\. Filter them out\.$", path)
    (tmp_path / "empty").mkdir()
    refused("empty: contains no 10x folder", tmp_path / "empty")


def test_a_file_that_is_not_a_10x_h5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"no file of HDF")
    refused(r"x\.h5: cannot be read as cells \(", tmp_path / "x.h5")
    path = write_h5ad(tmp_path / "y.h5ad", COUNTS.astype(np.complex64))
    refused(r"y\.h5ad: holds no counts \(60 cells, 40 genes\)\. Give raw counts; no layer holds them\.$", path)
