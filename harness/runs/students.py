"""Check which flows can learn the pairs of another flow, and how they may be sampled after that."""

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
"""Largest error of one step of a perfect distilled network, from noise 2 to a sample of 1."""
ONE_STEP_ONLY = {"solver": Euler(), "time_grid": UniformGrid(), "guidance": Guidance(), "nfe": (1,)}
"""Required settings of `evaluate` for a distilled network."""


def check_student(config: RunConfig, parent: RunConfig) -> None:
    """Raise `ConfigError` if this flow cannot learn the parent's pairs."""
    for name in ("dataset", "noise", "coupling", *(("interpolant", "prediction") if config.reflow.warm_start else ())):
        if getattr(config, name) != getattr(parent, name):
            why = "the pairs replace it" if name == "coupling" else "the teacher made the pairs and first weights"
            raise ConfigError(name, f"must be the teacher's: {why}. Set the teacher's value.")
    if parent.reflow.distil:
        raise ConfigError(
            "reflow.teacher", "it is distilled to one step, so it is not a flow. Name the flow that it learned from."
        )
    if config.conditional and not parent.conditional:
        raise ConfigError(
            "objective.label_dropout", "the teacher knows no classes, so its pairs have none. Set it to null."
        )
    _check_pairs_sampling(config, parent)
    if config.reflow.distil:
        _check_distilled(config)


def asks_for_guidance(changes: Iterable[str]) -> bool:
    """Whether one of the changed paths sets the guidance of samples."""
    return any(path == "evaluate" or path.startswith("evaluate.guidance") for path in changes)


def _check_pairs_sampling(config: RunConfig, parent: RunConfig) -> None:
    """Refuse pairs that the teacher cannot make, and guidance for pairs of a round that does not exist."""
    first = config.reflow.teacher
    if config.reflow.guidance.scale != 1 and first is not None and first.parent is not None:
        reason = "it guides only a teacher that was trained on data, and this teacher has learned pairs"
        raise ConfigError("reflow.guidance", f"{reason}. Set reflow.later_guidance to guide it.")
    try:
        kept = parent.train.decays, 0 < parent.train.snapshot_every <= parent.train.steps
        config.pairs_sampling.check("reflow", parent.learned(), *kept, who="the teacher")
    except ConfigError as error:
        if error.path == "reflow.guidance" and parent.parent is not None:
            raise ConfigError("reflow.later_guidance", error.message) from None
        raise


def _check_distilled(config: RunConfig) -> None:
    """Refuse components with which one Euler step gives no samples, even from a perfect network."""
    x0 = torch.tensor([[1.0]])
    x1 = torch.tensor([[2.0]])
    t = torch.ones(1)
    target = config.prediction.target(x0, x1, t, config.interpolant)
    xt = config.interpolant.interpolate(x0, x1, t)
    end = xt - config.prediction.convert(target, xt, t, config.interpolant, "velocity")
    if not (end - x0).abs().item() < ONE_STEP:
        advice = "Choose interpolant=linear and prediction=velocity, or another prediction with prediction.t_max=1."
        pair = f"{config.interpolant.name} and {config.prediction.name}"
        reason = f"with {pair}, one Euler step from t = 1 gives no sample"
        raise ConfigError("reflow.distil", f"{reason}. {advice}")
    for name, value in ONE_STEP_ONLY.items():
        if getattr(config.evaluate, name) != value:
            reason = "a distilled network has learned t = 1 only, and needs one unguided Euler step"
            advice = "Leave evaluate's solver, time_grid and guidance at their defaults, with evaluate.nfe=[1]."
            raise ConfigError(f"evaluate.{name}", f"{reason}. {advice}")
    for metric in config.evaluate.flow_metrics:
        path = f"evaluate.metrics[{config.evaluate.metrics.index(metric)}]"
        raise ConfigError(path, f"{metric.name} measures a flow, but a distilled network is not a flow. Leave it out.")


def guided_twice(config: RunConfig) -> str | None:
    """Return a warning if the evaluation guides a flow that has learned guided pairs; None otherwise."""
    if not config.learned_guidance or config.evaluate.guidance.scale == 1:
        return None
    return (
        "the pairs that it learned are guided already, and "
        f"evaluate.guidance.scale={config.evaluate.guidance.scale:g} guides it again. "
        "Set evaluate.guidance.scale=1 for the flow that it has learned."
    )
