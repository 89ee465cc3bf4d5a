"""The results of a search: a table of its trials, and figures of its course and of the settings that matter."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.ablation.design.arm_settings import configuration
from harness.ablation.design.plan import Plan
from harness.ablation.design.space import bare, evened, paths_of, settings
from harness.ablation.execute.attempts import number_of
from harness.ablation.execute.tuner import DIVERGED, FAILED, GIVEN_UP, SearchBoard
from harness.ablation.report import fronts
from harness.ablation.report.grid import capitalised, titled
from harness.ablation.report.origin import provenance
from harness.core.drawing import COLOURS, legend_below, plain_log, png, shown, spared, write_picture
from harness.core.files import write_atomic, write_json
from harness.evaluation.metric import label_of
from harness.runs.folder import Run

FINISHED = "finished"
STATES = (FINISHED, GIVEN_UP, DIVERGED, FAILED)


def state_of(trial: FrozenTrial) -> str:
    """Return how a trial ended, one of `STATES`."""
    return FINISHED if trial.state == TrialState.COMPLETE else trial.user_attrs.get("ended", GIVEN_UP)


def counted(board: SearchBoard) -> dict[str, int]:
    """Return {state: number of trials that ended in it}, without states of no trial; `finished` is always there."""
    found = [state_of(trial) for trial in board.settled()]
    return {state: found.count(state) for state in STATES if state in found or state == FINISHED}


def frame(board: SearchBoard) -> pd.DataFrame:
    """Return one row per trial: number, state, value, settings, values by rung, and seconds of all its attempts.

    The value is the last rung's if the trial was given up. A search with two objectives also has the cost, and
    whether the trial is on the front.
    """
    front = [trial.values for trial in board.front()] if board.plan.against else []
    rows = [
        {
            "trial": number_of(trial),
            "state": state_of(trial),
            **_objectives(board, trial, front),
            **settings(trial.params),
            **{f"at {step}": value for step, value in sorted(trial.intermediate_values.items())},
            "seconds": _seconds(trial),
            "run": trial.user_attrs.get("run"),
            "reason": trial.user_attrs.get("reason"),
        }
        for trial in sorted(board.settled(), key=number_of)
    ]
    found = pd.DataFrame(rows)
    last = ["seconds", "run", "reason"]
    return found[[name for name in found if name not in last] + last]


def _objectives(board: SearchBoard, trial: FrozenTrial, front: list[list[float]]) -> dict[str, Any]:
    if board.plan.against is None:
        return {"value": trial.value}
    value, cost = trial.values or (None, None)
    return {"value": value, board.plan.against: cost, "on the front": trial.values in front}


def _seconds(trial: FrozenTrial) -> float | None:
    return round(trial.duration.total_seconds() + trial.user_attrs.get("seconds", 0.0), 1) if trial.duration else None


def importances(board: SearchBoard) -> dict[str, float]:
    """Return {path: share of the variance of the log metric} by fANOVA over the finished trials; empty below four.

    fANOVA integrates evenly over each range, so it is given each range on the scale from which values were drawn.
    """
    finished = board.trials(TrialState.COMPLETE)
    if len(finished) < 4:
        return {}
    scales = {name: evened(distribution) for name, distribution in board.plan.space.items()}
    distributions = {name: distribution for name, (distribution, _) in scales.items()}
    even = optuna.create_study()
    for trial in finished:
        params = {name: scale(trial.params[name]) for name, (_, scale) in scales.items()}
        even.add_trial(create_trial(params=params, distributions=distributions, value=_log(trial.values[0])))
    found = get_param_importances(even, evaluator=FanovaImportanceEvaluator(seed=0))
    return {bare(name): float(share) for name, share in found.items()}


def _log(value: float) -> float:
    return math.log(value) if value > 0 else value


def draw_history(board: SearchBoard) -> bytes:
    """Draw a PNG: every trial's value by number with the best so far; beside it the values at a pruner's rungs."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    if board.plan.pruner:
        values, rungs = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _rungs(rungs, board)
    else:
        values = figure.subplots()
    _values(values, board)
    values.set_ylabel(f"{capitalised(titled(board.plan.metric))} at NFE {board.plan.nfe}")
    legend_below(figure, values.get_legend_handles_labels()[0])
    return png(figure)


