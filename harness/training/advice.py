"""Advice: settings that practice advises against, and usual troubles that a training's measurements show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from harness.components import predictions, weightings
from harness.components.couplings import ExactOT, Sinkhorn
from harness.data.base import Data
from harness.flow.formulation import Formulation
from harness.training.optimizers import AdamW

if TYPE_CHECKING:
    from harness.training.config import TrainConfig

PAPER_STEPS = 50_000
"""Published learning rates apply to trainings of at least this many steps."""
RATES = (1e-4, 5e-4)
"""Usual range of the learning rate for long trainings with AdamW."""
STD = (0.2, 2.5)
MEAN = 1.0
"""Ranges of sd and absolute mean of encoded data for which networks, noise and times are made."""
NARROW = 0.7
"""Spread of the samples, as a share of the spread of the data, below which modes may be missing."""
FAR = 1.5
"""The program warns if sigma_data differs from the data's standard deviation by more than this factor."""
LEFT = 0.1
"""Largest accepted ratio of data to noise at t = 1, and of noise to data at t = 0."""
GAIN = 0.05
"""If the held-out loss falls by more than this share at the end, more training would lower it further."""
Lines = Sequence[Mapping[str, Any]]


def warnings(config: TrainConfig, data: Data, formulation: Formulation) -> list[str]:
    """Return a line for each setting that departs from the field's practice; each may be intended."""
    said = []
    if config.ema_decay is None:
        said.append("train.ema_decay: no averaged weights. Samples from them are usually better: set 0.9999.")
    if config.clip_norm is None:
        said.append("train.clip_norm: gradients are not clipped. One bad batch can undo a training: set 1.")
    if config.batch_size < 32:
        said.append(
            f"train.batch_size: {config.batch_size} is below 32. Gradients are noisy, and couplings see few pairs."
        )
    if (
        config.steps >= PAPER_STEPS
        and isinstance(config.optimizer, AdamW)
        and not RATES[0] <= config.learning_rate <= RATES[1]
    ):
        said.append(
            f"train.learning_rate: {config.learning_rate:g} is outside 1e-4 to 5e-4, the usual range of long "
            "trainings with AdamW."
        )
    said += [unusual] if (unusual := not_normalised(data)) else []
    return said + unfitting(formulation, data)


def cut_short(config: TrainConfig) -> list[str]:
    """Return a line if the training ends before its warm-up, whose length a scale may have set."""
    if config.warmup_steps <= config.steps:
        return []
    share = config.rate(config.steps - 1) / config.learning_rate
    reason = f"the warm-up of {config.warmup_steps} steps is longer than the training of {config.steps}"
    reached = f"so the learning rate ends at {share:.2g} of its peak"
    return [f"train.warmup_steps: {reason}, {reached}. Set it to about a tenth of train.steps."]


def unfitting(formulation: Formulation, data: Data) -> list[str]:
    """Return a line for each setting of a formulation that does not fit the data or another setting."""
    f = formulation
    said = []
    mean, std = data.moments
    size = math.hypot(mean, std)
    if f.conditional and isinstance(f.coupling, ExactOT | Sinkhorn):
        said.append(
            f"coupling: {f.coupling.name} does not see the classes. It pairs a class with a part of the noise, but "
            "sampling starts each class from all the noise. Choose class_conditional_ot."
        )
    for edm in (f.prediction, f.weighting):
        if isinstance(edm, predictions.EDM | weightings.EDM) and not std / FAR < edm.sigma_data < FAR * std:
            said.append(
                f"{edm.family}.sigma_data: {edm.sigma_data:g} is far from {std:.3g}, the data's sd. Set it to that."
            )
    path = f.path(f.noise.learn(data))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = path.alpha(ends).tolist(), path.sigma(ends).tolist()
    if alpha[1] * size > LEFT * sigma[1]:
        left = f"at t = 1 data of size {alpha[1] * size:.3g} remain under noise of sd {sigma[1]:.3g}"
        said.append(
            f"interpolant: {f.interpolant.name}: {left}, but sampling starts without them. Choose a larger noise."
        )
    if sigma[0] > LEFT * alpha[0] * std:
        left = f"noise of sd {sigma[0]:.3g} stays in samples of data of sd {std:.3g}"
        said.append(f"interpolant: {f.interpolant.name}: {left}. Choose a smaller sigma_min.")
    return said


def not_normalised(data: Data) -> str | None:
    """Return what is wrong with the scale of encoded data; None if nothing is."""
    mean, std = data.moments
    if STD[0] <= std <= STD[1] and abs(mean) <= MEAN:
        return None
    return f"dataset: encoded data have mean {mean:.3g} and sd {std:.3g}. Scale them to [-1, 1] or to unit variance."


def remedy(config: TrainConfig, data: Data) -> str:
    """Return advice on the likeliest of the known causes of a divergence."""
    if unusual := not_normalised(data):
        return f"The likely cause: {unusual}"
    if config.clip_norm is None:
        return "The likely remedy: train.clip_norm is off: set it to 1."
    if config.resolved()["precision"] == "bf16":
        return "The likely remedy: train.precision=fp32, or a lower train.learning_rate."
    return "The likely remedy: lower train.learning_rate or raise train.warmup_steps."


def diagnoses(lines: Lines) -> list[str]:
    """Return a line for each trouble that metrics.jsonl shows of a finished training; none if all looks well."""
    reports = [line for line in lines if "loss" in line]
    said = []
    fifth = len(reports) // 5
    if fifth:
        first, last = (statistics.fmean(line["loss"] for line in some) for some in (reports[:fifth], reports[-fifth:]))
        if last > 0.98 * first:
            said.append(
                f"the loss does not fall ({first:.4g} in the first fifth, {last:.4g} in the last): "
                "check the learning rate and the normalisation."
            )
        clipped = statistics.fmean(line["clipped_share"] for line in reports[-fifth:])
        if clipped > 0.5:
            said.append(
                f"{clipped:.0%} of the last steps were clipped: "
                "for this objective, train.learning_rate is high or train.clip_norm is low."
            )
    spreads = [line["sample_spread"] for line in lines if "sample_spread" in line]
    if spreads and spreads[-1] < NARROW:
        said.append(
            f"the samples spread {spreads[-1]:.0%} as far as the data: modes may be missing. Raise train.batch_size, "
            "check the noise and the augmentation, and look at recall."
        )
    held_out = [(line["held_out_loss"], line["step"]) for line in lines if "held_out_loss" in line]
    if held_out and held_out[-1][0] > 1.05 * min(held_out)[0]:
        lowest, step = min(held_out)
        said.append(
            f"the held-out loss was lowest at step {step} ({lowest:.4g}, at the end {held_out[-1][0]:.4g}): "
            "more steps only memorise. Set evaluate.checkpoint=best to use the weights of that step."
        )
    elif len(held_out) > 1 and held_out[-1][0] < (1 - GAIN) * held_out[-2][0]:
        before = held_out[-2][0]
        last = held_out[-1][0]
        said.append(f"the held-out loss still fell at the end (from {before:.4g} to {last:.4g}): train longer.")
    return said
