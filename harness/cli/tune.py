"""`harness tune`: searches for better settings, then compares the best with the scale's settings on other seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.ablation.design.search import BASELINE, WINNER, load_search
from harness.ablation.design.search_plan import SearchPlan, compared
from harness.ablation.design.study import load_scale
from harness.ablation.report import history
from harness.ablation.report.looks import reached
from harness.cli import plans
from harness.cli.ablate import Hours, compare, placed
from harness.cli.shared import own_folder
from harness.core.config import parse_assignments
from harness.core.progress import terminal


def run(options: argparse.Namespace) -> None:
    """Search, report the search, then compare; the same command continues it."""
    search = load_search(options.study)
    scale = options.scale
    console = terminal()
    given = search, scale, load_scale(scale), parse_assignments(options.changes), options.seeds, options.plugin
    own = compared(*given, winners={WINNER: {}})
    SearchPlan.of(search, scale, own.arms[BASELINE], options.trials, options.plugin)  # a mistake ends here, unmeasured
    shared, placement = placed(options, own, console, searches=True)
    plan = SearchPlan.of(search, scale, shared.arms[BASELINE], options.trials, options.plugin)
    console.print(f"{plan.question}\n{plan.trials} trials at the scale {scale}; search {plan.digest}")
    plan.check()
    stop = Hours(options.max_hours)
    command = plans.training_command(options)
    board = plans.search(plan, placement, console, stop, command)
    if board is None:
        return
    console.print(f"- {history.describe(board)}")
    tuned = compared(*given, winners=board.tuned()).threaded(placement.threads)

    def more() -> list[Path]:
        return history.write(board, own_folder(), command, reached(tuned)) if plan.against else []

    compare(options, tuned, placement, console, stop, history.describe(board), more=more)
