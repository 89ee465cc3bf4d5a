"""Promises of data sets, solvers and time grids.

Each function yields (promise, whether it is kept). An exception counts as one broken promise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.components.interpolants import Linear
from harness.flow.formulation import Formulation
from harness.flow.sampling import NetworkField, Trained
from harness.testing.probes import Promises, generator, like


def dataset(dataset: Any) -> Promises:
    data, again = (dataset.load() for _ in range(2))
    batch = data.train[torch.arange(min(64, len(data.train)))]
    yield "the data set has at least two training samples", len(data.train) > 1
    yield "loading the data set twice gives the same fingerprint", data.fingerprint == again.fingerprint
    encoded = data.encode(batch)
    yield "encoded samples are finite float32", encoded.dtype == torch.float32 and bool(encoded.isfinite().all())
    yield "decode inverts encode", torch.allclose(data.decode(encoded).double(), batch.double(), atol=1e-4)
    if data.augment:
        before = batch.clone()
        first, _, second = (data.augment(some, generator()) for some in (batch, batch[:7], batch))
        yield "augmentation with a generator in the same state gives the same samples", torch.equal(first, second)
        yield "augmentation does not change the stored samples", torch.equal(batch, before)


def solver(solver: Any) -> Promises:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x + t.view(-1, 1)

    nfe = 0 if solver.adaptive else solver.calls(8)
    times = torch.linspace(1, 0, solver.steps(nfe) + 1, dtype=torch.float64)
    start = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    ends = []
    for _ in range(2):
        field = NetworkField(Trained(network, Formulation(), {}))  # type: ignore[arg-type]
        ends.append(solver.integrate(field, start, times, generator()))
        yield "the solver makes as many calls of the network as `calls` says", solver.adaptive or field.calls == nfe
    yield "the result keeps the shape and dtype of the start", like(ends[0], start)
    yield "a generator in the same state gives the same result", torch.equal(ends[0], ends[1])


def time_grid(grid: Any) -> Promises:
    for steps in (1, 2, 7, 32):
        times = grid.times(steps, Linear())
        yield f"the grid of {steps} steps has {steps + 1} times", tuple(times.shape) == (steps + 1,)
        yield (
            f"the times of the grid of {steps} steps fall strictly from 1 to 0",
            times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all()),
        )
