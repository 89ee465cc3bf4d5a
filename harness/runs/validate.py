"""What is refused before anything is trained: data that cannot be read, parts that do not fit them, settings that do nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from harness.components.interpolants import Interpolant
from harness.core.errors import ConfigError
from harness.data.base import Data, load
from harness.evaluation.protocol import Protocol
from harness.flow.sampling import steps_of
from harness.runs.config import RunConfig
from harness.runs.students import asks_for_guidance, guided_twice


def refuse_idle(changes: Iterable[str], configs: Iterable[RunConfig]) -> None:
    """`ConfigError` when a changed path says how rounds are done and no configuration has one."""
    paths = [path for path in changes if path.startswith("reflow.") and path not in ("reflow.rounds", "reflow.distil")]
    if paths and not any(config.parent for config in configs):
        raise ConfigError(paths[0], "without a round it changes nothing. Set reflow.rounds=1 too, or leave it out.")
    later = [path for path in paths if path.startswith("reflow.later_guidance")]
    if later and not any(config.parent and config.parent.parent for config in configs):
        raise ConfigError(
            later[0], "without a second round it changes nothing. Set reflow.rounds=2 too, or leave it out."
        )


def refuse_guided_twice(changes: Iterable[str], config: RunConfig) -> None:
    """`ConfigError` when what has learned guided pairs would be guided again and no changed path asks for it."""
    if (reason := guided_twice(config)) and not asks_for_guidance(changes):
        raise ConfigError("evaluate.guidance", reason)


def check(config: RunConfig) -> None:
    """Raise what training would trip over: data that cannot be read, a network that does not fit, an impossible protocol."""
    data = load(config.dataset)
    Protocol.of(config.evaluate, data)
    if config.parent is not None:
        check(config.parent)
        _check_pairs(config, config.parent, data)
    config.coupling.check(data.shape, data.num_classes, config.conditional)
    config.noise.check(data)
    if config.conditional and data.num_classes < 2:
        raise ConfigError(
            "objective.label_dropout",
            f"the data have {data.num_classes or 'no'} classes. Set it to null, or take others.",
        )
    if config.train.batch_size > len(data.train):
        reason = f"{config.train.batch_size} is more than the {len(data.train)} training samples"
        raise ConfigError("train.batch_size", f"{reason}. Choose a smaller one.")
    path = config.path(config.noise.learn(data))
    for nfe in config.evaluate.nfe:
        config.evaluate.time_grid.times(_steps(config, path, nfe), path)
    with torch.device("meta"):
        config.build(data)


def _check_pairs(config: RunConfig, parent: RunConfig, data: Data) -> None:
    """Raise what making pairs, or beginning with the weights of who made them, would trip over."""
    reflow, path = config.reflow, parent.path(parent.noise.learn(data))
    try:
        reflow.time_grid.times(steps_of(reflow.solver, reflow.time_grid, path, config.pairs_guidance, reflow.nfe), path)
    except ConfigError as error:
        raise ConfigError("reflow.nfe" if error.path.endswith("nfe") else "reflow.time_grid", error.message) from None
    if not reflow.warm_start:
        return
    with torch.device("meta"):
        own, given = (
            {name: tuple(w.shape) for name, w in c.build(data).state_dict().items()} for c in (config, parent)
        )
    if own != given:
        differing = next(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        reason = f"the network does not fit the teacher's: {differing} is {own.get(differing)} here and {given.get(differing)} there"
        raise ConfigError("backbone", f"{reason}. Leave it as it is there, or set reflow.warm_start=false.")


def _steps(config: RunConfig, path: Interpolant, nfe: int) -> int:
    return steps_of(config.evaluate.solver, config.evaluate.time_grid, path, config.evaluate.guidance, nfe)
