"""Check whether runs fit into memory, before anything is made or trained."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from torch import Tensor

from harness.core.config import largest_path
from harness.core.memory import Need, free_bytes, require, require_together
from harness.data.base import load
from harness.evaluation.footprint import drawing_needs, judging_needs
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.train import SPREAD
from harness.training.footprint import checkpoint_bytes, training_needs, weightless

PROCESS = 150e6
"""Bytes of a worker's code and libraries in memory, before it loads a run."""


def require_room(config: RunConfig) -> None:
    """Raise `ConfigError` if a run cannot be trained or judged in the free memory; finished training is not checked.

    The pairs that it learns must also fit on the disk.
    """
    if _untrained(config):
        if config.parent is not None:
            require_room(config.parent)
            Run.of(config).pairs.require_room()
        device = config.train.usable_device()
        if device == "cuda":
            require(_training(config), "training", device)
        require(_beside(config) if device == "cuda" else [*_training(config), *_beside(config)], "training")
    require_judging_room(config)


def require_judging_room(config: RunConfig) -> None:
    """Raise `ConfigError` if a run cannot be judged in the free memory."""
    data = load(config.dataset)
    require(drawing_needs(config.evaluate, data), "sampling", config.train.usable_device())
    require(judging_needs(config.evaluate, data), "an evaluation")


def require_workers(trials: Sequence[tuple[RunConfig, int]], workers: int, gpus: int, option: str) -> None:
    """Raise `ConfigError` at `option` if the workers cannot hold the smallest trials in memory at the same time.

    `trials` are (configuration, number of trials). Memory that a training needs only for a moment is not counted, since
    other trainings need theirs at other moments. `gpus` share the workers; 0 on a CPU.
    """
    each = list[float]()
    on_device = list[float]()
    for config, number in trials:
        trained = not _untrained(config)
        each += [_lasting([*_own(config), *(() if trained else _beside(config))])] * number
        on_device += [0.0 if trained else _lasting(_training(config))] * number
    if gpus:
        require_together(on_device, workers // gpus, option, "cuda")
    else:
        each = [sum(both) for both in zip(each, on_device, strict=True)]
    require_together([*each, *[PROCESS] * max(0, workers - len(each))], workers, option)


def memory_of(config: RunConfig) -> float:
    """Return the most bytes that a training holds at a time: libraries, data, network, optimizer and a batch."""
    needs = [*_own(config), *_training(config)]
    return _lasting(needs) + max((need.bytes for need in needs if need.passing), default=0.0)


def _untrained(config: RunConfig) -> bool:
    return Run.of(config).steps_done < config.train.steps


def _lasting(needs: Sequence[Need]) -> float:
    """Return the bytes in use during the whole training."""
    return sum(need.bytes for need in needs if not need.passing)


def _training(config: RunConfig) -> list[Need]:
    """Return a training's needs on its device. If a single sample is too large, the path is the data's."""
    classes = load(config.dataset).num_classes if config.conditional else 0
    free = free_bytes(config.train.usable_device())
    needs = training_needs(
        config.train, config.backbone, config.learned().coupling, load(config.dataset), classes,
        ranks=int(os.environ.get("WORLD_SIZE", "1")), free=free,
    )  # fmt: skip
    place = largest_path(config.dataset, "dataset")
    return [
        need._replace(path=place)
        if need.path == "train.batch_size" and need.bytes > free * config.train.batch_size
        else need
        for need in needs
    ]


def _beside(config: RunConfig) -> list[Need]:
    """Return a training's needs in main memory, besides the device's."""
    data = load(config.dataset)
    number = min(SPREAD, len(data.train))
    some = Need(
        largest_path(config.dataset, "dataset"),
        f"{number} samples for comparison",
        4 * number * math.prod(data.shape),
    )
    if config.train.resolved_device() == "cpu":
        return [some]
    network = weightless(config.backbone, data.shape, data.num_classes if config.conditional else 0)
    place = largest_path(config.backbone, "backbone")
    return [some, Need(place, "a checkpoint", checkpoint_bytes(config.train, network), True)]


def _own(config: RunConfig) -> list[Need]:
    """Return the needs of every worker: libraries and the data."""
    train = load(config.dataset).train
    return [Need("dataset", "data and libraries", PROCESS + (train.nbytes if isinstance(train, Tensor) else 0))]
