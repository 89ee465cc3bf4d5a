"""`harness plan`: forecasts what a study takes and what it can show, before it is trained."""

from __future__ import annotations

import argparse
import shutil

from rich.console import Console

from harness.ablation.design.looks import LEVEL
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import stored, unplanned
from harness.ablation.execute.forecast import Forecast, forecast
from harness.ablation.execute.placement import Placement
from harness.ablation.report.looks import decided
from harness.ablation.report.outlook import Effects, Outlook
from harness.ablation.report.spent import Parts, measured
from harness.cli.ablate import placed
from harness.cli.advice import warn
from harness.cli.plans import plan_of, refuse_broken, refuse_short
from harness.core.files import results_folder
from harness.core.memory import free_bytes, size
from harness.core.progress import terminal
from harness.runs.estimate import limit
from harness.runs.explain import Explained, percent
from harness.runs.room import memory_of


def run(options: argparse.Namespace) -> None:
    """Print the forecast. Only the measured placement of trials is stored; `harness ablate` would measure it too."""
    console = terminal()
    given = plan_of(options, found=False)
    refuse_broken(given)
    plan, placement = placed(options, given, console)
    refuse_short(plan, placement)
    if options.seeds is None:
        plan = plan.up_to(plan.looks.last)
    console.print(plan.question)
    for line in status(plan):
        console.print(line, soft_wrap=True)
    known = measured(plan)
    found = _tried(plan, placement, known, console)
    outlook = Outlook(plan, placement.workers, known, Parts(found.trainings, found.evaluations))
    outlook.looks().show(console)
    shares = {arm: Explained.of(config).effective_share() for arm, config in plan.arms.items()}
    outlook.arms(shares).show(console)
    lines = remarks(outlook, placement, found)
    if plan.tested:
        effects = Effects.of(plan)
        effects.grid().show(console)
        lines += effects.words()
    for line in lines:
        console.print(f"- {line}", soft_wrap=True)
    warn(plan, console)


def status(plan: Plan) -> list[str]:
    """Return lines that say whether the plan is stored, and what in it was not planned."""
    about = f"{len(plan.arms)} arms at the scale {plan.scale}; plan {plan.digest}"
    history = {known["plan"]: known for known in stored(plan)}
    if known := history.get(plan.digest):
        return [f"{about}, stored {known['stored']} UTC.", *(f"- {line}" for line in unplanned(plan))]
    ended = len(plan.trials()) - len(plan.unfinished())
    lines = [f"{about}, not stored yet: `harness ablate` stores it before its first run."]
    if ended:
        lines.append(f"- {ended} trials ended before the plan was stored. Its tables will say so.")
    return [*lines, *(f"- {line}" for line in unplanned(plan))]


def _tried(plan: Plan, placement: Placement, known: Parts, console: Console) -> Forecast:
    """Run small trials of the unfinished arms that were never measured completely on this machine."""
    left = dict.fromkeys(arm for arm, _ in plan.unfinished())
    arms = [arm for arm in left if arm not in known.evaluations or not known.trained(plan.arms[arm])]
    if not arms:
        return Forecast()
    console.print(f"running small trials of {', '.join(arms)}, {placement} ...", soft_wrap=True)
    return forecast(plan, placement, arms)


def remarks(outlook: Outlook, placement: Placement, found: Forecast) -> list[str]:
    """Return notes on how to read the tables."""
    plan = outlook.plan
    lines = [
        "Trials, time and disk are upper limits: an arm that a look decides gets no more seeds.",
        "Level: the two-sided error level of one arm at one look. The chance of any wrong verdict in the study is at "
        f"most {percent(LEVEL)}.",
        "Share: the part of a batch that would give the same gradient noise with equal weights, (E w)^2 / E w^2 of the "
        "weights w.",
        f"Times are for trials {placement}, under this machine's present load. They leave out the start of the workers "
        "and the features of the reference, which are computed once.",
    ]
    if found.evaluations:
        lines.append("A small trial has few steps and few samples; its times are scaled up to a whole trial.")
    most = {arm: config.evaluate for arm, config in plan.arms.items() if arm in found.evaluations}
    if extended := [arm for arm, how in most.items() if how.num_samples > limit(how)]:
        lines.append(
            f"The metrics of {', '.join(extended)} were timed on fewer samples than the study takes. Their times "
            "assume linear growth in the number of samples."
        )
    lines += [f"{arm}: its small trial gave no times: {reason}" for arm, reason in found.failures.items()]
    held = {arm: memory_of(config) for arm, config in plan.arms.items()}
    largest = max(held, key=lambda arm: held[arm])
    free_memory = size(free_bytes(plan.arms[largest].train.resolved_device()))
    lines.append(f"A trial of {largest} holds about {size(held[largest])} of memory, the most; {free_memory} are free.")
    needed = outlook.until(decided(plan)).bytes
    folder = next(place for place in (results_folder(), *results_folder().parents) if place.exists())
    if needed > (free := shutil.disk_usage(folder).free):
        lines.append(f"warning: the study needs {size(needed)}, but the disk of {folder} has only {size(free)} free.")
    return lines
