"""What data sets, and the solvers, time grids and metrics of samples, promise.

Each function yields (promise, whether it is kept). An exception breaks the promise that it met.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.components.interpolants import Linear
from harness.evaluation.flow_metrics import Flow, optimal_velocity
from harness.flow.formulation import Formulation
from harness.flow.sampling import NetworkField, Trained
from harness.testing.probes import Promises, generator, like


def dataset(dataset: Any) -> Promises:
    data, again = dataset.load(), dataset.load()
    batch = data.train[torch.arange(min(64, len(data.train)))]
    yield "it holds samples to train on", len(data.train) > 1
    yield "it loads the same twice", data.fingerprint == again.fingerprint
    encoded = data.encode(batch)
    yield "encoded samples are finite float32", encoded.dtype == torch.float32 and bool(encoded.isfinite().all())
    yield "decode inverts encode", torch.allclose(data.decode(encoded).double(), batch.double(), atol=1e-4)
    if data.augment:
        before = batch.clone()
        first, _, second = (data.augment(some, generator()) for some in (batch, batch[:7], batch))
        yield "the generator alone decides what augmentation does", torch.equal(first, second)
        yield "augmentation leaves the stored samples as they were", torch.equal(batch, before)


def solver(solver: Any) -> Promises:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x + t.view(-1, 1)

    nfe = 0 if solver.adaptive else 8 * solver.calls_per_step
    times = torch.linspace(1, 0, solver.steps(nfe) + 1, dtype=torch.float64)
    start = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    ends = []
    for _ in range(2):
        field = NetworkField(Trained(network, Formulation(), {}))  # type: ignore[arg-type]
        ends.append(solver.integrate(field, start, times, generator()))
        yield "it spends the calls that it declares", solver.adaptive or field.calls == nfe
    yield "it keeps shape and dtype", like(ends[0], start)
    yield "the generator alone decides", torch.equal(ends[0], ends[1])


def time_grid(grid: Any) -> Promises:
    for steps in (1, 2, 7, 32):
        times = grid.times(steps, Linear())
        yield f"{steps} steps have {steps + 1} times", tuple(times.shape) == (steps + 1,)
        yield f"they fall from 1 to 0 ({steps})", times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())


def metric(metric: Any) -> Promises:
    if metric.reads == "flow":
        yield from _flow_metric(metric)
        return
    shape = (6, 2) if "sequence" in metric.kinds else (8,)
    samples = torch.randn(300, *shape, generator=generator(), dtype=torch.float64)
    classes = torch.arange(300) % 3
    samples[:, 0] += 3 * classes.view(-1, *[1] * (len(shape) - 1))
    summary = metric.of_reference.summarise(samples, classes)
    other = 3 * samples.cumsum(1) + 100
    near, far = (metric.compare(metric.summarise(values, classes), summary) for values in (samples, other))
    yield "two sets have two values", near != far
    if metric.reference_is_best:
        yield "a set against itself is better than another", near < far if metric.lower_is_better else near > far


def _flow_metric(metric: Any) -> Promises:
    for of_each, classes in (("", None), (" of each class", torch.arange(60) % 3)):
        other = _flow(3, classes)
        best = replace(_flow(0, classes), field=partial(optimal_velocity, flow=other))
        near, far = metric.measure(best), metric.measure(other)
        what = f"a short straight flow along the best field{of_each} is better than another"
        yield what, near < far if metric.lower_is_better else near > far


def _flow(turn: float, classes: Tensor | None) -> Flow:
    """Paths that turn so much, along no velocity."""
    real, start = torch.randn(2, 60, 4, generator=generator())

    def path(steps: int, number: int) -> list[Tensor]:
        times = (i / steps for i in range(steps + 1))
        return [start[:number] * (1 + 0.1 * t) + turn * torch.sin(torch.tensor(4 * t)) for t in times]

    return Flow(path, lambda x, t, y: 0 * x, Formulation(), torch.ones(()), lambda: (real, classes), 0)
