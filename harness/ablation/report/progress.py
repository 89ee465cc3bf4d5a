"""State of a study's trials: which have ended, run or wait, on which node, and how long they take. It only reads."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.ablation.design.plan import Plan
from harness.ablation.report.grid import Grid
from harness.core.fence import OWNER
from harness.core.files import last_lines, read_json_if_there
from harness.core.progress import duration
from harness.core.reading import Damaged, bytes_of, parse
from harness.core.registry import find
from harness.evaluation.metric import label_of
from harness.evaluation.protocol import Protocol
from harness.runs import lacking
from harness.runs.contents import Line, value_of
from harness.runs.folder import Run
from harness.runs.progress import TRAINING_SHARE

SILENT_S = 120.0
"""Seconds without a sign of life after which a trial may have stopped."""
SHOWN_SEEDS = 12
"""Largest number of seeds whose trials are shown one by one."""
LINES = 5
"""Number of last lines of metrics.jsonl from which a trial's pace is measured."""


@dataclass(frozen=True)
class State:
    """State of one trial."""

    arm: str
    seed: int
    word: Literal["ended", "failed", "begun", "waiting"]
    value: float = math.nan
    """Primary metric at the primary NFE, if the trial has ended."""
    share: float = 0.0
    """Share of the trial that is done."""
    host: str = ""
    """Node of the newest attempt; empty for a worker of this machine."""
    left_s: float = math.nan
    """Seconds of training left, at the present pace."""
    silent_s: float = math.nan
    """Seconds since the last line of its training."""

    @property
    def cell(self) -> str:
        """The state in a few characters."""
        if self.word == "begun":
            return f"{self.share:.0%}{'?' if self.silent_s > SILENT_S else ''}"
        if self.word == "ended" and math.isnan(self.value):
            return "done"
        return f"{self.value:.4g}" if self.word == "ended" else {"waiting": "."}.get(self.word, self.word)


def states(plan: Plan) -> list[State]:
    """Return the states of all trials of a plan, in the order in which they run."""
    now = time.time()
    begun = {path.name for path in plan.run(*plan.trials()[0]).folder.parent.glob("*-s*")}
    return [_state(plan, arm, seed, now, begun) for arm, seed in plan.trials()]


def _state(plan: Plan, arm: str, seed: int, now: float, begun: set[str]) -> State:
    run = plan.run(arm, seed)
    if run.name not in begun:
        return State(arm, seed, "waiting")
    known = _known(run, plan.protocol(arm))
    if known and lacking.settled(run.config.evaluate, known):
        value = value_of(known, plan.metric, plan.nfe)
        return (
            State(arm, seed, "failed")
            if value is None and plan.asks(arm)
            else State(arm, seed, "ended", math.nan if value is None else value, 1.0)
        )
    if run.gave_up:
        return State(arm, seed, "failed")
    return _begun(run, arm, seed, now, plan.protocol(arm))


def _known(run: Run, protocol: Protocol) -> dict[str, Any]:
    """Return an evaluation, unchecked: thousands are read at a look. Empty if it is missing or damaged."""
    try:
        known: dict[str, Any] = parse(bytes_of(run.evaluation_file(protocol)))
    except (FileNotFoundError, Damaged):
        return {}
    kinds = ("values", "precise", "failures")
    return known if isinstance(known, dict) and all(isinstance(known.get(kind), dict) for kind in kinds) else {}


def _begun(run: Run, arm: str, seed: int, now: float, protocol: Protocol) -> State:
    owner = read_json_if_there(run.folder / OWNER)
    lines = last_lines(run.folder / "metrics.jsonl", LINES, Line)
    if not lines:
        return State(arm, seed, "begun", host=owner.get("host", ""), silent_s=now - owner.get("time", now))
    steps = run.config.train.steps
    first = lines[0]
    last = lines[-1]
    trained = last["step"] / steps
    pace = (last["time"] - first["time"]) / max(1, last["step"] - first["step"])
    share = TRAINING_SHARE * trained + (1 - TRAINING_SHARE) * (run.judged(protocol) if trained == 1 else 0.0)
    left = (steps - last["step"]) * pace if len(lines) > 1 else math.nan
    return State(arm, seed, "begun", math.nan, share, owner.get("host", ""), left, now - last["time"])


