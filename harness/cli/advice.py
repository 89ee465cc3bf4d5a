"""Lines printed before a study trains: how its arms are matched and crossed, which mean the same, and advice."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.report import matching
from harness.core.errors import listed
from harness.data.base import load
from harness.evaluation.metric import label_of
from harness.runs.explain import Explained, alike, percent
from harness.training.advice import cut_short, warnings

WASTED = 0.1
"""Below this effective share of a batch, most samples contribute almost nothing to the gradient."""


def warn(plan: Plan, console: Console) -> None:
    """Print the notes, warnings and advice on a plan, one per line."""
    explained = {name: Explained.of(config) for name, config in plan.arms.items()}
    notes = dict.fromkeys(line for config in plan.arms.values() for line in load(config.dataset).notes)
    crossing = plan.crossing.told() if plan.crossing else []
    for line in (*matching.about(plan), *crossing, *alike(explained), *wasteful(explained), *notes):
        console.print(f"- {line}", soft_wrap=True)
    for line, arms in advice_on(plan).items():
        whom = "every arm" if len(arms) == len(plan.arms) else listed(arms)
        console.print(f"- advice for {whom}: {line}", soft_wrap=True)


def wasteful(arms: Mapping[str, Explained]) -> list[str]:
    """Return a warning for each arm with an effective share below `WASTED`."""
    lines = []
    for name, arm in arms.items():
        batch = arm.config.train.batch_size
        if (share := arm.effective_share()) < WASTED:
            lines.append(
                f"warning for {name}: the effective share of a batch is {percent(share)}. A few samples have nearly "
                f"all of the weight: the gradient is as noisy as that of {max(1, round(share * batch))} of {batch} "
                "samples. Draw more times where the weight is large (time_sampler), or clip the weight."
            )
    return lines


def advice_on(plan: Plan) -> dict[str, list[str]]:
    """Return each piece of advice, with the arms that it concerns."""
    said: dict[str, list[str]] = {}
    if apart := [arm for arm in plan.arms if not plan.asks(arm)]:
        missing = f"evaluate.nfe leaves out NFE {plan.nfe}, so {label_of(plan.metric)} is not measured there"
        said[f"no verdict: {missing}"] = apart
    for name, config in plan.arms.items():
        for line in [*cut_short(config.train), *warnings(config.train, load(config.dataset), config)]:
            said.setdefault(line, []).append(name)
    return said
