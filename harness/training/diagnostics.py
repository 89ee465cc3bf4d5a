"""Diagnostics that the loss does not show: gradients and errors by noise level, kept on the device, fetched rarely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.core.rng import Streams, stream
from harness.flow.objective import Objective, Task
from harness.training.buffers import buffers_apart
from harness.training.distributed import Ranks

EDGES = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""Edges of the bins of log SNR; the first and the last bin are open."""
BINS = ("below_-6", *(f"{low:g}_to_{high:g}" for low, high in itertools.pairwise(EDGES)), "above_6")
WIDEST = 8.0
"""For gradients, the open bins end at minus and plus this log SNR."""
SAMPLES = 32
"""Samples per bin on which gradients are measured."""
GROUPS = 2
"""Equal groups of these samples; the variance compares their gradients."""
EXPLOSION = 1000.0
"""A step is skipped if its gradient norm is more than this many times the usual norm."""
YOUNG = 20
"""First steps in which no gradient is compared with the usual norm."""
MEMORY = 100
"""Steps over which the usual norm is averaged."""
_SMALLEST = -70.0
_LARGEST = 80.0
"""Bounds of the log of a norm: a norm of 0 counts as e^-70."""
TOGETHER = 64
"""Steps that are summed at a time, which saves a dozen small operations per step."""
_SCALARS = ("loss", "grad_norm", "transport_cost", "bad_steps", "clipped_share", "steps")


class Taken(NamedTuple):
    """What a step measured, on the device."""

    scalars: tuple[Tensor, ...]
    """Loss, norm of the gradient, transport cost, and whether the step is bad and changes nothing (1.0 or 0.0)."""
    samples: list[tuple[Tensor, Tensor]]
    """Errors [B] of samples at times t [B], by micro-batches."""
    coupling_seconds: float = 0.0
    """Seconds that it took to pair data and noise."""


class Meter:
    """Sums over steps, kept on the device until `fetch` reads them."""

    def __init__(self, log_snr: Callable[[Tensor], Tensor], clip_norm: float, device: str):
        self.log_snr = log_snr
        self.clip_norm = clip_norm
        self.edges = torch.tensor(EDGES, device=device)
        self.scalars = torch.zeros(len(_SCALARS), dtype=torch.float64, device=device)
        self.bins = torch.zeros(2, len(BINS), dtype=torch.float64, device=device)
        """Sums of errors (row 0) and numbers (row 1) of the samples of this rank, by bin."""
        self._steps: list[tuple[Tensor, ...]] = []
        self._samples: list[tuple[Tensor, Tensor]] = []

    def add(self, taken: Taken) -> None:
        """Add a step."""
        self._steps.append(taken.scalars)
        self._samples += taken.samples
        if len(self._steps) == TOGETHER:
            self.sum_up()

    def sum_up(self) -> None:
        """Update `scalars` and `bins`, one step after the other, so the sums do not depend on when this is called."""
        if self._samples:
            errors, t = map(torch.cat, zip(*self._samples, strict=True))
            where = torch.bucketize(self.log_snr(t), self.edges, right=True)
            self.bins.index_add_(1, where, torch.stack([errors, torch.ones_like(errors)]).double())
        if self._steps:
            rows = torch.stack([value for step in self._steps for value in step]).view(-1, 4)
            clipped = rows[:, 1] > self.clip_norm
            for row in torch.column_stack([rows, clipped, torch.ones_like(clipped)]).double():
                self.scalars += row
        self._steps = []
        self._samples = []

    def fetch(self, ranks: Ranks) -> dict[str, float]:
        """Return the means since the last fetch, without empty bins, and clear the sums."""
        self.sum_up()
        *means, steps = self.scalars.tolist()
        sums, numbers = ranks.sum(self.bins).tolist()
        line = {name: value / steps for name, value in zip(_SCALARS, means, strict=False) if name != "bad_steps"}
        line |= {f"loss_by_log_snr/{name}": s / n for name, s, n in zip(BINS, sums, numbers, strict=True) if n}
        self.clear()
        return line

    def clear(self) -> None:
        """Clear the sums."""
        self._steps = []
        self._samples = []
        self.scalars.zero_()
        self.bins.zero_()

    def bad(self) -> bool:
        """Whether a step since the last fetch was skipped as bad."""
        self.sum_up()
        return self.scalars[_SCALARS.index("bad_steps")].item() > 0


