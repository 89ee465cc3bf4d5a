"""A study of three arms with looks at 3, 5 and 8 seeds, and invented values instead of trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.ablation.design.plan import Plan
from harness.ablation.design.study import Study
from harness.runs.config import RunConfig

ARMS: dict[str, dict[str, Any]] = {"a": {}, "b": {"weighting": "data_end"}, "c": {"weighting": "noise_end"}}
STUDY = Study(
    name="toy", question="Which end?", baseline="a", arms=ARMS, nfe=2, smallest_difference=0.1, looks=(3, 5, 8)
)
LEVELS = {"a": 10.0, "b": 5.0, "c": 10.2}


def planned(
    base: RunConfig, study: Study = STUDY, seeds: int | None = None, changes: Mapping[str, Any] | None = None
) -> Plan:
    return Plan.of(study, "digits", base, changes or {}, seeds, [])


def measure(plan: Plan, score: Callable[..., None]) -> None:
    """Write values for the open trials of a plan: b is much better than a; c is near a and noisy."""
    for arm, seed in plan.unfinished():
        off = 1 + (0.1 if seed % 2 else -0.1) * (arm == "c") + 0.001 * (arm == "b") * seed
        score(plan.run(arm, seed), plan.protocol(arm), {1: 20.0, 2: LEVELS[arm] * off})
