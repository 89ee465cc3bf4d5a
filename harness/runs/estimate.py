"""Estimate a run's time and disk space from small runs that are really trained and judged.

A small run has few steps and few samples; all other settings and the code are the same. Small runs are written to the
results folder like all runs, so the caller should choose a temporary one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.components.solvers.ordinary import Euler
from harness.components.time_grids import UniformGrid
from harness.core.checkpoint import checkpoints
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.data.base import load
from harness.evaluation.extractors import extractor_of
from harness.evaluation.protocol import EvaluateConfig, num_reference
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.judge import evaluate, judge_of
from harness.runs.sample import restore
from harness.runs.train import make_pairs, train
from harness.training.config import TrainConfig

SECONDS = 3.0
"""Approximate length of a measurement of training or of sampling."""
SLOW = 30.0
"""If sampling would take more seconds, a measurement draws its samples by one step of Euler's method."""
STEPS = 6
"""Steps of a first training, which warms up the process and gives the length of the measured training."""
SAMPLES = 2000
"""Largest number of samples, drawn at one NFE."""
FEATURES = 500
"""The same with an extractor; also the largest number of reference samples."""
PATHS = 32
"""Largest number of samples for a flow metric."""
FEW = 16
"""Number of samples to start with; doubled until all metrics have a value."""


class Spent(NamedTuple):
    """Time and disk space."""

    seconds: float
    bytes: float
    """On disk."""


@dataclass(frozen=True)
class TrainingTimes:
    """Seconds and bytes of the parts of a training."""

    start: float
    """Until steps have their usual speed."""
    step: float
    look: float
    checkpoint: float
    pair: float
    """Making one pair of noise and sample; 0 for a run that is trained on data."""
    sizes: dict[str, float]
    """Bytes of a `checkpoint`, the `best` checkpoint, a `snapshot`, a `line` of metrics, and a `look`'s additions."""

    def seconds(self, config: RunConfig) -> float:
        """Return the seconds of the whole training, including its pairs."""
        train = config.train
        pairs = self.pair * config.reflow.number if config.parent else 0.0
        steps = self.start + self.step * train.steps
        return steps + self.look * _looks(train) + self.checkpoint * _checkpoints(train) + pairs

    def bytes(self, config: RunConfig) -> float:
        """Return the bytes that stay on disk, including the pairs."""
        train = config.train
        snapshots = train.steps // train.snapshot_every if train.snapshot_every else 0
        kept = self.sizes["checkpoint"] * min(train.keep_checkpoints, _checkpoints(train)) + self.sizes["best"]
        lines = self.sizes["line"] * math.ceil(train.steps / train.log_every) + self.sizes["look"] * _looks(train)
        arrays = Run.of(config).pairs.arrays.values() if config.parent else ()
        return kept + self.sizes["snapshot"] * snapshots + lines + sum(a.size(config.reflow.number) for a in arrays)


@dataclass(frozen=True)
class JudgingTimes:
    """Seconds and bytes of the parts of an evaluation."""

    start: float
    """Until the network is restored and the reference read."""
    call: float
    """One call of the network per sample."""
    calls: float
    """Calls per sample that an adaptive solver chooses."""
    metrics: float
    """Features and sample metrics at one NFE."""
    flow: float
    """Flow metrics."""
    picture: float
    """Bytes of the pictures at one NFE."""

    def seconds(self, config: EvaluateConfig) -> float:
        """Return the seconds of the whole evaluation."""
        if not config.sample_metrics:
            return self.start + self.flow
        sampling = sum((nfe or self.calls) * config.samples_at(nfe) for nfe in config.nfe) * self.call
        more = sum(each.num_samples for each in config.more if each.nfe in config.nfe) / config.num_samples
        return self.start + sampling + self.metrics * (len(config.nfe) + more) + self.flow

    def bytes(self, config: EvaluateConfig) -> float:
        """Return the bytes that stay on disk."""
        return self.picture * len(config.nfe) if config.sample_metrics else 0.0


def training_times(config: RunConfig) -> tuple[TrainingTimes, Run]:
    """Return the times of a training, and the small run that they are measured on; `NoValue` if it gives up."""
    first = _timed(_small(config, STEPS, 0))
    steps = int(SECONDS / first[0].step)
    return first if steps <= STEPS else _timed(_small(config, steps, 1))


