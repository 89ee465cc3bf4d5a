"""Which flows can learn another's pairs of noise and sample, and how they may then be sampled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from harness.components.solvers import Euler
from harness.components.time_grids import UniformGrid
from harness.core.errors import ConfigError
from harness.flow.sampling import Guidance

if TYPE_CHECKING:
    from harness.runs.config import RunConfig

ONE_STEP = 1e-3
"""How near one step of a perfect distilled network must come, from noise 2 to a sample of 1."""
ONE_STEP_ONLY = {"solver": Euler(), "time_grid": UniformGrid(), "guidance": Guidance(), "nfe": (1,)}
"""What `evaluate` of a distilled network must be."""


def check_student(config: RunConfig, parent: RunConfig) -> None:
    """`ConfigError` for what cannot be learned from the parent's pairs."""
    for name in ("dataset", "noise", "coupling", *(("interpolant", "prediction") if config.reflow.warm_start else ())):
        if getattr(config, name) != getattr(parent, name):
            why = "its pairs replace it" if name == "coupling" else "the pairs and the first weights are the teacher's"
            raise ConfigError(name, f"the teacher's is another, and {why}. Leave it as it is there.")
    if parent.reflow.distil:
        raise ConfigError(
            "reflow.teacher", "it is distilled to one step, and no flow any more. Take the flow that it learned from."
        )
    if config.conditional and not parent.conditional:
        raise ConfigError(
            "objective.label_dropout", "the teacher knows no classes, so its pairs have none. Set it to null."
        )
    _check_pairs_sampling(config, parent)
    if config.reflow.distil:
        _check_distilled(config)


def asks_for_guidance(changes: Iterable[str]) -> bool:
    """Whether one of the changed paths says how samples are guided."""
    return any(path == "evaluate" or path.startswith("evaluate.guidance") for path in changes)


def _check_pairs_sampling(config: RunConfig, parent: RunConfig) -> None:
    """Refuse pairs that the teacher cannot be asked for, and guidance of pairs that no round draws."""
    first = config.reflow.teacher
    if config.reflow.guidance.scale != 1 and first is not None and first.parent is not None:
        reason = "it is of pairs from a flow that was trained on data, and the teacher has learned pairs itself"
        raise ConfigError("reflow.guidance", f"{reason}. Set reflow.later_guidance to guide it.")
    try:
        kept = parent.train.decays, 0 < parent.train.snapshot_every <= parent.train.steps
        config.pairs_sampling.check("reflow", parent.learned(), *kept, who="the teacher")
    except ConfigError as error:
        if error.path == "reflow.guidance" and parent.parent is not None:
            raise ConfigError("reflow.later_guidance", error.message) from None
        raise


def _check_distilled(config: RunConfig) -> None:
    """Refuse what one step of Euler's method does not turn into samples, even from a perfect network."""
    x0 = torch.tensor([[1.0]])
    x1 = torch.tensor([[2.0]])
    t = torch.ones(1)
    target = config.prediction.target(x0, x1, t, config.interpolant)
    xt = config.interpolant.interpolate(x0, x1, t)
    end = xt - config.prediction.convert(target, xt, t, config.interpolant, "velocity")
    if not (end - x0).abs().item() < ONE_STEP:
        advice = "Choose interpolant=linear and prediction=velocity, or another prediction with prediction.t_max=1."
        reason = f"one Euler step from t = 1 is no sample with {config.interpolant.name} and {config.prediction.name}"
        raise ConfigError("reflow.distil", f"{reason}. {advice}")
    for name, value in ONE_STEP_ONLY.items():
        if getattr(config.evaluate, name) != value:
            reason = "a distilled network knows t = 1 alone, and is sampled by one unguided step of Euler's method"
            raise ConfigError(f"evaluate.{name}", f"{reason}. Leave {name} as it is by default, with evaluate.nfe=[1].")
    for metric in config.evaluate.flow_metrics:
        path = f"evaluate.metrics[{config.evaluate.metrics.index(metric)}]"
        raise ConfigError(path, f"{metric.name} is of a flow, and a distilled network is none. Leave it out.")


def guided_twice(config: RunConfig) -> str | None:
    """What to know where guidance is added to a flow that has learned guided pairs; None elsewhere."""
    if not config.learned_guidance or config.evaluate.guidance.scale == 1:
        return None
    return (
        "the pairs that it learned are guided already, and "
        f"evaluate.guidance.scale={config.evaluate.guidance.scale:g} guides it again. "
        "Set evaluate.guidance.scale=1 for the flow that it has learned."
    )
