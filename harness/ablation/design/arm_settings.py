"""Settings in which the arms of a plan differ, by configuration path."""

from __future__ import annotations

import json
from typing import Any

from harness.ablation.design.plan import Plan
from harness.core.config import flatten, to_dict
from harness.runs.config import RunConfig
from harness.runs.folder import Run

TEACHER = "reflow.teacher"
LONGEST = 60
"""Largest number of characters of a value in a text; the JSON file has the full value."""

Settings = dict[str, Any]
"""{configuration path: value}; a component's own path holds its name."""


def configuration(config: RunConfig) -> dict[str, Any]:
    """Return all settings that results depend on, except the seed, in the form that `RunConfig.parse` reads."""
    plain = to_dict(config, digested=True)
    return {name: value for name, value in plain.items() if name != "seed"}


def differing(plan: Plan) -> dict[str, Settings]:
    """Return {arm: settings that differ from the baseline's}; for the baseline, its values of all such settings."""
    flat = {arm: flatten(config, run_only=False) for arm, config in plan.arms.items()}
    base = flat[plan.baseline]
    own = {
        arm: {path: value for path, value in found.items() if path not in base or base[path] != value}
        for arm, found in flat.items()
    }
    changed = {
        path
        for path, value in base.items()
        if any(path not in found or found[path] != value for found in flat.values())
    }
    return own | {plan.baseline: {path: value for path, value in base.items() if path in changed}}


def described(plan: Plan) -> dict[str, str]:
    """Return {arm: differing settings as a short text}; a teacher appears as its run's name, without the seed."""
    folded = {arm: _folded(plan, arm, own) for arm, own in differing(plan).items()}
    return {arm: ", ".join(f"{path} = {_short(value)}" for path, value in own.items()) for arm, own in folded.items()}


def _folded(plan: Plan, arm: str, own: Settings) -> Settings:
    teacher = plan.arms[arm].reflow.teacher
    if teacher is None or not any(path.startswith(TEACHER + ".") for path in own):
        return own
    kept = {path: value for path, value in own.items() if not path.startswith(TEACHER)}
    return kept | {TEACHER: f"run {Run.of(teacher).name.partition('-')[0]}"}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
