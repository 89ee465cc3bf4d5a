"""Read and check a file of published feature statistics: the mean and covariance."""

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
"""Largest allowed difference across the diagonal, relative to the largest entry; float32 products stay below it."""
NEGATIVE = 1e-7
"""Most negative eigenvalue allowed, relative to the trace; a covariance of few samples in float32 stays below it."""
REMEDY = "Give an .npz file with the mean `mu` and the covariance `sigma` of features."


def read_reference(path: str, dimensions: int) -> tuple[str, Summary]:
    """Return the hash (12 hex digits) of a file, and its `mu` [D] and `sigma` [D, D] as float64.

    `ConfigError` if the file cannot be read or holds no mean and covariance of D = `dimensions` features. Both must be
    real and finite, and sigma symmetric. It must have no negative eigenvalue, which would make FID negative. Nothing is
    unpickled.
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
    """Return `mu` and `sigma`; a `ValueError` says what is wrong, in words that follow the file's name."""
    mu, sigma = _arrays(content)
    if mu.shape != (dimensions,) or sigma.shape != (dimensions, dimensions):
        shapes = f"mu {list(mu.shape)} and sigma {list(sigma.shape)}"
        raise ValueError(f"holds {shapes}, and the extractor gives {dimensions} features")
    for name, array in (("mu", mu), ("sigma", sigma)):
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"holds {name} as {array.dtype}, but it must be floating point")
        if wrong := int((~np.isfinite(array)).sum()):
            raise ValueError(f"holds {wrong} values of {name} that are NaN or infinite")
    _refuse_no_covariance(sigma.astype(np.float64))
    return {"mu": mu.astype(np.float64), "sigma": sigma.astype(np.float64)}


def _arrays(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        arrays = read_arrays(content, only=("mu", "sigma"))  # some files hold the images too
    except Damaged as error:
        raise ValueError(f"is damaged or is not an .npz file of plain numbers: {error}") from error
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
        np.linalg.cholesky(sigma + slack * np.eye(len(sigma)))  # ten times as fast as computing eigenvalues
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(sigma)[0]
        if lowest < -slack:
            raise ValueError(
                f"holds a sigma that is not a covariance (it has the negative eigenvalue {lowest:.3g})"
            ) from None
