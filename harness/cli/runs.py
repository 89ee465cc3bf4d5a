"""Commands about single runs: train, sample, evaluate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import override, parse_assignments
from harness.core.errors import NoValue, UserError
from harness.runs.judge import judge_of

if TYPE_CHECKING:
    from harness.ablation.design.plan import Plan
    from harness.core.signals import StopSignal
    from harness.data.base import Data
    from harness.flow.sampling import Generated
    from harness.runs.folder import Run


def train(options: argparse.Namespace) -> None:
    """Train one run; the same command continues it. Under torchrun, its processes train it together."""
    from harness.ablation.design.study import load_scale
    from harness.core.signals import StopSignal
    from harness.data.base import load
    from harness.evaluation.protocol import Protocol
    from harness.runs.folder import Run
    from harness.runs.train import train
    from harness.runs.validate import check, refuse_guided_twice, refuse_idle
    from harness.training.advice import warnings
    from harness.training.distributed import joined

    changes = parse_assignments(options.changes)
    config = override(load_scale(options.scale), changes)
    refuse_idle(changes, [config])
    refuse_guided_twice(changes, config)
    check(config)
    data = load(config.dataset)
    run = Run.of(config)
    with joined() as ranks:
        if not ranks.first:
            return train(run, lambda text: None, StopSignal(), ranks)
        with _following(run, Protocol.of(config.evaluate, data), "train", evaluated=False) as say:
            for line in (*data.notes, *(f"advice: {line}" for line in warnings(config.train, data, config))):
                say(line)
            train(run, say, StopSignal(), ranks)
    print(f"trained {run.name}: {run.folder}")


def sample(options: argparse.Namespace) -> None:
    """Samples of a finished run as a picture or arrays."""
    import dataclasses

    from harness.data.base import load
    from harness.data.pictures import require_drawable
    from harness.runs.folder import Run
    from harness.runs.sample import picture, restore, samples

    if options.number < 1:
        raise UserError(f"--number: {options.number} is less than 1. Draw one or more.")
    if options.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out: {options.out} is neither .png nor .npz. Name the file by what you want.")
    nfe = options.nfe if options.nfe is not None else 1 if Run.find(options.run).config.reflow.distil else 32
    run = _existing(options.run, [*options.changes, f"evaluate.nfe=[{nfe}]"])
    if options.seed is not None:
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, seed=options.seed))
    data = load(run.config.dataset)
    label = None if options.label is None else _label(run, data, options.label)
    if options.out.suffix == ".png":
        require_drawable(data.kind, options.number)
        picture(run, restore(run), nfe, options.number, options.out, label)
    else:
        _write_samples(
            list(samples(run, restore(run), nfe, options.number, label=label)), data.class_names, options.out
        )
    print(
        f"wrote {options.out}: {options.number} samples at NFE {nfe} by {run.config.evaluate.solver.name}, seed {run.config.seed}"
    )


def _label(run: Run, data: Data, given: str) -> int:
    """The number of a class, given by its name, or so where classes have none."""
    from harness.core.errors import did_you_mean

    if not run.config.conditional:
        raise UserError(
            f"--label: {run.name} was trained without classes. Leave it out, or train with objective.label_dropout=0.1."
        )
    known = data.class_names or tuple(map(str, range(data.num_classes)))
    if given not in known:
        raise UserError(f"--label: '{given}' is no class. {did_you_mean(given, known)}")
    return known.index(given)


def _write_samples(batches: Sequence[Generated], class_names: Sequence[str], path: Path) -> None:
    """`samples` and, where there are some, their `classes` and the `class_names` that these count in, as an .npz."""
    import numpy as np
    import torch

    from harness.core.files import npz, write_atomic

    arrays = {"samples": torch.cat([batch.x for batch in batches]).cpu().numpy()}
    if batches[0].y is not None:
        arrays["classes"] = torch.cat([batch.y for batch in batches if batch.y is not None]).cpu().numpy()
        if class_names:
            arrays["class_names"] = np.array(class_names)
    write_atomic(path, npz(arrays))


def evaluate(options: argparse.Namespace) -> None:
    """Judge finished runs; what is known is not computed again."""
    from harness.core.signals import StopSignal

    runs = [_existing(name, options.changes) for name in options.runs]
    if options.sweep:
        return _sweep(runs, options)
    stop = StopSignal()
    errors = [error for run in runs if (error := _evaluate(run, stop))]
    if errors:
        raise errors[0]


def _evaluate(run: Run, stop: StopSignal) -> NoValue | None:
    """Judge a run and print its values; why one is missing, or None."""
    from rich.console import Console

    from harness.evaluation.doubts import doubts, short_of_samples
    from harness.runs.judge import evaluate
    from harness.runs.sample import restore

    trained = restore(run)
    judge = judge_of(run.config, stop=stop)
    lacks: NoValue | None = None
    with _following(run, judge.protocol, "evaluate", evaluated=True):
        try:
            evaluate(run, trained, judge, stop)
        except NoValue as error:
            lacks = error
    known, solver = run.evaluation(judge.protocol), run.config.evaluate.solver.name
    for metric in run.config.evaluate.metrics:
        for text, value in known["values"].get(metric.name, {}).items():
            low, high = known["intervals"].get(metric.name, {}).get(text, (None, None))
            interval = "" if low is None else f" ({low:.6g} to {high:.6g})"
            calls = known["calls"].get(text, {})
            spent = (
                f"NFE {text}" if text != "0" else f"{calls['mean']:.1f} ± {calls['sd']:.1f} calls chosen by {solver}"
            )
            Console().print(
                f"{metric.name} {value:.6g}{interval} at {spent}, protocol {judge.protocol.digest}", highlight=False
            )
    for line in (
        short_of_samples(run.config.evaluate, judge.data),
        *doubts(known["values"], run.config.evaluate.metrics, known["intervals"]),
    ):
        if line:
            print(line)
    return lacks


def _sweep(runs: Sequence[Run], options: argparse.Namespace) -> None:
    """Judge runs in every way that `--sweep` names, and compare the ways."""
    from rich.console import Console

    from harness.ablation.design import sweep
    from harness.core.signals import StopSignal
    from harness.runs.mlflow_mirror import Mirror
    from harness.runs.progress import Trial, Watch

    plan, console, stop = sweep.plan_of(runs, sweep.axes_of(options.sweep)), Console(), StopSignal()
    trials = [
        Trial(f"{arm} seed {seed}", plan.run(arm, seed), plan.protocol(arm), {"arm": arm})
        for arm, seed in plan.trials()
    ]
    with Watch(plan.name, trials, Mirror("evaluate"), console):
        sweep.sweep(plan, stop)
    _report(plan, console, stop)


def reflow(options: argparse.Namespace) -> None:
    """Rounds of reflow from finished runs, and their comparison; the same command continues them."""
    import functools

    from rich.console import Console

    from harness.ablation.design import rounds
    from harness.core.files import locked, results_folder
    from harness.core.signals import StopSignal
    from harness.runs import lineage
    from harness.runs.folder import Run
    from harness.runs.identity import leaving_the_name
    from harness.runs.mlflow_mirror import Mirror
    from harness.runs.progress import Trial, Watch
    from harness.runs.students import guided_twice

    changes, console, stop = parse_assignments(options.changes), Console(), StopSignal()
    given = [Run.open(name, leaving_the_name(Run.find(name).config, changes)) for name in options.runs]
    plan = rounds.plan_of(given, options.rounds, options.distil, changes)
    for arm, config in plan.arms.items():
        if reason := guided_twice(config):
            console.print(f"- advice for {arm}: {reason}", highlight=False)
    console.print(f"{plan.question}\n{', '.join(plan.arms)}; plan {plan.digest}", highlight=False)
    with locked(plan.folder / "lock", wait=False) as ours:
        if not ours:
            raise UserError(f"{plan.name}: another process does these rounds now. Wait for it, or stop it.")
        mirror = Mirror("reflow")
        mirror.close_dead()
        record = mirror.record(plan.folder, plan.name, plan.facts, {"plan": plan.digest})
        record.set_status("RUNNING")
        status, files = "FAILED", list[Path]()
        try:
            trials = [
                Trial(
                    f"{arm} seed {seed}",
                    plan.run(arm, seed),
                    plan.protocol(arm),
                    {"arm": arm, "mlflow.parentRunId": record.run_id},
                )
                for arm, seed in plan.trials()
            ]
            with Watch(plan.name, trials, mirror, console):
                rounds.ensure_all(
                    plan, functools.partial(console.print, markup=False, highlight=False, soft_wrap=True), stop
                )
            picture = results_folder() / "local" / "figures" / f"{plan.name}-lineage.png"
            lineage.draw(lineage.lineage(plan.run(list(plan.arms)[-1], plan.seeds[0])), picture)
            files, status = [*_report(plan, console, stop), picture], "FINISHED"
            console.print(f"wrote {picture}", highlight=False, soft_wrap=True)
        finally:
            record.close("KILLED" if stop() else status, files)


def lineage(options: argparse.Namespace) -> None:
    """What a run was made from."""
    from rich.console import Console
    from rich.tree import Tree

    from harness.runs import lineage

    if options.out is not None and options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} is no .png. Name a picture.")
    links = lineage.lineage(_existing(options.run, options.changes))
    root = tree = Tree(lineage.described(links[0]))
    for link in links[1:]:
        tree = tree.add(lineage.described(link))
    Console().print(root, highlight=False, soft_wrap=True)
    if options.out is not None:
        lineage.draw(links, options.out)
        print(f"wrote {options.out}")


def _report(plan: Plan, console: Any, stop: StopSignal) -> list[Path]:
    """Print a plan's tables and write its files below local/."""
    import shlex
    import sys

    from harness.ablation.report import tables
    from harness.core.files import results_folder

    config = plan.arms[plan.baseline]
    judge = judge_of(config, stop=stop)
    report = tables.report(plan, tables.judge_references(judge))
    tables.show(report, console)
    paths = tables.write(report, results_folder() / "local", shlex.join(["harness", *sys.argv[1:]]))
    for path in paths:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return paths


def _existing(name: str, assignments: list[str]) -> Run:
    """The run of that name, judged, and its data found, as the assignments say."""
    from harness.runs.folder import Run
    from harness.runs.students import guided_twice

    run = Run.open(name, parse_assignments(assignments))
    if reason := guided_twice(run.config):
        print(f"advice for {run.name}: {reason}")
    return run


def _following(run: Run, protocol: Any, experiment: str, evaluated: bool) -> Any:
    """A context in which a run's progress is shown and mirrored to MLflow; gives what to say things by."""
    import contextlib
    import functools

    from rich.console import Console

    from harness.runs.mlflow_mirror import Mirror
    from harness.runs.progress import Trial, Watch

    @contextlib.contextmanager
    def follow() -> Any:
        console = Console()
        mirror = Mirror(experiment)
        mirror.close_dead()
        with Watch(f"{experiment} {run.name}", [Trial(run.name, run, protocol, {}, evaluated)], mirror, console):
            yield functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)

    return follow()
