"""Published statistics of features: a file's mean and covariance, held to what such statistics are."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import numpy as np

from harness.core.arrays import read_arrays
from harness.core.errors import ConfigError
from harness.core.files import short_hash
from harness.core.reading import Damaged, bytes_of
from harness.evaluation.metric import Summary

ASYMMETRY = 1e-5
"""Largest difference across the diagonal, relative to the largest entry: products in float32 leave less."""
NEGATIVE = 1e-7
"""Most negative eigenvalue, relative to the sum of all: rounding a covariance of few samples to float32 leaves less."""
REMEDY = "Name an .npz of a set's features' mean `mu` and covariance `sigma`."


def read_reference(path: str, dimensions: int) -> tuple[str, Summary]:
    """12 hex digits over a file, and its `mu` [D] and `sigma` [D, D] as float64.

    `ConfigError` when it cannot be read or holds no mean and covariance of D = `dimensions` features: real, finite, and
    sigma symmetric without a negative eigenvalue, which FID would turn into a negative distance. Nothing is unpickled.
    """
    try:
        content = bytes_of(Path(path))
    except (Damaged, OSError, ValueError) as error:
        raise ConfigError("evaluate.reference", f"{path} cannot be read ({error}). {REMEDY}") from None
    try:
        return short_hash(content), _statistics(content, dimensions)
    except ValueError as error:
        raise ConfigError("evaluate.reference", f"{path} {error}. {REMEDY}") from error


@functools.lru_cache(maxsize=2)
def _statistics(content: bytes, dimensions: int) -> Summary:
    """`ValueError` with what is wrong, as it goes on after the file's name."""
    mu, sigma = _arrays(content)
    if mu.shape != (dimensions,) or sigma.shape != (dimensions, dimensions):
        shapes = f"mu {list(mu.shape)} and sigma {list(sigma.shape)}"
        raise ValueError(f"holds {shapes}, and the extractor gives {dimensions} features")
    for name, array in (("mu", mu), ("sigma", sigma)):
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"holds {name} as {array.dtype}, which no mean or covariance of features is")
        if wrong := int((~np.isfinite(array)).sum()):
            raise ValueError(f"holds {wrong} values of {name} that are NaN or infinite")
    _refuse_no_covariance(sigma.astype(np.float64))
    return {"mu": mu.astype(np.float64), "sigma": sigma.astype(np.float64)}


def _arrays(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        arrays = read_arrays(content, only=("mu", "sigma"))  # some files hold the pictures too
    except Damaged as error:
        raise ValueError(f"is damaged, or no .npz of plain numbers: {error}") from error
    if len(arrays) == 2:
        return arrays["mu"], arrays["sigma"]
    held = [repr(name.removesuffix(".npy")) for name in zipfile.ZipFile(io.BytesIO(content)).namelist()]
    raise ValueError(f"holds {', '.join(held) or 'nothing'} and not mu and sigma")


def _refuse_no_covariance(sigma: np.ndarray) -> None:
    apart = np.abs(sigma - sigma.T).max()
    if apart > ASYMMETRY * np.abs(sigma).max():
        raise ValueError(
            f"holds a sigma that is not symmetric (entries across the diagonal differ by up to {apart:.3g})"
        )
    slack = NEGATIVE * np.trace(sigma)
    try:
        np.linalg.cholesky(sigma + slack * np.eye(len(sigma)))  # a tenth of the time that eigenvalues take
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(sigma)[0]
        if lowest < -slack:
            raise ValueError(
                f"holds a sigma that is no covariance (it has the negative eigenvalue {lowest:.3g})"
            ) from None
