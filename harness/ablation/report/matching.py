"""What a table says of arms that are trained for as much."""

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
"""What an arm spends more or less than the baseline is told from this share on."""


def about(plan: Plan) -> list[str]:
    """The sentences of a plan whose arms are matched; none of another."""
    if (found := plan.matching) is None:
        return []
    steps = {arm: config.train.steps for arm, config in plan.arms.items()}
    own = [
        f"{arm} {steps[arm]} steps" + (f", each {cost:.4g} times as much" if cost != 1 else "")
        for arm, cost in found.costs.items()
    ]
    lines = [f"Matched: every arm gets as many {WORDS[found.by]} as {plan.baseline}: {'; '.join(own)}."]
    if any(config.parent for config in plan.arms.values()):
        lines[0] += " What making pairs and training teachers cost is not counted."
    if off := {arm: error for arm, error in found.errors.items() if abs(error) > TOLD}:
        told = ", ".join(f"{arm} {error:+.1%}" for arm, error in off.items())
        lines.append(f"Steps are whole, and few here, so these spend more or less than {plan.baseline}: {told}.")
    if found.timed:
        places = "; ".join(dict.fromkeys(own["where"] for own in found.timed.values()))
        widest = max(own["most"] / own["least"] for own in found.timed.values()) - 1
        lines.append(
            f"Seconds are those of one machine ({places}), measured before the first run; the rounds of a measurement "
            f"differ by up to {widest:.1%}."
        )
    return lines


def plain(plan: Plan) -> dict[str, Any] | None:
    """The same as JSON holds it; null for a plan whose arms are not matched."""
    if (found := plan.matching) is None:
        return None
    return {**vars(found), "steps": {arm: config.train.steps for arm, config in plan.arms.items()}}
