"""One trial of a study's plan: the unit that workers, and engines such as Slurm, carry out.

    python -m harness.ablation.execute.trial PLAN INDEX

runs the trial with this number (`Plan.numbered`) of the plan in the file PLAN: it trains and judges what its run
directory lacks. It ends with 0 once the trial has ended (also if the trial has no value, for a reason that its run
directory holds), with 2 after a mistake of the user, and with 130 after a signal that asked it to save and stop. The
same command then goes on. It also ends with 0 once a newer attempt at the trial, on any host, has taken over.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m` would import from the working directory
    del sys.path[0]

import contextlib
import math
import os
import time
from pathlib import Path

from harness.ablation.design.plan import Plan
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.shared import plugins_in
from harness.ablation.execute.node import settle
from harness.ablation.execute.slots import opened, store_of
from harness.ablation.execute.trials import title_of
from harness.core.errors import NoValue, Stopped, Superseded, UserError, guarded, leave, named
from harness.core.fence import OWNER, attempt, hold, lost
from harness.core.registry import load_plugins
from harness.core.signals import Stop, StopSignal
from harness.core.streams import steady
from harness.evaluation.metric import label_of
from harness.runs.contents import value_of
from harness.runs.folder import Run
from harness.runs.train import ensure
from harness.training.distributed import ALONE, Ranks, joined


def carry_out(plan: Plan, arm: str, seed: int, stop: Stop, ranks: Ranks = ALONE) -> Run:
    """Train and judge what the run of a trial lacks, and print its primary value; `NoValue` once the reason is printed.

    Raises `Stopped`. With several ranks, only the first prints and judges.
    """
    title = title_of(arm, seed)
    started = time.perf_counter()

    def say(text: str) -> None:
        if ranks.first:
            print(f"{title}: {text}", flush=True)

    try:
        with named(title):
            run = ensure(plan.config(arm, seed), say, stop, ranks=ranks)
    except NoValue as error:
        say(str(error))
        raise
    if not ranks.first:
        return run
    nfe, value = primary_value(plan, arm, run)
    label = label_of(plan.metric)
    measured = f"{label} {value:.4g} at NFE {nfe}" if nfe else f"judged without {label}"
    say(f"{measured}, {time.perf_counter() - started:.0f} s")
    return run


def primary_value(plan: Plan, arm: str, run: Run) -> tuple[str, float]:
    """Return NFE and value of a finished run's primary metric, at the primary NFE or else at the largest measured one.

    "" and infinity if it is not measured.
    """
    known = run.evaluation(plan.protocol(arm))
    values = known["values"].get(plan.metric)
    if not values:
        return "", math.inf
    nfe = str(plan.nfe) if str(plan.nfe) in values else max(values, key=int)
    value = value_of(known, plan.metric, int(nfe))
    assert value is not None
    return nfe, value


def main(words: list[str], stop: Stop, ranks: Ranks = ALONE) -> None:
    """Run the trial that the arguments PLAN and INDEX name; `UserError` if there is none.

    With several ranks, only the first prints, and ends as stopped.
    """
    if len(words) != 2 or not words[1].isdecimal():
        raise UserError(f"{' '.join(words) or 'no arguments'}: give the file of a plan and the number of a trial.")
    path = Path(words[0])
    load_plugins(plugins_in(path))
    run = _run_slot if path.name == SearchPlan.FILE else _run_trial
    try:
        run(path, int(words[1]), stop, ranks)
    except Superseded as error:
        if ranks.first:
            print(error, flush=True)
    except Stopped:
        if ranks.first:
            raise


def _run_trial(path: Path, number: int, stop: Stop, ranks: Ranks) -> None:
    """Run a trial of the study plan in the file `path`."""
    plan = Plan.read(path)
    trials = plan.numbered()
    if number not in trials:
        raise UserError(f"{number}: {plan.name} has no such trial. Its numbers are {min(trials)} to {max(trials)}.")
    plan = settle(plan, path.parent)
    arm, seed = trials[number]
    run = plan.run(arm, seed)
    ended = run.ended(plan.protocol(arm))  # then nothing is left to write
    fence = hold(run.folder / OWNER, attempt()) if ranks.first and not ended else contextlib.nullcontext()
    with fence, contextlib.suppress(NoValue):  # the trial has ended, and its run directory holds the reason
        carry_out(plan, arm, seed, stop, ranks)


def _run_slot(path: Path, slot: int, stop: Stop, ranks: Ranks) -> None:
    """Run the trial of a slot of the search plan in the file `path`."""
    if ranks.number > 1:
        raise UserError("a trial of a search is one process. Leave out --processes.")
    opened(settle(SearchPlan.read(path), path.parent), store_of()).carry_out(slot, stop)


def _with_ranks() -> None:
    parent = os.getppid()

    def leaves() -> bool:
        """Whether a newer attempt has taken over, or the launcher's process, which would end this one, is lost."""
        return lost() or ("HARNESS_ENDS_WITH_PARENT" in os.environ and os.getppid() != parent)

    with joined() as ranks:
        main(sys.argv[1:], StopSignal(leaves), ranks)


if __name__ == "__main__":
    steady()
    leave(guarded(_with_ranks))
