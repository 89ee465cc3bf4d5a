"""The Pareto front of a search for quality against a cost: its trials, and their values on other seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from harness.ablation.design.costs import COSTS, Cost
from harness.ablation.design.plan import Plan
from harness.ablation.design.search import BASELINE, BEST, CHEAPEST, KNEE
from harness.ablation.design.space import settings
from harness.ablation.execute.attempts import number_of
from harness.ablation.execute.tuner import SearchBoard
from harness.ablation.report.grid import capitalised, titled
from harness.core.drawing import COLOURS, legend_below, plain_log, png
from harness.evaluation.metric import label_of

STYLES: dict[str, dict[str, Any]] = {
    BASELINE: {"color": COLOURS[6], "marker": "o"},
    BEST: {"color": COLOURS[1], "marker": "^"},
    KNEE: {"color": COLOURS[2], "marker": "D"},
    CHEAPEST: {"color": COLOURS[3], "marker": "s"},
}
Values = dict[str, list[list[float]]]
"""{arm: [quality, cost] by seed}"""


def cost_of(board: SearchBoard) -> Cost:
    """Return the cost that a search weighs against quality."""
    assert board.plan.against
    return COSTS[board.plan.against]


def measured_again(board: SearchBoard, plan: Plan) -> Values:
    """Return the values of the comparison's arms on its seeds; seeds and arms without a value are left out."""
    found: Values = {arm: [] for arm in plan.arms if plan.asks(arm)}
    for arm, seed in plan.trials():
        run = plan.run(arm, seed)
        if arm in found and run.evaluated(plan.protocol(arm)):
            found[arm].append(board.values(run))
    return {arm: values for arm, values in found.items() if values}


def about(board: SearchBoard, again: Values) -> dict[str, Any]:
    """Return the JSON about a search's front, and about its arms on the seeds of the comparison."""
    against = str(board.plan.against)
    means = {arm: [statistics.fmean(column) for column in zip(*values, strict=True)] for arm, values in again.items()}
    return {
        "against": {"cost": against, "unit": cost_of(board).unit, "machines": machines(board)},
        "front": members(board),
        "on other seeds": {
            arm: {"seeds": len(again[arm]), "value": value, against: cost} for arm, (value, cost) in means.items()
        },
    }


def members(board: SearchBoard) -> list[dict[str, Any]]:
    """Return the trials on the front for JSON, from the best to the cheapest."""
    arms = {trial.number: arm for arm, trial in board.winners().items()}
    return [
        {
            "trial": number_of(trial),
            "value": trial.values[0],
            str(board.plan.against): trial.values[1],
            "arm": arms.get(trial.number),
            **settings(trial.params),
        }
        for trial in board.front()
    ]


def machines(board: SearchBoard) -> list[str]:
    """Return descriptions of the machines that trained the trials, each once."""
    known = [board.run_of(trial).environment.get("machine") for trial in board.settled()]
    said = [f"{m['processor']}, {m['cores']} cores, accelerator {m['accelerator']}" for m in known if m]
    return list(dict.fromkeys(said))


def share_of(board: SearchBoard, trial: FrozenTrial) -> float:
    """Return a trial's number of training samples relative to the scale's own settings."""
    own = board.plan.base.train
    drawn = board.plan.config(trial.params).train
    return drawn.batch_size * drawn.steps / (own.batch_size * own.steps)


def describe(board: SearchBoard, trials: str) -> str:
    """Return the sentence about the front below the comparison; `trials` counts them and says how they ended."""
    plan = board.plan
    said = [
        f"{arm} (trial {number_of(trial)}, {trial.values[0]:.4g} at {trial.values[1]:.4g}"
        f"{_compute(board, trial)}): {_settings(board, arm)}"
        for arm, trial in board.winners().items()
    ]
    timed = f" Seconds were measured on {'; '.join(machines(board))}, while other trials ran."
    where = timed if cost_of(board).timed else ""
    return (
        f"front of {label_of(plan.metric)} at NFE {plan.nfe} against {plan.against}: {'; '.join(said)}. Of "
        f"{trials}, none are better and cheaper than these {len(board.front())} on seed "
        f"{plan.base.seed} (search {plan.digest}). Those values are the luckiest of many, so the comparison above uses "
        f"other seeds.{where}"
    )


def _compute(board: SearchBoard, trial: FrozenTrial) -> str:
    share = share_of(board, trial)
    return "" if share == 1 else f", {share:.3g} times the training samples"


def _settings(board: SearchBoard, arm: str) -> str:
    return ", ".join(f"{path} {value}" for path, value in board.tuned()[arm].items())


def draw_front(board: SearchBoard, again: Values | None = None) -> bytes:
    """Draw a PNG: quality and cost of every trial, and the front; filled markers are means over other seeds."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    finished = [trial.values for trial in board.trials(TrialState.COMPLETE)]
    front = [trial.values for trial in board.front()]
    axes.plot(*_columns(finished), "o", color="grey", alpha=0.5, ms=4, label="trials")
    axes.plot(*_columns(front), "o", color=COLOURS[0], ms=5, label="front")
    axes.step(*_columns(front[::-1]), where="post", color=COLOURS[0], lw=1.2)
    for arm, trial in board.winners().items():
        label = f"{arm}, trial {number_of(trial)}"
        axes.plot(*_columns([trial.values]), ls="", mfc="none", mew=1.4, ms=9, label=label, **STYLES[arm])
    shown = finished + [point for arm, values in (again or {}).items() for point in _again(axes, arm, values)]
    _scaled(axes, board, shown)
    axes.set_title(_title(board, again), fontsize=10)
    legend_below(figure, axes.get_legend_handles_labels()[0])
    return png(figure)


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Return the costs and the qualities of [quality, cost] points."""
    return [cost for _, cost in points], [value for value, _ in points]


def _again(axes: Axes, arm: str, values: list[list[float]]) -> list[list[float]]:
    """Draw an arm's means over seeds with the 95 % interval of its quality; return the interval's ends as points."""
    costs, qualities = _columns(values)
    cost, mean = statistics.fmean(costs), statistics.fmean(qualities)
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(qualities) / math.sqrt(n) if n > 1 else 0.0
    label = f"{arm}, {n} other seed{'s' * (n > 1)}"
    axes.errorbar([cost], [mean], [half], capsize=3, ms=5, ls="", label=label, **STYLES[arm])
    return [[mean - half, cost], [mean + half, cost]]


def _scaled(axes: Axes, board: SearchBoard, shown: list[list[float]]) -> None:
    """Make an axis logarithmic if its values are positive; a cost in calls has a tick at every NFE."""
    cost = cost_of(board)
    for which, points in zip("xy", _columns(shown), strict=True):
        if min(points) > 0:
            plain_log(axes, "x" if which == "x" else "y", min(points), max(points))
    if cost is COSTS["calls"]:
        ticks = board.plan.base.evaluate.nfe
        axes.set_xticks(ticks, list(map(str, ticks)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=cost.unit, ylabel=f"{capitalised(titled(board.plan.metric))} at NFE {board.plan.nfe}")
    axes.grid(alpha=0.25)


def _title(board: SearchBoard, again: Values | None) -> str:
    samples = board.plan.base.evaluate.num_samples
    searched = f"{len(board.settled())} trials on seed {board.plan.base.seed}, judged by {samples:,} samples"
    return searched + (" (hollow);\nfilled: means over other seeds, 95 % intervals" if again else "")