class Guard:
    """Finds, on the device, steps to skip: loss or gradient not finite, or gradient exploding."""

    def __init__(self, device: str):
        self.usual = torch.zeros((), device=device)
        """Running mean of the log of the norm, over about the last `MEMORY` steps."""

    def __call__(self, loss: Tensor, norm: Tensor, step: int) -> Tensor:
        """Return 1.0 for a step to skip, else 0.0, as a scalar; steps are counted from 0."""
        level = norm.log()
        limit = self.usual + math.log(EXPLOSION) if step >= YOUNG else _LARGEST
        good = level + 0 * loss <= limit  # false for NaN, also if only the loss is not finite
        self.usual.lerp_(torch.where(good, level, self.usual).clamp(min=_SMALLEST), 1 / min(step + 1, MEMORY))
        return 1 - good.float()


def gradients_by_noise(
    network: nn.Module, objective: Objective, x0: Tensor, y: Tensor | None, seed: int, step: int
) -> dict[str, float]:
    """Return the norm of the mean gradient and the variance of a sample's gradient, for every bin of log SNR.

    The variance is the trace of the covariance. Each bin takes `SAMPLES` of the encoded samples x0, with log SNR
    uniform in the bin. The weighting applies, and classes y are hidden as in training. Bins that the path does not
    reach are left out. The network runs in training mode; its buffers and gradients do not change. Nothing is returned
    for a perceptual loss, which is defined at t = 1 only.
    """
    if objective.perceptual:
        return {}
    weights = [w for w in network.parameters() if w.requires_grad]
    x0 = x0[:SAMPLES]
    y = None if y is None else y[:SAMPLES]
    out: dict[str, Tensor] = {}
    for name, (low, high) in zip(BINS, itertools.pairwise((-WIDEST, *EDGES, WIDEST)), strict=True):
        place = torch.rand(len(x0), generator=stream(seed, "bins", step, device=x0.device), device=x0.device)
        wanted = (low + (high - low) * place).double()
        times = objective.path.time_of_log_snr(wanted)
        if not torch.allclose(objective.path.log_snr(times), wanted, atol=0.1):
            continue
        task = objective.task(x0, Streams(seed, step, x0.device), y, times.float())
        mean = [torch.zeros_like(w) for w in weights]
        squares = torch.zeros((), device=x0.device)
        for i in range(GROUPS):  # Welford's algorithm, which holds two gradients
            apart = _gradient(objective, network, task.share(i, GROUPS), weights)
            torch._foreach_sub_(apart, mean)
            torch._foreach_add_(mean, apart, alpha=1 / (i + 1))
            squares += _norm(apart).square() * i / (i + 1)
        out[f"grad_norm_by_log_snr/{name}"] = _norm(mean)
        out[f"grad_variance_by_log_snr/{name}"] = squares / (GROUPS - 1) * (len(x0) // GROUPS)
    return dict(zip(out, torch.stack(list(out.values())).tolist(), strict=True))


def spread(samples: Tensor, real: Tensor) -> float:
    """Return the total sd of samples [N, ...] over the total sd of real ones [M, ...]; below 1 if modes are missing."""
    made, wanted = (x.double().flatten(1).var(0).sum().item() for x in (samples, real))
    return math.sqrt(made / wanted) if wanted else math.inf


def _gradient(objective: Objective, network: nn.Module, task: Task, weights: list[nn.Parameter]) -> list[Tensor]:
    with buffers_apart(network):
        gradient = torch.autograd.grad(objective.measure(network, task).loss, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradient, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tuple(tensors))).norm()
