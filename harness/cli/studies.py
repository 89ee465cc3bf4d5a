"""Commands about studies: ablate, tune, table, publish."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import parse_assignments
from harness.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.ablation.design.plan import Plan
    from harness.ablation.execute.placement import Placement
    from harness.ablation.execute.tuner import SearchBoard
    from harness.evaluation.protocol import Protocol
    from harness.runs.folder import Run


def ablate(options: argparse.Namespace) -> None:
    """Train and compare the arms of a study; the same command continues it."""
    from rich.console import Console

    from harness.core.signals import StopSignal

    console = Console()
    plan, placement = _shared(options, plan_of(options), console)
    _compare(options, plan, placement, console, StopSignal())


def tune(options: argparse.Namespace) -> None:
    """Search for better settings, then compare the best with the scale's own on other seeds; the same command continues it."""
    from rich.console import Console

    from harness.ablation.design.search import BASELINE, SearchPlan, compared, load_search
    from harness.ablation.design.space import settings
    from harness.ablation.design.study import load_scale
    from harness.ablation.execute.launch import launch, with_reference
    from harness.ablation.execute.tuner import SearchBoard
    from harness.ablation.report import history
    from harness.core.signals import StopSignal

    search, scale, console, stop = load_search(options.study), options.scale, Console(), StopSignal()
    given = search, scale, load_scale(scale), parse_assignments(options.changes), options.seeds, options.plugin
    own = compared(*given, tuned={})
    SearchPlan.of(
        search, scale, own.arms[BASELINE], options.trials, options.plugin
    )  # refused before anything is measured
    shared, placement = _shared(options, own, console)
    plan = SearchPlan.of(search, scale, shared.arms[BASELINE], options.trials, options.plugin)
    console.print(f"{plan.question}\n{plan.trials} trials at the scale {scale}; search {plan.digest}", highlight=False)
    plan.check()
    with_reference(plan.base, console, stop)
    board = SearchBoard(plan)
    launch(board, placement, console, stop, lambda: _told(history.write(board, _own(), _command(options)), console))
    console.print(f"- {history.describe(board)}", highlight=False)
    tuned = compared(*given, tuned=settings(board.best().params)).threaded(placement.threads)
    _compare(options, tuned, placement, console, stop, history.describe(board))


def _compare(
    options: argparse.Namespace, plan: Plan, placement: Placement, console: Any, stop: Any, *notes: str
) -> None:
    """Run a plan and report it, with `notes` under its table."""
    from harness.ablation.execute.launch import launch, prepare
    from harness.ablation.execute.worker import PlanBoard
    from harness.ablation.report.tables import judge_references
    from harness.data.base import load
    from harness.runs.explain import Explained, alike

    console.print(
        f"{plan.question}\n{len(plan.arms)} arms x {len(plan.seeds)} seeds at the scale {plan.scale}; plan {plan.digest}",
        highlight=False,
    )
    judge = prepare(plan, console, stop)
    for line in alike({name: Explained.of(config) for name, config in plan.arms.items()}):
        console.print(f"- {line}", highlight=False)
    for line in dict.fromkeys(line for config in plan.arms.values() for line in load(config.dataset).notes):
        console.print(f"- {line}", highlight=False, markup=False)
    for line, arms in _advice(plan).items():
        console.print(
            f"- advice for {'every arm' if len(arms) == len(plan.arms) else ', '.join(arms)}: {line}", highlight=False
        )
    launch(
        PlanBoard(plan),
        placement,
        console,
        stop,
        lambda: _report(options, plan, judge_references(judge), console, _own(), *notes),
    )


def _advice(plan: Plan) -> dict[str, list[str]]:
    """What practice advises against, with the arms that do it."""
    from harness.ablation.report.outcomes import is_asked
    from harness.data.base import load
    from harness.training.advice import warnings

    said: dict[str, list[str]] = {}
    if apart := [name for name, config in plan.arms.items() if not is_asked(plan, config)]:
        said[f"no verdict without {plan.metric} at NFE {plan.nfe}, which evaluate.nfe leaves out"] = apart
    for name, config in plan.arms.items():
        for line in warnings(config.train, load(config.dataset), config):
            said.setdefault(line, []).append(name)
    return said


def table(options: argparse.Namespace) -> None:
    """A study's table from the runs on disk."""
    from rich.console import Console

    from harness.ablation.execute.launch import prepare
    from harness.ablation.report.tables import judge_references

    given, console = plan_of(options), Console()
    for plan in _as_trained(given):
        if any(_is_known(plan.run(arm, seed), plan.protocol(arm)) for arm, seed in plan.trials()):
            break
    else:
        raise UserError(f"{plan.name}: nothing is measured yet. Run `{_command(options)}` first.")
    _report(options, plan, judge_references(prepare(plan, console)), console, _own())


def publish(options: argparse.Namespace) -> None:
    """Put the table of a finished study or search among the committed ones, and write again what is said of these."""
    from rich.console import Console

    from harness.ablation.report import published

    console = Console()
    if options.study:
        _publish(options, console, published.published_folder())
    _told(published.renew(), console)


