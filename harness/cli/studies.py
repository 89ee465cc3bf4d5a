"""Commands about studies: ablate, tune, table; and the MLflow pages."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import parse_assignments
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.ablation.plan import Plan
    from harness.ablation.split import Split


def ablate(options: argparse.Namespace) -> None:
    """Train and compare the arms of a study; the same command continues it."""
    from rich.console import Console

    from harness.signals import StopSignal

    console = Console()
    plan, split = _shared(options, plan_of(options), console)
    _compare(options, plan, split, console, StopSignal())


def tune(options: argparse.Namespace) -> None:
    """Search for better settings, then compare the best with the scale's own on other seeds; the same command continues it."""
    from rich.console import Console

    from harness.ablation import history
    from harness.ablation.launch import judge_of, launch
    from harness.ablation.search import BASELINE, SearchPlan, compared, load_search
    from harness.ablation.space import settings
    from harness.ablation.study import load_scale
    from harness.ablation.tuner import SearchBoard
    from harness.signals import StopSignal

    search, scale, console, stop = load_search(options.study), options.scale, Console(), StopSignal()
    given = search, scale, load_scale(scale), parse_assignments(options.changes), options.seeds, options.plugin
    own = compared(*given, tuned={})
    SearchPlan.of(search, scale, own.arms[BASELINE], options.trials, options.plugin)  # refused before anything is measured
    shared, split = _shared(options, own, console)
    plan = SearchPlan.of(search, scale, shared.arms[BASELINE], options.trials, options.plugin)
    console.print(f"{plan.question}\n{plan.trials} trials at the scale {scale}; search {plan.digest}", highlight=False)
    plan.check()
    judge_of(plan.base, console, stop)
    board = SearchBoard(plan)
    launch(board, split, console, stop, lambda: _told(history.write(board, _folder(options), _command(options)), console))
    console.print(f"- {history.describe(board)}", highlight=False)
    tuned = compared(*given, tuned=settings(board.best().params)).threaded(split.threads)
    _compare(options, tuned, split, console, stop, history.describe(board))


def _compare(options: argparse.Namespace, plan: Plan, split: Split, console: Any, stop: Any, *notes: str) -> None:
    """Run a plan and report it, with `notes` under its table."""
    from harness.ablation.launch import launch, prepare
    from harness.ablation.tables import judge_references
    from harness.ablation.worker import PlanBoard
    from harness.explain import Explained, alike

    console.print(
        f"{plan.question}\n{len(plan.arms)} arms x {len(plan.seeds)} seeds at the scale {plan.scale}; plan {plan.digest}", highlight=False
    )
    judge = prepare(plan, console, stop)
    for line in alike({name: Explained.of(config) for name, config in plan.arms.items()}):
        console.print(f"- {line}", highlight=False)
    for line, arms in _advice(plan).items():
        console.print(f"- advice for {'every arm' if len(arms) == len(plan.arms) else ', '.join(arms)}: {line}", highlight=False)
    launch(PlanBoard(plan), split, console, stop, lambda: _report(options, plan, judge_references(judge), console, *notes))


def _advice(plan: Plan) -> dict[str, list[str]]:
    """What practice advises against, with the arms that do it."""
    from harness.data.base import load
    from harness.training.advice import warnings

    said: dict[str, list[str]] = {}
    for name, config in plan.arms.items():
        for line in warnings(config.train, load(config.dataset), config):
            said.setdefault(line, []).append(name)
    return said


def table(options: argparse.Namespace) -> None:
    """A study's table from the runs on disk."""
    from rich.console import Console

    from harness.ablation.launch import prepare
    from harness.ablation.split import remembered
    from harness.ablation.tables import judge_references

    given, console = plan_of(options), Console()
    for plan in (given.threaded(remembered(given)), given):
        if any(plan.run(arm, seed).evaluation(plan.protocol(arm))["values"] for arm, seed in plan.trials()):
            break
    else:
        raise UserError(f"{plan.name}: nothing is measured yet. Run `{_command(options)}` first.")
    _report(options, plan, judge_references(prepare(plan, console)), console)


def ui(options: argparse.Namespace) -> None:
    """MLflow's pages."""
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


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options name."""
    from harness.ablation.plan import Plan
    from harness.ablation.study import load_scale, load_study

    study, base = load_study(options.study), load_scale(options.scale)
    seeds = getattr(options, "seeds", None)
    return Plan.of(study, options.scale, base, parse_assignments(options.changes), seeds, options.plugin)


def _shared(options: argparse.Namespace, plan: Plan, console: Any) -> tuple[Plan, Split]:
    """How the trials share this machine, as the options say or as it is measured to be fastest; the plan with those threads."""
    import os

    import torch

    from harness.ablation.split import Split, choose

    train = plan.arms[plan.baseline].train
    gpus = torch.cuda.device_count() if train.resolved_device() == "cuda" else 0
    varied = len({config.train.threads for config in plan.arms.values()}) > 1
    if options.trials_per_gpu is not None:
        if not gpus:
            raise UserError("--trials-per-gpu: the study trains on the CPU. Use --workers N.")
        return plan, Split(options.trials_per_gpu * gpus, train.threads, gpus)
    if options.workers is not None:
        return plan, Split(options.workers, train.threads, gpus)
    if varied or "train.threads" in parse_assignments(options.changes):
        return plan, Split(gpus or max(1, (os.cpu_count() or 1) // train.threads), train.threads, gpus)
    split = choose(plan, lambda text: console.print(f"- {text}", highlight=False))
    return plan.threaded(split.threads), split


def _report(options: argparse.Namespace, plan: Plan, references: dict[str, dict[str, float]], console: Any, *notes: str) -> list[Path]:
    """Print a plan's tables and write its files."""
    from harness.ablation import tables

    report = tables.report(plan, references)
    report.notes += notes
    tables.show(report, console)
    return _told(tables.write(report, _folder(options), _command(options)), console)


def _told(paths: list[Path], console: Any) -> list[Path]:
    console.print(f"wrote {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
    return paths


def _folder(options: argparse.Namespace) -> Path:
    """Where tables and figures go; those of a changed study stay under local/."""
    from harness.files import results_folder

    changed = options.changes or options.plugin or options.seeds is not None or getattr(options, "trials", None) is not None
    return results_folder() / "local" if changed else results_folder()


def _command(options: argparse.Namespace) -> str:
    """The command that trains with these options."""
    searching = hasattr(options, "trials")
    words = ["harness", "tune" if searching else "ablate", options.study, "--scale", options.scale]
    words += ["--trials", str(options.trials)] if searching and options.trials is not None else []
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += [word for change in options.changes for word in ("--set", change)]
    return shlex.join(words + [word for path in options.plugin for word in ("--plugin", str(path))])
