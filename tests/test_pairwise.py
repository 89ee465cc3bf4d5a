"""All pairs of components of different families: a finite loss and gradient, or a refusal."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_step import one_step
from torch import Tensor, nn

from harness.core.errors import ConfigError
from harness.core.registry import build, names
from harness.data.base import Data, Dataset
from harness.flow.formulation import Formulation
from harness.flow.objective import Objective

FAMILIES = ("interpolant", "prediction", "weighting", "loss", "time_sampler", "noise", "coupling")
OF_ANOTHER_ERROR = {
    f"weighting {name}" for name in names("weighting") if build("weighting", name).stated_for not in ("any", "velocity")
}
"""Weightings that only a squared loss can convert into weights of the velocity error."""
REFUSED = {
    frozenset({"prediction score", f"noise {name}"}) for name in ("sparse", "student_t", "laplace", "uniform", "pruned",
     "population")
} | {frozenset({"prediction score", f"coupling {name}"}) for name in ("exact_ot", "sinkhorn", "class_conditional_ot",
 "pairs")} | {frozenset({name, "loss pseudo_huber"}) for name in OF_ANOTHER_ERROR}  # fmt: skip
X0 = 0.8 * torch.randn(16, 1, 2, 2, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """The network a x + b t."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.b = nn.Parameter(torch.tensor(-0.25))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.a * x + self.b * t.view(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Dataset):
    """The same number of other samples, of the same shape."""

    def load(self) -> Data:
        return Data(0.5 - X0, X0, torch.Tensor.float, torch.Tensor.float, "image")


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, str]:
    for name, x in (("x0", X0), ("x1", X0.flip(0))):
        np.save(tmp_path / f"{name}.npy", x.numpy())
    return {"name": "pairs", "path": str(tmp_path)}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(FAMILIES, 2)))
@pytest.mark.parametrize("space", ["output", "velocity"])
def test_two_members_go_together_or_are_refused(first: str, second: str, space: str, pairs: dict[str, str]) -> None:
    needed = {
        "pairs": pairs,
        "population": {"name": "population", "dataset": Elsewhere()},
        "sinkhorn": {"name": "sinkhorn", "reg": 1.0},  # it ends after a few iterations
    }
    refused = set()
    for one, other in itertools.product(names(first), names(second)):
        spec: dict[str, Any] = {first: one, second: other, "objective": {"space": space, "normalise_weight": False}}
        spec = {family: needed.get(value, value) if isinstance(value, str) else value for family, value in spec.items()}
        try:
            made = Formulation.parse(spec)
        except ConfigError:
            refused.add(frozenset({f"{first} {one}", f"{second} {other}"}))
            continue
        network = Network()
        loss = one_step(Objective(made, made.noise.fit(X0)), network, X0, 1, 2, torch.arange(16) % 3).loss
        loss.backward()
        assert loss.isfinite(), spec
        assert all(p.grad is not None and p.grad.isfinite() and p.grad != 0 for p in network.parameters()), spec
    assert refused == {pair for pair in REFUSED if {word.split()[0] for word in pair} == {first, second}}
