"""The command line. One function a subcommand; nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import override, parse_assignments
from harness.errors import UserError, guarded

if TYPE_CHECKING:
    from harness.ablation.plan import Plan
    from harness.runs import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness ARGUMENTS`; returns the exit code: 0, 2 after a user's mistake, 130 when stopped."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        _load_plugins(options)
        options.command(options)

    return guarded(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness", description="An ablation lab for flow matching.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Callable[[Any], None], name: str, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        sub.add_argument(
            "--plugin", action="append", default=[], type=Path, metavar="FILE", help="Python file with components of yours; repeatable"
        )
        return sub

    def add_set(sub: argparse.ArgumentParser, about: str) -> None:
        sub.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="changes", help=f"{about}; repeatable")

    def add_study(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("study", metavar="STUDY", help="a study's name (a file in studies/), or the path of a study file")
        sub.add_argument("--scale", default="digits", help="digits, fashion, cifar10, ...: a name in studies/scales.py")
        sub.add_argument("--seeds", type=int, metavar="N", help="training seeds for each arm, instead of the study's")
        add_set(sub, "change every arm, like train.steps=200")

    sub = add(_list, "list", "List the components of every family, or of one: what they are, their parameters and sources.")
    sub.add_argument("family", nargs="?")
    sub.add_argument("--json", action="store_true", help="for machines")
    sub = add(_explain, "explain", "Write a formulation out, or compare a study's arms, and draw the effective weight over log SNR.")
    sub.add_argument("study", nargs="?", metavar="STUDY", help="draw the arms of this study together")
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")
    sub.add_argument("--out", type=Path, default=Path("explain.png"), metavar="FILE", help="the picture (explain.png)")
    add_set(sub, "change the configuration, like weighting=min_snr")
    sub = add(_check, "check", "Test the components of a Python file against what their families promise.")
    sub.add_argument("file", type=Path)
    sub = add(_train, "train", "Train one run; the same command continues it.")
    sub.add_argument("--scale", default="digits", help="the configuration to start from: a name in studies/scales.py")
    add_set(sub, "change the configuration, like weighting=min_snr or train.steps=200")
    sub = add(_sample, "sample", "Draw samples from a finished run into a picture or an array.")
    sub.add_argument("run", metavar="RUN", help="a run's name or directory")
    sub.add_argument("--number", type=int, default=64, metavar="N", help="how many (64)")
    sub.add_argument("--nfe", type=int, default=32, metavar="N", help="calls of the network for each (32); 0: an adaptive solver chooses")
    sub.add_argument(
        "--out", type=Path, default=Path("samples.png"), metavar="FILE", help=".png for a grid, .npz for an array (samples.png)"
    )
    add_set(sub, "change how they are drawn, like evaluate.solver=heun")
    sub = add(_evaluate, "evaluate", "Evaluate a finished run at every NFE; what is known is not computed again.")
    sub.add_argument("run", metavar="RUN", help="a run's name or directory")
    add_set(sub, "change how it is judged, like evaluate.solver=heun or evaluate.nfe=[8,64]")
    sub = add(_ablate, "ablate", "Train and compare the arms of a study; the same command continues it.")
    add_study(sub)
    sub.add_argument("--workers", type=int, default=2, metavar="N", help="local processes that train at the same time (2)")
    add_study(add(_table, "table", "Make a study's table again from the runs on disk, without training."))
    sub = add(_ui, "ui", "Open the MLflow pages on 127.0.0.1.")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    sub.add_argument("--port", type=int, default=5000)
    return parser


def _load_plugins(options: argparse.Namespace) -> None:
    if options.plugin:
        from harness.registry import load_plugin

        for path in options.plugin:
            load_plugin(path)


def _list(options: argparse.Namespace) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    from harness.registry import HOMES, describe

    families = {family: describe(family) for family in ([options.family] if options.family else HOMES)}
    if options.json:
        print(json.dumps(families, indent=1))
        return
    console = Console()
    for family, members in families.items():
        table = Table("name", "about", "parameters", "source", title=family, title_justify="left", show_lines=True, expand=True)
        for member in members:
            parameters = "\n".join(f"{name} = {_default(value)}" for name, value in member["parameters"].items())
            table.add_row(member["name"], member["about"], parameters, member["source"])
        console.print(table)


def _default(value: Any) -> Any:
    """A parameter's default as `list` shows it: a component by its name."""
    return value["name"] if isinstance(value, dict) else "(needed)" if value is None else value


