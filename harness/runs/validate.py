"""Checks before training: data that cannot be read, networks that do not fit them, settings without effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from harness.components.backbones.base import Network
from harness.core.errors import ConfigError
from harness.data.base import Data, load
from harness.flow.formulation import Formulation
from harness.flow.sampling import SamplingConfig
from harness.runs.config import RunConfig
from harness.runs.probe import probe
from harness.runs.students import asks_for_guidance, guided_twice
from harness.training.footprint import weightless
from harness.training.hardware import has_tf32


def refuse_idle(changes: Collection[str], configs: Iterable[RunConfig]) -> None:
    """Raise `ConfigError` if a changed setting of rounds or of more samples has no effect in any configuration."""
    configs = list(configs)
    if "evaluate.more_samples" in changes:
        _refuse_unmeasured(configs)
    paths = [path for path in changes if path.startswith("reflow.") and path not in ("reflow.rounds", "reflow.distil")]
    perceptual = [path for path in paths if path.startswith("reflow.perceptual")]
    if perceptual and not any(config.reflow.distil for config in configs):
        raise ConfigError(perceptual[0], "only a distillation uses it. Set reflow.distil=true too, or leave it out.")
    if paths and not any(config.parent for config in configs):
        raise ConfigError(paths[0], "without a round it changes nothing. Set reflow.rounds=1 too, or leave it out.")
    later = [path for path in paths if path.startswith("reflow.later_guidance")]
    if later and not any(config.parent and config.parent.parent for config in configs):
        raise ConfigError(
            later[0], "without a second round it changes nothing. Set reflow.rounds=2 too, or leave it out."
        )


def _refuse_unmeasured(configs: Sequence[RunConfig]) -> None:
    """Raise `ConfigError` if `more_samples` names an NFE at which no configuration is judged, or adds no samples."""
    judged = sorted({nfe for config in configs for nfe in config.evaluate.nfe})
    fewest = min(config.evaluate.num_samples for config in configs)
    for i, more in enumerate(configs[0].evaluate.more_samples):
        if more.num_samples <= fewest:
            reason = f"{more.num_samples} must be above num_samples = {fewest}"
            raise ConfigError(f"evaluate.more_samples[{i}].num_samples", f"{reason}. Give more, or leave it out.")
        if more.nfe not in judged:
            reason = f"no run is judged at NFE {more.nfe}"
            known = ", ".join(map(str, judged))
            raise ConfigError(f"evaluate.more_samples[{i}].nfe", f"{reason}. Choose one of evaluate.nfe: {known}.")


def refuse_guided_twice(changes: Iterable[str], config: RunConfig) -> None:
    """Raise `ConfigError` if a flow that learned guided pairs is guided again and no changed path sets guidance."""
    if (reason := guided_twice(config)) and not asks_for_guidance(changes):
        raise ConfigError("evaluate.guidance", reason)


def refuse_unreached(changes: Iterable[str], config: RunConfig) -> None:
    """Raise `ConfigError` if a changed path sets a number of steps that training never reaches."""
    train = config.train
    asked = {*changes}
    if "train.warmup_steps" in asked and train.warmup_steps > train.steps:
        reason = f"the warm-up of {train.warmup_steps} steps is longer than the training of {train.steps}"
        advice = f"Set it to {train.steps} or less, or train longer."
        raise ConfigError("train.warmup_steps", f"{reason}, so the learning rate never reaches its peak. {advice}")
    if "train.snapshot_every" in asked and train.snapshot_every > train.steps:
        reason = f"the first snapshot (step {train.snapshot_every}) comes after the last step ({train.steps})"
        advice = f"Set it to {train.steps} or less, or to 0."
        raise ConfigError("train.snapshot_every", f"{reason}, so none is taken. {advice}")


def refuse_tf32(config: RunConfig) -> None:
    """Raise `ConfigError` if the configuration asks for samples in tf32 on a device without it."""
    device = config.train.resolved_device()
    if config.evaluate.precision == "tf32" and not has_tf32(device):
        reason = f"this machine's {device.replace('cuda', 'GPU')} does not round to tf32, so it would be fp32"
        raise ConfigError("evaluate.precision", f"{reason}. Choose fp32 or bf16, or a GPU from Ampere on.")


def check(config: RunConfig, weights: bool = True) -> None:
    """Raise errors that training would meet: unreadable data, a network that does not fit, an impossible protocol.

    Without `weights`, the extractor's weights are not read, and nothing is downloaded.
    """
    data = load(config.dataset)
    probe(config, data)
    config.protocol(weights)
    refuse_tf32(config)
    if config.parent is not None:
        check(config.parent, weights)
        _check_pairs(config, config.parent, data)
    config.coupling.check(data.shape, data.num_classes, config.conditional)
    config.noise.check(data)
    if config.perceptual:
        try:
            config.perceptual.check(data)
        except ConfigError as error:
            raise error.below("reflow.perceptual") from None
    config.learned().refuse_own_variances(config.noise.variance(config.noise.learn(data)))
    if config.conditional and data.num_classes < 2:
        raise ConfigError(
            "objective.label_dropout",
            f"the data have {data.num_classes or 'no'} classes. Set it to null, or choose data with two or more.",
        )
    if config.train.batch_size > len(data.train):
        reason = f"{config.train.batch_size} is more than the {len(data.train)} training samples"
        raise ConfigError("train.batch_size", f"{reason}. Choose a smaller one.")
    _check_times("evaluate", config.evaluate, config, data)
    _weightless(config, data)


def _weightless(config: RunConfig, data: Data) -> Network:
    """Return the network without values; `ConfigError` if it does not fit the data."""
    return weightless(config.backbone, data.shape, data.num_classes if config.conditional else 0)


def _check_pairs(config: RunConfig, parent: RunConfig, data: Data) -> None:
    """Raise errors that making pairs, or starting with the teacher's weights, would meet."""
    _check_times("reflow", config.pairs_sampling, parent, data)
    if not config.reflow.warm_start:
        return
    own, given = (
        {name: tuple(w.shape) for name, w in _weightless(c, data).state_dict().items()} for c in (config, parent)
    )
    if own != given:
        differing = next(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        shapes = f"{differing} is {own.get(differing)} here and {given.get(differing)} there"
        reason = f"the network does not fit the teacher's: {shapes}"
        raise ConfigError("backbone", f"{reason}. Set the teacher's backbone, or reflow.warm_start=false.")


def _check_times(at: str, sampling: SamplingConfig, trained: Formulation, data: Data) -> None:
    """Raise errors that sampling would meet: an NFE that no number of steps uses exactly, equal times in the grid."""
    path = trained.path(trained.noise.learn(data))
    try:
        for nfe in sampling.every_nfe:
            sampling.times(nfe, path)
    except ConfigError as error:
        raise error.below(at) from None
