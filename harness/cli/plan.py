"""`harness plan`: forecasts what a study takes and what it can show, before it is trained."""

from __future__ import annotations

import argparse
import shutil

from rich.console import Console

from harness.ablation.design.looks import LEVEL
from harness.ablation.design.plan import Plan
from harness.ablation.design.preregistration import stored, unplanned
from harness.ablation.execute.forecast import Forecast, forecast
from harness.ablation.execute.placement import Placement, rate_of
from harness.ablation.report.looks import decided
from harness.ablation.report.outlook import Effects, Outlook
from harness.ablation.report.spent import Parts, measured
from harness.cli.ablate import placed
from harness.cli.advice import warn
from harness.cli.plans import plan_of, refuse_broken, refuse_short
from harness.core.files import results_folder
from harness.core.memory import free_bytes, size
from harness.core.progress import duration, terminal
from harness.runs.estimate import limit
from harness.runs.explain import Explained, percent
from harness.runs.identity import training_digest
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
    rate = rate_of(given, placement)
    alone = [trainings_alone(plan, rate)] if rate and plan.unfinished() else []
    for line in (*status(plan), memory_needed(plan), *alone):
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


def trainings_alone(plan: Plan, rate: float) -> str:
    """Return a sentence about the time of the trainings of unfinished trials, at `rate` samples a second together."""
    flows = [flow for trial in plan.unfinished() for flow in plan.run(*trial).config.flows]
    left = {(training_digest(flow), flow.seed): flow.train for flow in flows}
    seconds = sum(train.steps * train.batch_size for train in left.values()) / rate
    return f"If all train as fast as {plan.baseline}, the trainings alone take at most {duration(seconds)}."


def memory_needed(plan: Plan) -> str:
    """Return a sentence about the memory of the trial that needs the most."""
    needed = {arm: memory_of(config) for arm, config in plan.arms.items()}
    arm = max(needed, key=lambda arm: needed[arm])
    free = size(free_bytes(plan.arms[arm].train.usable_device()))
    return f"A trial of {arm} holds about {size(needed[arm])} of memory, the most; {free} are free."


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
    needed = outlook.until(decided(plan)).bytes
    folder = next(place for place in (results_folder(), *results_folder().parents) if place.exists())
    if needed > (free := shutil.disk_usage(folder).free):
        lines.append(f"warning: the study needs {size(needed)}, but the disk of {folder} has only {size(free)} free.")
    return lines
