"""Distances between two sets of vectors."""

from __future__ import annotations

from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 100, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of [N, D] and [M, D] (Bonneel et al. 2015), by POT on fixed random projections."""
    import ot

    return float(ot.sliced_wasserstein_distance(x.double().numpy(), y.double().numpy(), n_projections=projections, seed=seed))
