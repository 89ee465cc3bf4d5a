"""What a table says about arms that are matched in their training cost."""

from __future__ import annotations

from typing import Any

from harness.ablation.design.matching import By
from harness.ablation.design.plan import Plan

WORDS: dict[By, str] = {
    "samples": "training samples",
    "flops": "floating-point operations of its network in training",
    "seconds": "seconds of training steps",
}
TOLD = 0.01
"""The report mentions a relative error of matching above this."""


def about(plan: Plan) -> list[str]:
    """Return the sentences about matched arms; empty for a plan without matching."""
    if (found := plan.matching) is None:
        return []
    steps = {arm: config.train.steps for arm, config in plan.arms.items()}
    own = [
        f"{arm} {steps[arm]} steps" + (f", each {cost:.4g} times as much" if cost != 1 else "")
        for arm, cost in found.costs.items()
    ]
    lines = [f"Matched: every arm gets as many {WORDS[found.by]} as {plan.baseline}: {'; '.join(own)}."]
    if any(config.parent for config in plan.arms.values()):
        lines[0] += " The cost of making pairs and training teachers is not counted."
    if off := {arm: error for arm, error in found.errors.items() if abs(error) > TOLD}:
        told = ", ".join(f"{arm} {error:+.1%}" for arm, error in off.items())
        lines.append(
            f"Steps are whole numbers, and few here, so some arms spend more or less than {plan.baseline}: {told}."
        )
    if found.timed:
        places = "; ".join(dict.fromkeys(own["where"] for own in found.timed.values()))
        widest = max(own["most"] / own["least"] for own in found.timed.values()) - 1
        lines.append(
            f"Seconds were measured on one machine ({places}) before the first run; the rounds of a measurement differ "
            f"by up to {widest:.1%}."
        )
    return lines


def plain(plan: Plan) -> dict[str, Any] | None:
    """Return the same for JSON; None for a plan without matching."""
    if (found := plan.matching) is None:
        return None
    return {**vars(found), "steps": {arm: config.train.steps for arm, config in plan.arms.items()}}