def _explain(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from harness.ablation.study import load_scale
    from harness.explain import Explained, alike, draw

    if options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} is no .png. Name the picture so.")
    console = Console()
    if options.study:
        plan = _plan(options)
        arms = {name: Explained.of(config) for name, config in plan.arms.items()}
        for line in alike(arms) or ["no two arms share their objective or their weight over log SNR."]:
            console.print(f"- {line}", highlight=False)
    else:
        arms = {"": Explained.of(override(load_scale(options.scale), parse_assignments(options.changes)))}
        table = Table("part", "formula", "source", show_lines=True)
        for row in arms[""].lines():
            table.add_row(*map(escape, row))
        console.print(table)
    draw(arms, options.out)
    print(f"wrote {options.out}: the effective weight over log SNR")


def _check(options: argparse.Namespace) -> None:
    from rich.console import Console

    from harness.contract import promises
    from harness.registry import load_plugin, members_of

    console, broken = Console(), 0
    components = members_of(load_plugin(options.file))
    if not components:
        raise UserError(f"{options.file}: declares no component. Give one a name: class Mine(Weighting, name='mine').")
    for component in components:
        kept = promises(component)
        for promise, is_kept in kept:
            if not is_kept:
                console.print(f"broken: {component.family} {component.name}: {promise}", highlight=False, markup=False)
        broken += sum(not is_kept for _, is_kept in kept)
        console.print(f"{component.family} {component.name}: {sum(k for _, k in kept)} of {len(kept)} promises kept", highlight=False)
    if broken:
        raise UserError(f"{options.file}: {broken} promises are broken. Mend the components named above.")


def _train(options: argparse.Namespace) -> None:
    from harness.ablation.study import load_scale
    from harness.data.base import load
    from harness.evaluation.protocol import Protocol
    from harness.runs import Run, check, train

    config = override(load_scale(options.scale), parse_assignments(options.changes))
    check(config)
    run = Run.of(config)
    with _following(run, Protocol.of(config.evaluate, load(config.dataset)), "train", evaluated=False) as (say, stop):
        train(run, say, stop)
    print(f"trained {run.name}: {run.folder}")


def _sample(options: argparse.Namespace) -> None:
    import io

    import numpy as np
    import torch

    from harness.data.images import save_grid
    from harness.files import write_atomic
    from harness.runs import restore, samples

    if options.number < 1:
        raise UserError(f"--number: {options.number} is less than 1. Draw one or more.")
    if options.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out: {options.out} is neither .png nor .npz. Name the file by what you want.")
    run = _existing(options, {"evaluate.nfe": [options.nfe]})
    images = torch.cat([batch for batch, _ in samples(run, restore(run), options.nfe, options.number)])
    if options.out.suffix == ".png":
        save_grid(images, options.out)
    else:
        content = io.BytesIO()
        np.savez(content, images=images.numpy())
        write_atomic(options.out, content.getvalue())
    print(f"wrote {options.out}: {options.number} samples at NFE {options.nfe} by {run.config.evaluate.solver.name}")


def _evaluate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from harness.data.base import load
    from harness.evaluation.judge import Judge
    from harness.runs import evaluate, restore

    run = _existing(options, {})
    trained = restore(run)
    judge = Judge(run.config.evaluate, load(run.config.dataset), run.config.train.resolved_device())
    with _following(run, judge.protocol, "evaluate", evaluated=True) as (_, stop):
        evaluate(run, trained, judge, stop)
    known = run.evaluation(judge.protocol)
    for metric in run.config.evaluate.metrics:
        for nfe in run.config.evaluate.nfe:
            calls = known["calls"][str(nfe)]
            spent = f"NFE {nfe}" if nfe else f"{calls['mean']:.1f} ± {calls['sd']:.1f} calls chosen by {run.config.evaluate.solver.name}"
            value = known["values"][metric.name][str(nfe)]
            Console().print(f"{metric.name} {value:.6g} at {spent}, protocol {judge.protocol.digest}", highlight=False)