def _values(axes: Axes, board: SearchBoard) -> None:
    trials = frame(board)
    is_finished = trials.state == FINISHED
    finished = trials[is_finished]
    others = trials[~is_finished]
    best = finished.value.cummin() if board.study.directions[0] == StudyDirection.MINIMIZE else finished.value.cummax()
    axes.axvspan(-0.5, max(board.blind(), default=-1) + 0.5, color="grey", alpha=0.12, label="drawn at random first")
    axes.plot(others.trial, others.value, "x", color="grey", label="not finished, last value if any")
    axes.plot(finished.trial, finished.value, "o", color=COLOURS[0], label="finished")
    axes.step(trials.trial, best.reindex(trials.index).ffill(), where="post", color=COLOURS[1], label="best so far")
    axes.set_xlabel("trial")
    ends = ", ".join(f"{number} {state}" for state, number in counted(board).items())
    axes.set_title(f"{ends}; seed {board.plan.base.seed}", fontsize=10)
    _scaled(axes, trials.value)


def _rungs(axes: Axes, board: SearchBoard) -> None:
    best = board.best()
    for trial in [*board.settled(), best]:
        points = pd.Series(trial.intermediate_values, dtype=float).sort_index()
        if trial.state == TrialState.COMPLETE:
            points[board.plan.base.train.steps] = trial.value
        colour = COLOURS[1] if trial is best else COLOURS[0] if trial.state == TrialState.COMPLETE else "grey"
        axes.plot(
            points.index, points, ".-", color=colour, lw=2 if trial is best else 0.8, alpha=1 if trial is best else 0.6
        )
    axes.set_xlabel("step")
    axes.set_title(f"values on the way; the best is trial {number_of(best)}", fontsize=10)
    axes.grid(alpha=0.25)


def draw_importances(board: SearchBoard) -> bytes:
    """Draw a PNG: each setting's share of the variance, and the value of every trial against each setting."""
    shares = importances(board)
    trials = frame(board)
    names = sorted(board.plan.space, key=lambda name: -shares.get(bare(name), 0))
    columns = math.ceil((len(names) + 1) / 2)
    figure = Figure(figsize=(3.6 * columns, 6.4), layout="constrained")
    first, *others = figure.subplots(2, columns, squeeze=False).flat
    _bars(first, shares, sum(trials.state == FINISHED))
    for axes, name in zip(others, names, strict=False):
        _slice(axes, board, name, trials)
    for axes in others[len(names) :]:
        axes.set_axis_off()
    return png(figure)


def _bars(axes: Axes, shares: dict[str, float], finished: int) -> None:
    axes.barh([_short(path) for path in shares], list(shares.values()), color=COLOURS[0])
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance")
    if not shares:
        axes.set(xticks=[], yticks=[], xlabel="")
    axes.set_title(
        f"fANOVA, log of {finished} finished trials" if shares else "too few finished trials for fANOVA", fontsize=10
    )


def _slice(axes: Axes, board: SearchBoard, name: str, trials: pd.DataFrame) -> None:
    distribution = board.plan.space[name]
    place = distribution.choices.index if isinstance(distribution, CategoricalDistribution) else float
    x = trials.trial.map({number_of(trial): place(trial.params[name]) for trial in board.settled()})
    if isinstance(distribution, CategoricalDistribution):
        labels = [shown(str(choice), 20) for choice in distribution.choices]
        slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, labels)) > 24 else {}
        axes.set_xticks(range(len(labels)), labels, **slanted)
        axes.set_xlim(-0.5, len(distribution.choices) - 0.5)
    elif distribution.log:
        plain_log(axes, "x", distribution.low, distribution.high)
    best = trials.trial == number_of(board.best())
    finished = trials.state == FINISHED
    for rows, marker, colour in ((~finished, "x", "grey"), (finished, "o", COLOURS[0]), (best, "o", COLOURS[1])):
        axes.plot(x[rows], trials.value[rows], marker, color=colour, ms=5)
    axes.set(xlabel=_short(name), ylabel=capitalised(titled(board.plan.metric)))
    _scaled(axes, trials.value)


