"""`harness variance`: judges finished runs on further samples, and splits the variance into training and sampling."""

from __future__ import annotations

import argparse
import contextlib

from harness.ablation.design.plan import Plan
from harness.ablation.execute.resample import Resampling
from harness.ablation.report import resampled_tables
from harness.ablation.report.resampled import found
from harness.cli.plans import as_trained, plan_of, training_command, with_reference
from harness.cli.shared import as_typed, own_folder, told
from harness.core.progress import shown, terminal
from harness.core.signals import StopSignal
from harness.evaluation.metric import label_of
from harness.runs.room import require_judging_room


def run(options: argparse.Namespace) -> None:
    """Judge the draws without a value, then split the variance and report it; nothing is trained."""
    console = terminal()
    stop = StopSignal()
    plan = plan_of(options)
    everything = plan.up_to(plan.looks.last) if options.seeds is None else plan
    design = Resampling.of(_finished(everything), options.sampling_seeds)
    design.require_two(training_command(options))
    plan = design.plan
    config = design.run(plan.baseline, design.seeds[plan.baseline][0], 0).config
    require_judging_room(config)
    with_reference(config, console, stop)
    numbers = ", ".join(f"{number:,}" for number in design.numbers)
    draws = design.draws()
    console.print(
        f"{plan.name}: {len(draws)} draws of {design.numbers[-1]:,} samples at NFE {plan.nfe}, "
        f"judged by {label_of(plan.metric)} of the first {numbers} of them"
    )
    with contextlib.closing(shown(design.judge(stop), f"variance {plan.name}", len(draws), console)) as judged:
        for _ in judged:
            pass
    report = found(design)
    paths = resampled_tables.write(report, own_folder(), as_typed())
    resampled_tables.show(report, console)
    told(paths, console)


def _finished(plan: Plan) -> Plan:
    """Return the plan with the number of threads that has more finished runs."""
    return max(as_trained(plan), key=lambda each: sum(each.run(*trial).finished for trial in each.trials()))