def grids(plan: Plan, found: Sequence[State]) -> list[Grid]:
    """Return the tables of the states: by arm, by arm and seed where seeds are few, and of the trials at work."""
    by_arm = {arm: [state for state in found if state.arm == arm] for arm in plan.arms}
    out = [_summary(plan, by_arm)]
    if len(plan.seeds) <= SHOWN_SEEDS:
        seeds = [str(seed) for seed in plan.seeds]
        rows = [[arm, *(state.cell for state in own)] for arm, own in by_arm.items()]
        out.append(
            Grid(
                "By seed: a value, a share, or . for a trial that waits",
                ["arm", *seeds],
                [_padded(row, seeds) for row in rows],
            )
        )
    at_work = [state for state in found if state.word == "begun"]
    return [*out, _at_work(at_work)] if at_work else out


def _padded(row: list[str], seeds: Sequence[str]) -> list[str]:
    """Return a row with empty cells for the seeds that a decided arm does not get."""
    return [*row, *[""] * (len(seeds) + 1 - len(row))]


def _summary(plan: Plan, by_arm: Mapping[str, Sequence[State]]) -> Grid:
    means = means_so_far(by_arm)
    rows = [
        [
            arm,
            *(str(sum(state.word == word for state in own)) for word in ("ended", "begun", "waiting", "failed")),
            f"{means[arm]:.4g}" if arm in means else "-",
        ]
        for arm, own in by_arm.items()
    ]
    label = f"{label_of(plan.metric)} at NFE {plan.nfe}"
    return Grid(
        f"Trials, and the mean {label} of the seeds that all arms have",
        ["arm", "ended", "begun", "waiting", "failed", "mean"],
        rows,
    )


def means_so_far(by_arm: Mapping[str, Sequence[State]]) -> dict[str, float]:
    """Return {arm: mean value} over the seeds that have ended in every arm with a value; empty if there are none."""
    ended = {
        arm: {state.seed: state.value for state in own if not math.isnan(state.value)} for arm, own in by_arm.items()
    }
    measured = {arm: own for arm, own in ended.items() if own}
    shared = set.intersection(*(set(own) for own in measured.values())) if measured else set()
    return {arm: float(np.mean([own[seed] for seed in shared])) for arm, own in measured.items()} if shared else {}


def _at_work(found: Sequence[State]) -> Grid:
    rows = [
        [
            f"{state.arm} seed {state.seed}",
            f"{state.share:.0%}",
            state.host or "-",
            _spoken(state.left_s),
            f"{_spoken(state.silent_s)} ago",
        ]
        for state in found
    ]
    return Grid("Trials that have begun", ["trial", "done", "node", "training left", "last sign"], rows)


def _spoken(seconds: float) -> str:
    return "unknown" if math.isnan(seconds) else duration(max(0.0, seconds))


def told(plan: Plan, found: Sequence[State]) -> str:
    """Return the sentence about the study: how many trials have ended, the best arm so far, and the time left."""
    over = [state for state in found if state.word in ("ended", "failed")]
    lines = [f"{len(over)} of {len(found)} trials have ended."]
    means = means_so_far({arm: [state for state in found if state.arm == arm] for arm in plan.arms})
    if means:
        metric: Any = find("metric", plan.metric)
        best = (min if metric.lower_is_better else max)(means, key=lambda arm: means[arm])
        lines.append(f"Best so far: {best} ({means[best]:.4g}), which is no verdict.")
    moving = [state for state in found if state.word == "begun" and state.silent_s <= SILENT_S and state.left_s > 0]
    if moving and (left := _left(found, moving)):
        lines.append(f"About {duration(left)} are left at the present pace.")
    silent = sum(state.word == "begun" and state.silent_s > SILENT_S for state in found)
    lines += [f"{silent} gave no sign for {duration(SILENT_S)}: they may have stopped, or evaluate."] if silent else []
    return " ".join(lines)


def _left(found: Sequence[State], moving: Sequence[State]) -> float:
    """Return the seconds that the open trials take, as many at a time as now, each as long as those at work."""
    whole = float(
        np.mean(
            [state.left_s / max(1e-9, TRAINING_SHARE - min(state.share, TRAINING_SHARE - 1e-9)) for state in moving]
        )
    )
    open_share = sum(1 - state.share for state in found if state.word in ("begun", "waiting"))
    return whole * open_share / len(moving)
