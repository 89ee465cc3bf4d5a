"""Make the pairs that a run learns, with the flow before it; continues interrupted work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from harness.core.config import override, to_dict
from harness.core.errors import Diverged, NoValue, Stopped
from harness.core.provenance import commit, machine
from harness.core.signals import Stop
from harness.flow.sampling import generate
from harness.runs.folder import Run
from harness.runs.sample import restore
from harness.training.distributed import ALONE, Ranks
from harness.training.hardware import matmul_precision


def fill_pairs(run: Run, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Let the trained teacher make the pairs that a run learns; existing pairs are kept.

    The first rank makes them, and the other ranks wait.
    """
    pairs = run.pairs
    teacher = teacher_of(run)
    made = _made(run, teacher)
    if ranks.first:
        with pairs.lock():
            if not (pairs.about or pairs.failed):
                try:
                    _fill(run, teacher, made, stop)
                except NoValue as error:
                    pairs.fail(error.told(f"{teacher.name} cannot make pairs: {error}"))
    while not (pairs.about or pairs.failed):  # the first rank may need hours
        if stop():
            raise Stopped("stopped while the first rank makes pairs")
        time.sleep(1.0)
    if failed := pairs.failed:
        raise failed
    pairs.check(made)


def teacher_of(run: Run) -> Run:
    """Return the parent of a run, set to the weights that make the pairs."""
    assert run.parent is not None
    sampling = run.config.pairs_sampling
    chosen = {"evaluate.average": sampling.average, "evaluate.checkpoint": sampling.checkpoint}
    return Run.of(override(run.parent.config, chosen))


def _made(run: Run, teacher: Run) -> dict[str, Any]:
    """Return the entries of pairs.json about the teacher and the sampling of a run's pairs."""
    settings = to_dict(run.config.pairs_sampling, digested=True)
    names = ("solver", "time_grid", "nfe", "guidance", "average", "checkpoint", "batch_size")
    return {"teacher": teacher.name, "made": {name: settings[name] for name in names if name in settings}}


def _fill(run: Run, teacher: Run, made: Mapping[str, Any], stop: Stop) -> None:
    """Make the missing pairs."""
    sampling = run.config.pairs_sampling
    config = teacher.config
    trained = restore(teacher)
    calls = 0
    with (
        run.pairs.writer(sampling.batch_size) as writer,
        threadpool_limits(config.train.threads),
        matmul_precision("fp32"),
    ):
        begun = writer.done
        started = time.perf_counter()
        torch.set_num_threads(config.train.threads)
        for batch in generate(
            trained, sampling, sampling.nfe, run.data.shape, sampling.number,
            (config.seed, "pairs", config.rectified + 1),
            classes=teacher.classes, first=begun // sampling.batch_size,
        ):  # fmt: skip
            if not batch.x.isfinite().all():
                raise Diverged(f"its samples at NFE {sampling.nfe} are not finite.")
            arrays = {"x0": batch.x, "x1": batch.noise} | ({} if batch.y is None else {"y": batch.y})
            writer.add({name: array.cpu().numpy() for name, array in arrays.items()})
            calls += batch.calls * len(batch.x)
            if stop():
                raise Stopped(f"stopped after {writer.done} of {sampling.number} pairs")
        new = writer.done - begun
        rate = new / (time.perf_counter() - started)
        about = {"calls": calls / new, "pairs_per_second": rate, "commit": commit(), "machine": machine()}
        writer.finish({**made, **about})