def _scaled(axes: Axes, values: pd.Series) -> None:
    """Draw a grid, and make the axis logarithmic if all values are positive."""
    if (values.dropna() > 0).all():
        plain_log(axes, "y", values.min(), values.max())
    axes.grid(alpha=0.25)


def _short(name: str) -> str:
    """Return a name without the groups of its paths: `learning_rate`, `1 - ema_decay`, `batch_size, steps`."""
    paths = ", ".join(path.rpartition(".")[2] for path in paths_of(name))
    return name.removesuffix(bare(name)) + paths


ENDED = {GIVEN_UP: "of them given up early", DIVERGED: "diverged", FAILED: "without a value"}
"""{state of a trial that did not finish: its words in a sentence}"""


def describe(board: SearchBoard) -> str:
    """Return the sentence about the search below the comparison."""
    best = board.best()
    plan = board.plan
    ends = ({GIVEN_UP: 0} if plan.pruner else {}) | counted(board)
    told = [f"{ends[state]} {word}" for state, word in ENDED.items() if state in ends]
    trials = ", ".join([f"{len(board.settled())} trials", *told])
    if plan.against:
        return fronts.describe(board, trials)
    chosen = ", ".join(f"{path} {value}" for path, value in settings(best.params).items())
    share = fronts.share_of(board, best)
    compute = "" if share == 1 else f" In training it sees {share:.3g} times as many samples as the default."
    return (
        f"tuned: {chosen}; the best of {trials}, "
        f"by {label_of(plan.metric)} {best.values[0]:.4g} on seed {plan.base.seed} (search {plan.digest}). That value "
        f"is the luckiest of many, so the comparison above uses other seeds.{compute}"
    )


def write(board: SearchBoard, folder: Path, command: str, comparison: Plan | None = None) -> list[Path]:
    """Write the table and the pictures of a search; return their paths.

    `tables/<search>-<scale>-trials.{csv,json}` and `figures/<search>-<scale>-{history,importances}.png`; with two
    objectives also `...-front.png`, with the means of the `comparison`'s arms on its seeds.
    """
    plan = board.plan
    stem = f"{plan.search}-{plan.scale}"
    paths = [folder / "tables" / f"{stem}-trials.{ending}" for ending in ("csv", "json")]
    again = fronts.measured_again(board, comparison) if plan.against and comparison else {}
    pictures = {"history": draw_history, "importances": draw_importances}
    if plan.against:
        pictures["front"] = functools.partial(fronts.draw_front, again=again)
    write_atomic(paths[0], frame(board).to_csv(index=False))
    write_json(paths[1], _about(board, command, again))
    for what, draw in pictures.items():
        picture = folder / "figures" / f"{stem}-{what}.png"
        with spared():
            write_picture(picture, functools.partial(draw, board))
            paths.append(picture)
    return paths


def _about(board: SearchBoard, command: str, again: fronts.Values) -> dict[str, Any]:
    plan = board.plan
    best = board.best()
    runs = [Run.of(plan.config(trial.params)) for trial in board.settled()]
    commits = sorted({commit for run in runs for commit in run.environment.get("commits", [])})
    return {
        **provenance(plan.question, command, commits),
        "search": plan.digest,
        "space": plan.facts["space"],
        "seed": plan.base.seed,
        "sampler": f"TPE, multivariate, in groups, {len(board.blind())} blind trials first",
        "pruner": plan.pruner or "none",
        "judged by": {"metric": plan.metric, "nfe": plan.nfe, "protocol": asdict(plan.protocol)},
        "best": {"trial": number_of(best), "value": best.values[0], **settings(best.params)},
        **(fronts.about(board, again) if plan.against else {}),
        "trials": counted(board),
        "configuration": configuration(plan.base),
        "importances": importances(board),
    }
