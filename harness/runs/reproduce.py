"""Train a finished run again from its record, beside it, and compare the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from harness.core.checkpoint import read_checkpoint
from harness.core.files import results_folder
from harness.core.provenance import machine
from harness.core.signals import Say, Stop
from harness.runs.folder import Run
from harness.runs.train import train


class Comparison(NamedTuple):
    """A finished run beside its reproduction."""

    tensors: int
    """Number of tensors in the last checkpoint: weights, averages, moments of the optimizer."""
    differences: list[str]
    """Each difference in words; empty if all tensors and losses are the same, bit for bit."""


def again(run: Run) -> Run:
    """Return the run's reproduction, in a folder of its name in results/local/reproduced."""
    return Run(run.config, results_folder() / "local" / "reproduced" / run.name)


def reproduce(run: Run, say: Say, stop: Stop) -> Comparison:
    """Train the reproduction as far as it is not done yet, and compare. A flow's teacher and pairs are not made again.

    `UserError` if the run is not finished.
    """
    run.require_finished()
    train(again(run), say, stop)
    return compare(run, again(run))


def compare(run: Run, other: Run) -> Comparison:
    """Compare two finished runs of one configuration: the last checkpoint, the logged losses, the machines."""
    mine, theirs = (read_checkpoint(each.folder / "checkpoints", "cpu")[1] for each in (run, other))
    kept = [name for name in mine if not name.startswith("trainer/")]  # counters of time
    differing = {name: gap(mine[name], theirs[name]) for name in kept if not same(mine[name], theirs[name])}
    differences = []
    if differing:
        worst = max(differing, key=lambda name: differing[name])
        differences.append(f"{len(differing)} of {len(kept)} tensors differ, most {worst}: by {differing[worst]:.2g}")
    losses = zip(_losses(run), _losses(other), strict=False)
    if first := next(((step, a, b) for (step, a), (_, b) in losses if a != b), None):
        differences.append(f"the logged loss differs from step {first[0]} on: {first[1]:.9g} then, {first[2]:.9g} now")
    if differences:
        differences.extend(_machines(run))
    return Comparison(len(kept), differences)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit; NaN equals NaN."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def gap(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference; infinite for other shapes or NaN in one of the two."""
    if a.shape != b.shape:
        return float("inf")
    return (a.double() - b.double()).abs().nan_to_num(nan=float("inf")).max().item()


def _losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in run.metrics() if "loss" in line]


def _machines(run: Run) -> Iterator[str]:
    """Yield each property in which this machine differs from the one of the training."""
    then = run.environment.get("machine", {})
    for name, now in machine().items():
        if then.get(name) != now:
            yield f"{name}: {then.get(name, 'unknown')} then, {now} now"
