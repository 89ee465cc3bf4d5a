"""Promises of extractors and metrics.

Each function yields (promise, whether it is kept). An exception counts as one broken promise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import ConfigError
from harness.data.base import Data
from harness.evaluation.extractors import Extractor, features
from harness.evaluation.flow_metrics import Flow, FlowMetric, optimal_velocity
from harness.flow.formulation import Formulation
from harness.testing.probes import Promises, generator


def extractor(extractor: Any) -> Promises:
    """Promises of an extractor, tried on images of the first size that it reads."""
    fitting = [size for size in ((8, 8), (32, 32), (64, 64), (256, 256)) if _reads(extractor, size)]
    yield "the extractor reads images of 8x8, 32x32, 64x64 or 256x256", bool(fitting)
    weights = extractor.weights()
    yield "the file of weights exists, if weights() names one", weights is None or weights.is_file()
    network = extractor.load("cpu")
    for kind, channels in (("grey", 1), ("colour", 3)):
        shape = (5, channels, *fitting[0])
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator())
        before = images.clone()
        found, logits = features(network, images, "cpu")
        again, _ = features(network, images, "cpu")
        fewer, _ = features(network, images[:2], "cpu")
        of = f"({kind} images)"
        yield (
            f"features are float32 of shape [B, {extractor.dimensions}] {of}",
            tuple(found.shape) == (5, extractor.dimensions) and found.dtype == torch.float32,
        )
        yield (
            f"features are finite and carry no gradient {of}",
            bool(found.isfinite().all()) and not found.requires_grad,
        )
        yield f"the same images give the same features {of}", torch.equal(found, again)
        yield (
            f"the other images of a batch do not change an image's features {of}",
            torch.allclose(fewer, found[:2], rtol=1e-4, atol=1e-4 * found.abs().max().item()),
        )
        yield f"different images have different features {of}", not torch.equal(found[0], found[1])
        yield f"the extractor does not change the images {of}", torch.equal(images, before)
        yield (
            f"the network returns logits if and only if gives_logits() is True {of}",
            (logits is not None) == extractor.gives_logits(),
        )
        yield (
            f"logits are float32 of shape [B, K] {of}",
            logits is None or (logits.ndim == 2 and len(logits) == 5 and logits.dtype == torch.float32),
        )


def _reads(extractor: Extractor, size: tuple[int, int]) -> bool:
    """Whether an extractor accepts colour images of this height and width."""
    images = torch.zeros(2, 3, *size, dtype=torch.uint8)
    try:
        extractor.check(Data(images, images, torch.Tensor.float, torch.Tensor.byte, "image"))
    except ConfigError:
        return False
    return True


def metric(metric: Any) -> Promises:
    """Promises of a metric of samples or of the flow."""
    if isinstance(metric, FlowMetric):
        yield from _flow_metric(metric)
        return
    shape = (6, 2) if "sequence" in metric.kinds else (8,)
    samples = torch.randn(300, *shape, generator=generator(), dtype=torch.float64)
    classes = torch.arange(300) % 3
    samples[:, 0] += 3 * classes.view(-1, *[1] * (len(shape) - 1))
    summary = metric.of_reference.summarise(samples, classes)
    other = 3 * samples.cumsum(1) + 100
    near, again, far = (
        metric.compare(metric.summarise(values, classes), summary) for values in (samples, samples, other)
    )
    yield "comparing the same samples twice gives the same value", near == again
    yield "different samples have different values", near != far
    if metric.reference_is_best:
        yield (
            "samples equal to the reference score better than others",
            near < far if metric.lower_is_better else near > far,
        )


def _flow_metric(metric: Any) -> Promises:
    for of_each, classes in (("", None), (" of each class", torch.arange(60) % 3)):
        other = _flow(3, classes)
        best = replace(_flow(0, classes), field=partial(_optimal, other))
        near, far = (metric.measure(flow) for flow in (best, other))
        what = f"a short, straight flow along the optimal field{of_each} scores better than another flow"
        yield what, near < far if metric.lower_is_better else near > far


def _optimal(flow: Flow, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """Return the optimal velocity, at t >= 0.02: at t = 0 it exists only at the samples."""
    return optimal_velocity(x, t.clamp(min=0.02), y, flow).to(x)


def _flow(turn: float, classes: Tensor | None) -> Flow:
    """Return a flow with zero velocity whose paths bend by `turn`; 0 is straight."""
    real, start = torch.randn(2, 60, 4, generator=generator())

    def path(steps: int, number: int) -> list[Tensor]:
        times = (i / steps for i in range(steps + 1))
        return [start[:number] * (1 + 0.1 * t) + turn * torch.sin(torch.tensor(4 * t)) for t in times]

    given = (real, classes)
    return Flow(
        path, lambda x, t, y: 0 * x, Formulation(), torch.ones(()), lambda: given, lambda n: given, Tensor.float, 0
    )  # fmt: skip