def _ablate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from harness.ablation.launch import launch, prepare
    from harness.ablation.tables import judge_references
    from harness.explain import Explained, alike
    from harness.signals import StopSignal

    if options.workers < 1:
        raise UserError(f"--workers: {options.workers} is less than 1. One or more must work.")
    plan, console, stop = _plan(options), Console(), StopSignal()
    console.print(
        f"{plan.question}\n{len(plan.arms)} arms x {len(plan.seeds)} seeds at the scale {plan.scale}; plan {plan.digest}", highlight=False
    )
    judge = prepare(plan, console)
    for line in alike({name: Explained.of(config) for name, config in plan.arms.items()}):
        console.print(f"- {line}", highlight=False)
    launch(plan, options.workers, console, stop, lambda: _report(options, plan, judge_references(plan, judge), console))


def _table(options: argparse.Namespace) -> None:
    from rich.console import Console

    from harness.ablation.launch import prepare
    from harness.ablation.tables import judge_references

    plan, console = _plan(options), Console()
    if not any(plan.run(arm, seed).evaluation(plan.protocol(arm))["values"] for arm, seed in plan.trials()):
        raise UserError(f"{plan.name}: nothing is measured yet. Run `{_command(options)}` first.")
    _report(options, plan, judge_references(plan, prepare(plan, console)), console)


def _ui(options: argparse.Namespace) -> None:
    import os
    import socket

    from harness.tracking import Mirror, default_uri

    if (uri := default_uri()).startswith("http"):
        raise UserError(f"MLFLOW_TRACKING_URI: {uri} is a server with pages of its own. Open it in a browser.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--port: {options.host}:{options.port} cannot be used ({reason}). Choose another, like --port 5001.") from None
    Mirror("train").close_dead()
    where = ["--host", options.host, "--port", str(options.port)]
    arguments = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1", *where]
    print(f"http://{options.host}:{options.port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, arguments)


def _plan(options: argparse.Namespace) -> Plan:
    from harness.ablation.plan import Plan
    from harness.ablation.study import load_scale, load_study

    study, base = load_study(options.study), load_scale(options.scale)
    seeds = getattr(options, "seeds", None)
    return Plan.of(study, options.scale, base, parse_assignments(options.changes), seeds, options.plugin)


def _report(options: argparse.Namespace, plan: Plan, references: dict[str, dict[str, float]], console: Any) -> list[Path]:
    """Print a plan's tables and write its files; those of a changed study stay under local/."""
    from harness.ablation import tables
    from harness.files import results_folder

    report = tables.report(plan, references)
    for grid in tables.grids(report):
        console.print(grid.rich())
    for line in tables.remarks(report):
        console.print(f"- {line}", highlight=False)
    changed = options.changes or options.plugin or options.seeds is not None
    paths = tables.write(report, results_folder() / "local" if changed else results_folder(), _command(options))
    console.print(f"wrote {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
    return paths


def _command(options: argparse.Namespace) -> str:
    """The ablate command with these options."""
    words = ["harness", "ablate", options.study, "--scale", options.scale]
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += [word for change in options.changes for word in ("--set", change)]
    return shlex.join(words + [word for path in options.plugin for word in ("--plugin", str(path))])


def _existing(options: argparse.Namespace, changes: dict[str, Any]) -> Run:
    """The run that the options name, judged as they say; only `evaluate` can be changed in a finished run."""
    import dataclasses

    from harness.runs import Run

    given = parse_assignments(options.changes)
    for path in given:
        if not path.startswith("evaluate."):
            raise UserError(f"{path}: a finished run cannot be changed in that. Change evaluate.*, or train another run.")
    run = Run.open(options.run)
    return dataclasses.replace(run, config=override(run.config, {**given, **changes}))


def _following(run: Run, protocol: Any, experiment: str, evaluated: bool) -> Any:
    """A context in which a run's progress is shown and mirrored to MLflow; gives (say, stop)."""
    import contextlib

    from rich.console import Console

    from harness.signals import StopSignal
    from harness.tracking import Mirror
    from harness.watch import Trial, Watch

    @contextlib.contextmanager
    def follow() -> Any:
        console, stop = Console(), StopSignal()
        mirror = Mirror(experiment)
        mirror.close_dead()
        with Watch(f"{experiment} {run.name}", [Trial(run.name, run, protocol, {}, evaluated)], mirror, console):
            yield console.print, stop

    return follow()


if __name__ == "__main__":
    sys.exit(main())
