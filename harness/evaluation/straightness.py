"""How straight the paths are along which samples come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def straightness(points: Sequence[Tensor]) -> dict[str, float]:
    """`straightness` and `curvature` of paths through `points`, T tensors [B, ...] at equally spaced times; 0 is straight.

    Straightness is E int |dx/dt - (x_end - x_start)|^2 dt (Liu et al. 2023, eq. 9) relative to E |x_end - x_start|^2;
    curvature is the mean length of the change of dx/dt along the path, relative to that of the chord. Neither has a unit.
    """
    path = torch.stack([x.double().flatten(1) for x in points])
    velocity, chord = path.diff(dim=0) * (len(path) - 1), path[-1] - path[0]
    apart = (velocity - chord).square().sum(-1).mean() / chord.square().sum(-1).mean()
    turned = velocity.diff(dim=0).norm(dim=-1).sum(0).mean() / chord.norm(dim=-1).mean()
    return {"straightness": apart.item(), "curvature": turned.item()}