def _small(config: RunConfig, steps: int, seed: int) -> RunConfig:
    """Return a configuration with few steps, an even number, two lines of metrics and a look at the end.

    The flows that it learns from are as small, and make one batch of pairs.
    """
    whole = config.train
    steps = max(1, min(steps, whole.steps) // 2 * 2)
    half = max(1, steps // 2)
    chosen = whole.resolved()  # "auto" depends on the number of steps
    changes = {
        "steps": steps, "snapshot_every": min(whole.snapshot_every, half), "log_every": half,
        "sample_every": steps, "checkpoint_every": steps, "keep_checkpoints": 1,
        "precision": chosen["precision"], "compile": chosen["compile"],
    }  # fmt: skip
    small = override(config, {f"train.{name}": value for name, value in changes.items()})
    teacher = config.reflow.teacher
    number = min(config.reflow.number, max(whole.batch_size, config.reflow.batch_size))
    reflow = dataclasses.replace(config.reflow, number=number, teacher=teacher and _small(teacher, steps, seed))
    return dataclasses.replace(small, reflow=reflow, seed=seed)


def _timed(config: RunConfig) -> tuple[TrainingTimes, Run]:
    """Train a small run, and read the times of its parts from its records."""
    run = Run.of(config)
    pair = 0.0
    if run.parent:
        make_pairs(run, _quiet, _never)
        pair = 1 / run.pairs.about["pairs_per_second"]
    began = time.time()
    train(run, _quiet, _never)
    lines: list[dict[str, Any]] = [{"step": 0, "time": began}, *run.metrics()]
    before, last = lines[-2:]
    step = config.train.batch_size / last["samples_per_second"]
    saved = checkpoints(run.folder / "checkpoints")[0].stat().st_mtime
    times = TrainingTimes(
        start=max(0.0, before["time"] - began - before["step"] * step),
        step=step,
        look=max(0.0, last["time"] - before["time"] - (last["step"] - before["step"]) * step),
        checkpoint=max(0.0, saved - last["time"]),
        pair=pair,
        sizes=_sizes(run),
    )
    return times, run


def _sizes(run: Run) -> dict[str, float]:
    """Return the bytes of the parts of a small run."""
    lines = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    snapshots = [*_files(run.folder / "checkpoints" / "snapshots")]
    return {
        "checkpoint": sum(path.stat().st_size for path in checkpoints(run.folder / "checkpoints")),
        "best": sum(_files(run.folder / "checkpoints" / "best")),
        "snapshot": sum(snapshots) / max(1, len(snapshots)),
        "line": len(lines[0]),
        "look": len(lines[-1]) - len(lines[0]) + sum(_files(run.folder / "samples")),
    }


def _files(folder: Path) -> Iterator[int]:
    """Yield the bytes of each file below a folder."""
    return (path.stat().st_size for path in folder.rglob("*") if path.is_file())


def judging_times(config: RunConfig, trained: Run) -> JudgingTimes:
    """Return the times of an evaluation, measured on a small run; `NoValue` if its samples cannot be judged.

    The time of the metrics is extrapolated linearly from two numbers of samples to the configuration's number.
    """
    whole = config.evaluate
    few = _fewest(config)
    lowest = min(whole.nfe)
    first = _judged(trained, _fewer(config, few, lowest))  # also warms up the process
    most = min(whole.num_samples, max(few, limit(whole)))
    nfe = max((nfe for nfe in whole.nfe if nfe * most * first.call <= SECONDS), default=lowest)
    slow = most * first.calls * first.call > SLOW

    def judged(samples: int) -> JudgingTimes:
        how = _fewer(config, samples, nfe)
        quick = dataclasses.replace(how, solver=Euler(), time_grid=UniformGrid(), nfe=(1,))
        return _judged(trained, quick if slow else how)

    found = judged(most)
    metrics = found.metrics
    if most < whole.num_samples:
        half = max(few, most // 2)
        each = max(0.0, metrics - judged(half).metrics) / max(1, most - half)
        metrics += each * (whole.num_samples - most)
    paths = sum(metric.samples for metric in whole.flow_metrics)
    flow = found.flow * paths / max(1, sum(min(metric.samples, PATHS) for metric in whole.flow_metrics))
    return dataclasses.replace(found, calls=first.calls if slow else found.calls, metrics=metrics, flow=flow)


def limit(how: EvaluateConfig) -> int:
    """Return the largest number of samples to draw, unless the metrics need more."""
    return SAMPLES if extractor_of(how.extractor) is None else FEATURES


def _fewest(config: RunConfig) -> int:
    """Return a number of samples at which all metrics have a value: `FEW`, doubled as often as needed."""
    number = FEW
    while number < config.evaluate.num_samples:
        try:
            dataclasses.replace(config, evaluate=_fewer(config, number, min(config.evaluate.nfe))).protocol()
            return number
        except ConfigError:
            number *= 2
    return config.evaluate.num_samples


def _fewer(config: RunConfig, samples: int, nfe: int) -> EvaluateConfig:
    """Return a configuration's evaluation with fewer samples, one NFE and fewer paths.

    The reference is the same; with an extractor, it has at most `FEATURES` samples.
    """
    whole = config.evaluate
    real = None if whole.reference else num_reference(whole, load(config.dataset))
    if real and extractor_of(whole.extractor) is not None:
        real = min(real, FEATURES)
    metrics = tuple(
        dataclasses.replace(metric, samples=min(metric.samples, PATHS)) if metric in whole.flow_metrics else metric
        for metric in whole.metrics
    )
    return dataclasses.replace(
        whole, num_samples=samples, more_samples=(), num_reference=real, nfe=(nfe,), metrics=metrics
    )


def _judged(trained: Run, how: EvaluateConfig) -> JudgingTimes:
    """Judge a small run, and read the times of the parts from its records."""
    run = Run(dataclasses.replace(trained.config, evaluate=how), trained.folder)
    began = time.perf_counter()
    network = restore(run)
    judge = judge_of(run.config)
    opened = time.perf_counter()
    evaluate(run, network, judge, _never)
    ended = time.perf_counter()
    known = run.evaluation(judge.protocol)
    text = str(how.nfe[0])
    sampling = known["sampling_seconds"].get(text, 0.0)
    calls = known["calls"].get(text, {"mean": 1.0})["mean"]
    spent = known["seconds"].get(text, 0.0)
    pictures = run.folder.glob(f"samples/{judge.protocol.digest}-nfe-*.png")
    return JudgingTimes(
        start=opened - began,
        call=sampling / (calls * how.num_samples),
        calls=calls,
        metrics=spent - sampling,
        flow=max(0.0, ended - opened - spent),
        picture=sum(path.stat().st_size for path in pictures),
    )


def _looks(train: TrainConfig) -> int:
    return math.ceil(train.steps / train.sample_every)


def _checkpoints(train: TrainConfig) -> int:
    return math.ceil(train.steps / train.checkpoint_every)


def _quiet(line: str) -> None:
    """Say nothing."""


def _never() -> bool:
    """Never stop."""
    return False