def _publish(options: argparse.Namespace, console: Any, folder: Path) -> None:
    from harness.ablation.design.study import declared_in
    from harness.ablation.execute.launch import prepare
    from harness.ablation.report import history
    from harness.ablation.report.tables import judge_references

    if declared_in(options.study, "SEARCH"):
        board, tuned = _searched(options)
        plan, notes = _complete(options, [tuned]), [history.describe(board)]
        _told(history.write(board, folder, _command(options)), console)
    else:
        plan, notes = _complete(options, _as_trained(plan_of(options))), []
    _report(options, plan, judge_references(prepare(plan, console)), console, folder, *notes)


def _searched(options: argparse.Namespace) -> tuple[SearchBoard, Plan]:
    """The board of a search that has ended, and the plan of the comparison that follows."""
    from harness.ablation.design.search import BASELINE, SearchPlan, compared, load_search
    from harness.ablation.design.space import settings
    from harness.ablation.design.study import load_scale
    from harness.ablation.execute.tuner import SearchBoard

    search, scale = load_search(options.study), options.scale
    given = search, scale, load_scale(scale), parse_assignments(options.changes), options.seeds, options.plugin
    for own in _as_trained(compared(*given, tuned={})):
        base = own.arms[BASELINE]
        plan = SearchPlan.of(search, scale, base, None, options.plugin)
        if plan.folder.exists() and (board := SearchBoard(plan)).finished() and not board.busy():
            if (settled := len(board.settled())) > plan.trials:
                options.trials = settled  # the search was made longer
            return board, compared(*given, tuned=settings(board.best().params)).threaded(base.train.threads)
    raise UserError(f"{search.name}-{scale}: the search has not ended. Run `{_command(options)}` first.")


def _as_trained(plan: Plan) -> tuple[Plan, Plan]:
    """A plan on the threads that were measured for it here, and on its own: its runs may be on disk under either."""
    from harness.ablation.execute.placement import remembered

    return plan.threaded(remembered(plan)), plan


def _complete(options: argparse.Namespace, plans: Sequence[Plan]) -> Plan:
    """The plan whose trials have all ended; `UserError` when there is none."""
    plan, left = min(((plan, plan.unfinished()) for plan in plans), key=lambda found: len(found[1]))
    if left:
        arm, seed = left[0]
        reason = f"{len(left)} of {len(plan.trials())} trials have not ended, like {arm} seed {seed}"
        raise UserError(f"{plan.name}: {reason}. Run `{_command(options)}` first.")
    return plan


def _is_known(run: Run, protocol: Protocol) -> bool:
    """Whether anything is known of a trial: a value, or why there is none."""
    return bool(run.evaluation(protocol)["values"] or run.failure(protocol))


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options name."""
    from harness.ablation.design.plan import Plan
    from harness.ablation.design.study import load_scale, load_study

    study, base = load_study(options.study), load_scale(options.scale)
    seeds = getattr(options, "seeds", None)
    return Plan.of(study, options.scale, base, parse_assignments(options.changes), seeds, options.plugin)


def _shared(options: argparse.Namespace, plan: Plan, console: Any) -> tuple[Plan, Placement]:
    """How the trials share this machine, as the options say or as it is measured to be fastest; the plan with those threads."""
    from harness.ablation.execute.placement import choose, given

    varied = len({config.train.threads for config in plan.arms.values()}) > 1
    told = options.workers is not None or options.trials_per_gpu is not None
    if told or varied or "train.threads" in parse_assignments(options.changes):
        return plan, given(plan, options.workers, options.trials_per_gpu)
    placement = choose(plan, lambda text: console.print(f"- {text}", highlight=False))
    return plan.threaded(placement.threads), placement


def _report(
    options: argparse.Namespace,
    plan: Plan,
    references: dict[str, dict[str, float]],
    console: Any,
    folder: Path,
    *notes: str,
) -> list[Path]:
    """Print a plan's tables and write its files below `folder`."""
    from harness.ablation.report import tables

    report = tables.report(plan, references)
    report.notes += notes
    tables.show(report, console)
    return _told(tables.write(report, folder, _command(options)), console)


def _told(paths: list[Path], console: Any) -> list[Path]:
    console.print(f"wrote {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
    return paths


def _own() -> Path:
    """Where the tables and figures of a user's own runs go; `publish` alone writes the committed ones."""
    from harness.core.files import results_folder

    return results_folder() / "local"


def _command(options: argparse.Namespace) -> str:
    """The command that trains with these options."""
    from harness.ablation.design.study import declared_in

    searching = declared_in(options.study, "SEARCH")
    words = ["harness", "tune" if searching else "ablate", options.study, "--scale", options.scale]
    words += ["--trials", str(options.trials)] if searching and options.trials is not None else []
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += [word for change in options.changes for word in ("--set", change)]
    return shlex.join(words + [word for path in options.plugin for word in ("--plugin", str(path))])
