"""A search's trials: TPE draws them, a pruner gives up those that fall behind, dead ones continue."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Container
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from typing_extensions import TypedDict

from harness.ablation.design.costs import COSTS, knee
from harness.ablation.design.search import BEST, CHEAPEST, KNEE, WINNER
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.space import settings
from harness.ablation.execute.attempts import number_of, title_of
from harness.ablation.execute.board import DEATHS, Board
from harness.ablation.execute.pruning import pruner_of
from harness.core.errors import Diverged, NoValue, Pruned, UserError, named
from harness.core.reading import Damaged
from harness.core.rng import stream_seed
from harness.core.signals import Stop
from harness.flow.sampling import Trained
from harness.runs.folder import Run
from harness.runs.judge import judge_of, judge_rung, known_rungs
from harness.runs.progress import Followed
from harness.runs.train import ensure

RANDOM_TRIALS = 8
"""So many trials are drawn blindly before TPE has enough to go by."""

GIVEN_UP, DIVERGED, FAILED = "given up", "diverged", "failed"
"""How a trial without a value ended: it fell behind, its numbers were not finite, or a solver gave up."""


class Trial(TypedDict, total=False):
    """What the journal says of a trial."""

    again: int
    """Number of the first attempt where a worker died of it."""
    seconds: float
    """Of those attempts together."""
    worker: int
    """Its process."""
    run: str
    ended: Literal["given up", "diverged", "failed"]
    reason: str


class SearchBoard(Board):
    """As many trials as the search has.

    What is drawn for each depends on the seed and on the trials before it alone.
    """

    TOLD = Trial
    plan: SearchPlan

    def __init__(self, plan: SearchPlan):
        super().__init__(plan, pruner_of(plan), minimized=0 if plan.against is None else 1)

    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        lacking = min(self.plan.space.keys() - trial.params.keys(), default="")
        if lacking and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            raise Damaged(f"its trial {trial.number} has no {lacking}")
        return trial.user_attrs

    @property
    def total(self) -> int:
        return self.plan.trials

    def run(self, trial: optuna.Trial, stop: Stop) -> None:
        title = title_of(trial)
        started = time.perf_counter()
        config = self.plan.config(trial.params)

        def say(text: str) -> None:
            print(f"{title}: {text}", flush=True)

        say(", ".join(f"{path} {value}" for path, value in settings(trial.params).items()))
        trial.set_user_attr("run", Run.of(config).name)
        try:
            with named(title):
                run = ensure(config, say, stop, self._look(trial, Run.of(config)) if self.plan.pruner else None)
        except (NoValue, Pruned) as error:
            self.give_up(trial, str(error), ended(error))
            say(str(error))
            return
        value, *cost = self.values(run)
        self.study.tell(trial, [value, *cost])
        against = "".join(f", {self.plan.against} {spent:.4g}" for spent in cost)
        say(f"{self.plan.metric} {value:.4g} at NFE {self.plan.nfe}{against}, {time.perf_counter() - started:.0f} s")

    def values(self, run: Run) -> list[float]:
        """A finished run's quality, and its cost in a search against one, as its directory says."""
        plan = self.plan
        protocol = run.config.protocol()
        value = run.evaluation(protocol)["values"][plan.metric][str(plan.nfe)]
        if plan.against is None:
            return [value]
        if not math.isfinite(cost := COSTS[plan.against].of(run, protocol, plan.metric)):
            raise UserError(f"{run.folder}: does not tell its {plan.against}. Remove it, then search again.")
        return [value, cost]

    def give_up(self, trial: optuna.Trial, reason: str, how: str = GIVEN_UP) -> None:
        """Report a trial that fell behind or has no value.

        It counts as pruned: TPE keeps away from a pruned trial, and learns nothing of a failed one.
        """
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("ended", how)
        self.study.tell(trial, state=TrialState.PRUNED)

    def front(self) -> list[FrozenTrial]:
        """The finished trials of which none are better and cheaper, from the best to the cheapest, without doubles.

        It is the best alone where there is one objective. `UserError` where none finished.
        """
        if not self.trials(TrialState.COMPLETE):
            reason = self.settled()[0].user_attrs.get("reason", "it was told without a reason.")
            raise UserError(
                f"{self.plan.name}: no trial finished; the first: {reason} Mend the space, then search again."
            )
        found = {tuple(trial.values): trial for trial in reversed(self.study.best_trials)}  # the first of doubles stays
        return sorted(found.values(), key=lambda trial: trial.values[-1], reverse=True)

    def best(self) -> FrozenTrial:
        """The finished trial with the best quality; `UserError` where none finished."""
        return self.front()[0]

    def winners(self) -> dict[str, FrozenTrial]:
        """{arm: trial} of those that are compared on other seeds: the best, or the ends and the knee of a front."""
        front = self.front()
        if self.plan.against is None:
            return {WINNER: front[0]}
        between = {KNEE: front[knee([trial.values for trial in front])]} if len(front) > 2 else {}
        return {BEST: front[0], **between, **({CHEAPEST: front[-1]} if len(front) > 1 else {})}

    def tuned(self) -> dict[str, dict[str, Any]]:
        """{arm: settings that it has beside what is fixed} of the winners."""
        return {arm: settings(trial.params) for arm, trial in self.winners().items()}

    def settled(self) -> list[FrozenTrial]:
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED)

    def followed(self, known: Container[str]) -> list[Followed]:
        begun = {title_of(t): t for t in self.trials() if t.params.keys() == self.plan.space.keys()}
        return [
            Followed(title, run := self.run_of(t), run.config.protocol(), {"trial": title})
            for title, t in begun.items()
            if title not in known
        ]

    def title(self, trial: FrozenTrial) -> str:
        return title_of(trial)

    def run_of(self, trial: FrozenTrial) -> Run:
        return Run.of(self.plan.config(trial.params))

    def blind(self) -> list[int]:
        """The numbers of the trials that were drawn before enough had ended for TPE to go by."""
        settled = self.settled()
        ends = sorted(trial.datetime_complete or datetime.max for trial in settled)
        enough = ends[RANDOM_TRIALS - 1] if len(ends) >= RANDOM_TRIALS else datetime.max
        begun = {trial.number: trial.datetime_start or datetime.max for trial in self.trials()}
        return sorted(number for trial in settled if begun[number := number_of(trial)] < enough)

    def _look(self, trial: optuna.Trial, run: Run) -> Callable[[Trained, int], None]:
        """What judges a run at its rungs, reports the values and may give it up."""
        judge = judge_of(run.config)
        reported = {
            step: values[self.plan.metric] for step, values in known_rungs(run, judge.protocol, self.plan.nfe).items()
        }
        for step, value in reported.items():  # by whom it began
            trial.report(value, step)

        def look(trained: Trained, step: int) -> None:
            if step == run.config.train.steps or not self.plan.is_rung(step):  # after the end comes the evaluation
                return
            value = judge_rung(run, trained, step, judge, self.plan.nfe)[self.plan.metric]
            if step not in reported:
                trial.report(value, step)
            if trial.should_prune():
                raise Pruned(f"given up at step {step}: {self.plan.metric} {value:.4g} at NFE {self.plan.nfe}.")

        return look

    def _any_left(self) -> bool:
        begun = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return super()._any_left() or len(begun) < self.total

    def _ask(self) -> optuna.Trial:
        drawn = len({title_of(t) for t in self.trials() if t.state != TrialState.WAITING})
        self.study.sampler = _sampler(stream_seed(self.plan.base.seed, "search", drawn) % 2**32)
        return self.study.ask(self.plan.space)

    def _put_in(self) -> None:
        """Enqueue the trials that are not drawn, and enqueue again those that died."""
        everything = self.trials()
        known = [trial.params or trial.system_attrs.get("fixed_params") for trial in everything]
        for draw in self.plan.first():
            if not everything or (draw.keys() == self.plan.space.keys() and draw not in known):
                self.study.enqueue_trial(draw)
        last = {title_of(t): t for t in everything}
        left_out = self.left_out()
        for title, trial in last.items():
            if trial.state == TrialState.FAIL:
                attempts = {"again": number_of(trial), "seconds": self._spent(trial)}
                if title not in left_out:
                    self.study.enqueue_trial(trial.params, user_attrs=attempts)
                elif trial.params.keys() == self.plan.space.keys():
                    self._leave_out(trial, attempts)

    def _leave_out(self, trial: FrozenTrial, attempts: dict[str, Any]) -> None:
        """Count a trial whose workers died again and again as pruned, so that TPE keeps away from it."""
        reason = f"{DEATHS} workers were killed in it, perhaps for want of memory."
        known = {**attempts, "run": self.run_of(trial).name, "reason": reason, "ended": FAILED}
        self.study.add_trial(
            create_trial(
                state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions, user_attrs=known
            )
        )

    def _spent(self, trial: FrozenTrial) -> float:
        """Seconds of all attempts at a trial, the last of which ended by its worker's death.

        A death under the present command was noticed at once; one before it came after the run was last written to.
        """
        assert trial.datetime_start
        end = _last_written(self.run_of(trial).folder)
        if trial.datetime_complete and trial.number in {attempt.number for attempt in self._died()}:
            end = trial.datetime_complete.timestamp()
        return trial.user_attrs.get("seconds", 0.0) + max(0.0, end - trial.datetime_start.timestamp())


def _last_written(folder: Path) -> float:
    """When the work in a run directory last kept something, in Unix time; 0 if never."""
    last = 0.0
    for pattern in ("*.jsonl", "checkpoints/*", "evaluations/*"):
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # another command works there
                last = max(last, path.stat().st_mtime)
    return last


def _sampler(seed: int) -> TPESampler:
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # `group` is, since 2021
        return TPESampler(n_startup_trials=RANDOM_TRIALS, multivariate=True, group=True, seed=seed)


def ended(error: NoValue | Pruned) -> str:
    """How a trial ended."""
    return GIVEN_UP if isinstance(error, Pruned) else DIVERGED if isinstance(error, Diverged) else FAILED
