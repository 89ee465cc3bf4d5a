"""The pairs that a run learns: made by the flow before it, continued where they were cut short."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from harness.core.config import override, to_dict
from harness.core.errors import Diverged, NoValue, Stopped
from harness.core.provenance import commit, machine
from harness.core.signals import Stop
from harness.data.base import load
from harness.flow.sampling import generate
from harness.runs.folder import Run
from harness.runs.sample import restore
from harness.training.distributed import ALONE, Ranks
from harness.training.hardware import products


def draw_pairs(run: Run, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Draw the pairs that a run learns from its trained teacher; what is there is kept, what was begun continues.

    The first rank draws them, and the others wait.
    """
    pairs, teacher = run.pairs, teacher_of(run)
    made = _made(run, teacher)
    if ranks.first:
        with pairs.lock():
            if not (pairs.about or pairs.failed):
                try:
                    _fill(run, teacher, made, stop)
                except NoValue as error:
                    pairs.fail(error.told(f"no pairs can be made of {teacher.name}: {error}"))
    while not (pairs.about or pairs.failed):  # another rank's, which may take hours
        if stop():
            raise Stopped("stopped while the first rank makes pairs")
        time.sleep(1.0)
    if failed := pairs.failed:
        raise failed
    pairs.check(made)


def teacher_of(run: Run) -> Run:
    """The parent of a run, with the average of its weights that makes the pairs."""
    assert run.parent is not None
    return Run.of(
        override(run.parent.config, {"evaluate.average": run.config.reflow.average, "evaluate.checkpoint": "last"})
    )


def _made(run: Run, teacher: Run) -> dict[str, Any]:
    """What pairs.json says of who made the pairs of a run, and how."""
    settings = to_dict(dataclasses.replace(run.config.reflow, teacher=None, guidance=run.config.pairs_guidance))
    names = ("solver", "time_grid", "nfe", "guidance", "average", "batch_size")
    return {"teacher": teacher.name, "made": {name: settings[name] for name in names}}


def _fill(run: Run, teacher: Run, made: Mapping[str, Any], stop: Stop) -> None:
    """Make the pairs that are missing."""
    reflow, config, data, trained = run.config.reflow, teacher.config, load(run.config.dataset), restore(teacher)
    writer = run.pairs.writer(reflow.batch_size)
    begun, calls, started = writer.done, 0, time.perf_counter()
    with threadpool_limits(config.train.threads), products("fp32"):
        torch.set_num_threads(config.train.threads)
        for batch in generate(
            trained.network, config, trained.noise_state, reflow.solver, reflow.time_grid, reflow.nfe, data.shape,
            reflow.number, reflow.batch_size, (config.seed, "pairs", config.rectified + 1), config.train.resolved_device(),
            data.classes if config.conditional else None, run.config.pairs_guidance, first=begun // reflow.batch_size,
        ):  # fmt: skip
            if not batch.x.isfinite().all():
                raise Diverged(f"its samples at NFE {reflow.nfe} are not finite.")
            writer.add(
                {"x0": batch.x.cpu().numpy(), "x1": batch.noise.cpu().numpy()}
                | ({} if batch.y is None else {"y": batch.y.cpu().numpy()})
            )
            calls += batch.calls * len(batch.x)
            if stop():
                raise Stopped(f"stopped after {writer.done} of {reflow.number} pairs")
    new = writer.done - begun
    rate = new / (time.perf_counter() - started)
    writer.finish({**made, "calls": calls / new, "pairs_per_second": rate, "commit": commit(), "machine": machine()})
