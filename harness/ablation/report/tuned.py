"""What a table says about arms that were tuned before they were compared."""

from __future__ import annotations

from typing import Any

from optuna.distributions import json_to_distribution

from harness.ablation.design.plan import Plan
from harness.ablation.design.space import at_ends, bare, settings
from harness.ablation.design.tuned import Found
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report.history import ENDED, counted
from harness.evaluation.metric import label_of


def found(board: SearchBoard) -> Found:
    """Return the best of a search that has ended."""
    best = board.best()
    assert best.value is not None
    return Found(
        settings=settings(best.params), value=best.value, trials=dict(counted(board)), search=board.plan.digest
    )


def about(plan: Plan) -> list[str]:
    """Return the sentences about tuned arms; empty for a plan without tuning."""
    if (tuning := plan.tuning) is None:
        return []
    budget = tuning.budget
    drawn = ", ".join(bare(name) for name in budget["spaces"][plan.scale])
    samples = min(budget["samples"], plan.arms[plan.baseline].evaluate.samples_at(plan.nfe))
    metric = label_of(plan.metric)
    lines = [
        "The verdicts are about tuned arms: each has the best settings of a search that is the same for all, "
        f"{budget['trials']} trials over {drawn} by {metric} at NFE {plan.nfe} of {samples} "
        f"samples, on seed {budget['seed']}, which no verdict sees. A search's best value is the luckiest of many."
    ]
    for arm, own in tuning.found.items():
        chosen = ", ".join(f"{path} {value}" for path, value in own["settings"].items())
        ends = ", ".join(f"{number} {ENDED.get(state, state)}" for state, number in own["trials"].items())
        lines.append(f"{arm} was tuned to {chosen} ({metric} {own['value']:.4g}; {ends}; search {own['search']}).")
        space = {name: json_to_distribution(text) for name, text in budget["spaces"][plan.scale].items()}
        if near := at_ends(space, own["settings"]):
            lines.append(f"{arm}: {', '.join(near)} lies near an end of its range, so better values may lie outside.")
    if len({config.train.batch_size for config in plan.arms.values()}) > 1:
        lines.append("With the same number of steps, the arms see different numbers of training samples.")
    return lines


def plain(plan: Plan) -> dict[str, Any] | None:
    """Return the same for JSON; None for a plan without tuning."""
    return vars(plan.tuning) if plan.tuning else None
