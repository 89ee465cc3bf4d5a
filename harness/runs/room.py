"""Whether runs fit into memory, asked before anything is made or trained."""

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
"""What a worker has in memory before it has anything of a run: code and libraries."""


def require_room(config: RunConfig) -> None:
    """`ConfigError` where a run cannot be trained or judged in the memory that is free; one that is trained need not.

    The pairs that it learns must fit onto the disk.
    """
    if _untrained(config):
        if config.parent is not None:
            require_room(config.parent)
            Run.of(config).pairs.require_room()
        device = config.train.resolved_device()
        if device == "cuda":
            require(_training(config), "training", device)
        require(_beside(config) if device == "cuda" else [*_training(config), *_beside(config)], "training")
    require_judging_room(config)


def require_judging_room(config: RunConfig) -> None:
    """`ConfigError` where a run cannot be judged in the memory that is free."""
    data = load(config.dataset)
    require(drawing_needs(config.evaluate, data), "sampling", config.train.resolved_device())
    require(judging_needs(config.evaluate, data), "an evaluation")


def require_workers(trials: Sequence[tuple[RunConfig, int]], workers: int, gpus: int, option: str) -> None:
    """`ConfigError` at `option` where so many workers cannot have the smallest of the trials in memory at once.

    A configuration comes with the number of its trials. What a training has for a moment alone is left out: others may
    have theirs at another. `gpus` share the workers; 0 on a CPU.
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


def _untrained(config: RunConfig) -> bool:
    return Run.of(config).steps_done < config.train.steps


def _lasting(needs: Sequence[Need]) -> float:
    """Bytes that stay as long as a training lasts."""
    return sum(need.bytes for need in needs if not need.passing)


def _training(config: RunConfig) -> list[Need]:
    """What a training has on its device; too large a batch is the fault of its samples where one alone does not fit."""
    classes = load(config.dataset).num_classes if config.conditional else 0
    free = free_bytes(config.train.resolved_device())
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
    """What a training has in main memory beside the device."""
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
    """What every worker has of its own, whatever it does: libraries and the data."""
    train = load(config.dataset).train
    return [Need("dataset", "data and libraries", PROCESS + (train.nbytes if isinstance(train, Tensor) else 0))]
