"""`harness evaluate`: evaluates finished runs, or compares the ways of sampling that `--sweep` names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from harness.ablation.design import sweep
from harness.ablation.execute.placement import given
from harness.cli.plans import carry_out, prepare, with_reference
from harness.cli.shared import as_typed, following, opened
from harness.core.config import flatten
from harness.core.errors import NoValue
from harness.core.progress import terminal
from harness.core.signals import StopSignal
from harness.evaluation.doubts import doubts, short_of_samples
from harness.evaluation.judge import Judge
from harness.runs.folder import Run
from harness.runs.judge import evaluate
from harness.runs.room import require_judging_room
from harness.runs.sample import restore

CHOSEN = "calls that dopri5 chooses"
"""What a line says in place of the NFE of a metric of the flow that fixes none."""


def run(options: argparse.Namespace) -> None:
    """Judge every run; known values are not computed again. At the end, raise the error of the first missing value."""
    runs = [opened(name, options.changes) for name in options.runs]
    if options.sweep:
        return _sweep(runs, options)
    stop = StopSignal()
    errors = [error for run in runs if (error := _evaluate(run, stop))]
    if errors:
        raise errors[0]


def _evaluate(run: Run, stop: StopSignal) -> NoValue | None:
    """Judge a run and print its values; return the error if one is missing, or None."""
    require_judging_room(run.config)
    trained = restore(run)
    judge = with_reference(run.config, terminal(), stop)
    lacks: NoValue | None = None
    name = f"{run.config.dataset.name} {run.name}"
    with following(run, judge.protocol, "evaluate", True, name, flatten(run.config, run_only=False)):
        try:
            evaluate(run, trained, judge, stop)
        except NoValue as error:
            lacks = error
    known = run.evaluation(judge.protocol)
    doubtful = doubts(known["values"], run.config.evaluate.metrics, known["intervals"])
    few = short_of_samples(run.config.evaluate, judge.data)
    for line in filter(None, (*_values(run, judge, known), few, *doubtful)):
        print(line)
    return lacks


def _values(run: Run, judge: Judge, known: dict[str, Any]) -> list[str]:
    """Return a line for every metric and NFE in the evaluation `known`."""
    lines = []
    config = run.config.evaluate
    for metric in config.metrics:
        usual = f", {config.num_samples:,} samples" if config.more and metric in config.sample_metrics else ""
        for text, value in known["values"].get(metric.name, {}).items():
            spent = f"NFE {text}"
            if text == "0":
                spent = CHOSEN if metric in config.flow_metrics else _chosen(run, known["calls"].get(text, {}))
            found = [(value, known["intervals"].get(metric.name, {}).get(text), usual)]
            if more := known["precise"].get(metric.name, {}).get(text):
                found.append((more["value"], more.get("interval"), f", {more['samples']:,} samples, for verdicts"))
            for value, ends, number in found:
                interval = f" ({ends[0]:.6g} to {ends[1]:.6g})" if ends else ""
                lines.append(
                    f"{metric.label} {value:.6g}{interval} at {spent}{number}, protocol {judge.protocol.digest}"
                )
    return lines


def _chosen(run: Run, calls: dict[str, float]) -> str:
    """Return the number of calls that an adaptive solver used, in words."""
    return f"{calls['mean']:.1f} ± {calls['sd']:.1f} calls chosen by {run.config.evaluate.solver.name}"


def _sweep(runs: Sequence[Run], options: argparse.Namespace) -> None:
    """Judge runs in every way that `--sweep` names, and compare the ways."""
    console = terminal()
    stop = StopSignal()
    plan = sweep.plan_of(runs, sweep.axes_of(options.sweep), options.plugin)
    placement = given(plan, options.workers)
    judge = prepare(plan, console, stop, placement)
    carry_out(plan, placement, judge, as_typed(), console, stop, experiment="evaluate")
