"""Preregistration: the plan of a study is stored before its first run, so tables can mark what was not planned.

    results/local/plans/<plan's name>.json

holds every plan that ran under that name, oldest first, and how many of its trials had ended before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from harness.ablation.design.plan import Plan
from harness.core.config import digest, to_dict
from harness.core.files import read_json, results_folder, write_json
from harness.core.provenance import commit


class Stored(TypedDict):
    """A plan as it was stored."""

    plan: str
    """Its digest."""
    stored: str
    """Date and time in UTC."""
    commit: str
    ended: int
    """Number of its trials that had ended before: as runs of an earlier plan, or of another study."""
    design: dict[str, Any]
    """{name: planned value}; for each arm, the digest of its configuration."""


REMEDY = "Remove it and the next `harness ablate` stores the plan again."


def preregister(plan: Plan) -> None:
    """Store the plan, unless the last plan stored under its name is the same."""
    known = stored(plan)
    if known and known[-1]["plan"] == plan.digest:
        return
    everything = plan.up_to(plan.looks.last) if plan.seeds == tuple(range(len(plan.seeds))) else plan
    trials = everything.trials()
    now: Stored = {
        "plan": plan.digest,
        "stored": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "ended": len(trials) - len(everything.unfinished()),
        "design": _design(plan),
    }
    write_json(_place(plan), [*known, now])


def stored(plan: Plan) -> list[Stored]:
    """Return all plans stored under the name of this plan, oldest first."""
    return read_json(_place(plan), list[Stored], REMEDY) if _place(plan).exists() else []


def unplanned(plan: Plan) -> list[str]:
    """Return the parts of a plan that were not planned before its first run, one sentence each.

    A report may come before the next `harness ablate`, which would store a changed plan.
    """
    history = stored(plan)
    place = next((i for i, found in enumerate(history) if found["plan"] == plan.digest), None)
    lines = []
    if history and place is None:
        last = history[-1]
        changed = _changed(last["design"], _design(plan))
        lines.append(f"Not planned: the runs were made for the plan of {last['stored']} UTC. Since then: {changed}.")
    elif place is not None and history[place]["ended"]:
        now = history[place]
        before = f": {_changed(history[place - 1]['design'], now['design'])}" if place else ""
        lines.append(
            f"Not planned from the start: {now['ended']} trials had ended when this plan was stored "
            f"({now['stored']} UTC){before}."
        )
    reached = plan.looks.within(len(plan.seeds))
    if extra := plan.seeds[plan.looks.seeds[reached - 1] if reached else 0 :]:
        looks = ", ".join(map(str, plan.looks.seeds))
        others = "the last seed takes" if len(extra) == 1 else f"the last {len(extra)} seeds take"
        lines.append(
            f"Not planned: no look is at {len(plan.seeds)} seeds (looks are at {looks}); "
            f"{others} no part in the verdicts."
        )
    return lines


def _place(plan: Plan) -> Path:
    return results_folder() / "local" / "plans" / f"{plan.name}.json"


def _design(plan: Plan) -> dict[str, Any]:
    """Return the parts of a design whose change a reader wants to see."""
    return {
        "question": plan.question,
        "baseline": plan.baseline,
        "metric": plan.metric,
        "nfe": plan.nfe,
        "smallest difference": plan.smallest_difference,
        "looks": list(plan.looks.seeds),
        "spending": plan.looks.spending,
        **({"expected NFE": dict(plan.expected_nfe)} if plan.expected_nfe else {}),
        **({"matched by": plan.matching.by} if plan.matching else {}),
        **({"tuned by": plan.tuning.budget} if plan.tuning else {}),
        **({"verdicts": sorted(plan.contrasts)} if plan.crossing else {}),
        "arms": {arm: digest(to_dict(config, digested=True)) for arm, config in plan.arms.items()},
    }


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe how a design differs from the one before it."""
    names = [name for name in {**before, **now} if name != "arms" and before.get(name) != now.get(name)]
    said = [f"{name} {before.get(name, 'unset')} became {now.get(name, 'unset')}" for name in names]
    arms, then = now["arms"], before["arms"]
    kinds = {
        "new": arms.keys() - then.keys(),
        "gone": then.keys() - arms.keys(),
        "changed": {arm for arm in arms.keys() & then.keys() if arms[arm] != then[arm]},
    }
    said += [f"{kind}: {', '.join(sorted(names))}" for kind, names in kinds.items() if names]
    return "; ".join(said) or "the code or the data changed"
