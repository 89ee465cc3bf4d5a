"""`harness ablate`: the arms of a study trained and compared; the same command continues it."""

from __future__ import annotations

import argparse

from rich.console import Console

from harness.ablation.design.plan import Plan
from harness.ablation.execute.placement import Placement, choose, given
from harness.ablation.report.outcomes import is_asked
from harness.cli.plans import carry_out, plan_of, prepare, refuse_short, training_command
from harness.core.config import parse_assignments
from harness.core.progress import terminal
from harness.core.signals import StopSignal
from harness.data.base import load
from harness.runs.explain import Explained, alike
from harness.training.advice import cut_short, warnings


def run(options: argparse.Namespace) -> None:
    """Choose how the trials share this machine, run them and report."""
    console = terminal()
    plan, placement = placed(options, plan_of(options), console)
    compare(options, plan, placement, console, StopSignal())


def placed(options: argparse.Namespace, plan: Plan, console: Console) -> tuple[Plan, Placement]:
    """The plan with the threads of a trial, and how trials share this machine: as the options say, or as is fastest."""
    varied = len({config.train.threads for config in plan.arms.values()}) > 1
    by_hand = options.workers is not None or options.trials_per_gpu is not None
    if by_hand or varied or "train.threads" in parse_assignments(options.changes):
        return plan, given(plan, options.workers, options.trials_per_gpu)
    refuse_short(plan)
    placement = choose(plan, lambda text: console.print(f"- {text}"))
    return plan.threaded(placement.threads), placement


def compare(
    options: argparse.Namespace, plan: Plan, placement: Placement, console: Console, stop: StopSignal, *notes: str
) -> None:
    """Run the plan of a study and report it, with `notes` under its table."""
    size = f"{len(plan.arms)} arms x {len(plan.seeds)} seeds at the scale {plan.scale}"
    console.print(f"{plan.question}\n{size}; plan {plan.digest}")
    judge = prepare(plan, console, stop, placement)
    _warn(plan, console)
    carry_out(plan, placement, judge, training_command(options), console, stop, *notes)


def _warn(plan: Plan, console: Console) -> None:
    """Say which arms mean the same, what was noticed in the data, and what practice advises against."""
    for line in alike({name: Explained.of(config) for name, config in plan.arms.items()}):
        console.print(f"- {line}")
    for line in dict.fromkeys(line for config in plan.arms.values() for line in load(config.dataset).notes):
        console.print(f"- {line}")
    for line, arms in advice_on(plan).items():
        whom = "every arm" if len(arms) == len(plan.arms) else ", ".join(arms)
        console.print(f"- advice for {whom}: {line}")


def advice_on(plan: Plan) -> dict[str, list[str]]:
    """What practice advises against, with the arms that do it."""
    said: dict[str, list[str]] = {}
    if apart := [name for name, config in plan.arms.items() if not is_asked(plan, config)]:
        said[f"no verdict without {plan.metric} at NFE {plan.nfe}, which evaluate.nfe leaves out"] = apart
    for name, config in plan.arms.items():
        for line in [*cut_short(config.train), *warnings(config.train, load(config.dataset), config)]:
            said.setdefault(line, []).append(name)
    return said
