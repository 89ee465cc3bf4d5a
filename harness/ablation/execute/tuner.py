"""Trials of a search: TPE draws them, a pruner gives up poor ones, and other workers continue dead workers' trials."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Container
from datetime import datetime
from typing import Any, Literal, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from typing_extensions import TypedDict

from harness.ablation.design.costs import COSTS, knee
from harness.ablation.design.search import BEST, CHEAPEST, KNEE, WINNER
from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.design.space import settings
from harness.ablation.execute.attempts import last_written, number_of, title_of
from harness.ablation.execute.board import DEATHS, Board
from harness.ablation.execute.pruning import pruner_of
from harness.core.errors import Diverged, NoValue, Pruned, UserError, named
from harness.core.reading import Damaged
from harness.core.rng import stream_seed
from harness.core.signals import Stop
from harness.evaluation.metric import label_of
from harness.flow.sampling import Trained
from harness.runs.folder import Run
from harness.runs.judge import judge_of, judge_rung, known_rungs
from harness.runs.mlflow_pages import Columns
from harness.runs.progress import Followed
from harness.runs.train import ensure

RANDOM_TRIALS = 8
"""Number of trials that are drawn at random before TPE starts."""

GIVEN_UP, DIVERGED, FAILED = "given up", "diverged", "failed"
"""How a trial without a value ended: the pruner stopped it, a number was not finite, or something else failed."""


T = TypeVar("T")


class Trial(TypedDict, total=False):
    """Attributes of a trial in the journal."""

    again: int
    """Number of the first attempt, if a worker died in an earlier one."""
    seconds: float
    """Seconds of the earlier attempts together."""
    worker: int
    """Process id of its worker."""
    slot: int
    """Number by which an engine knows it."""
    run: str
    ended: Literal["given up", "diverged", "failed"]
    reason: str


class SearchBoard(Board):
    """Board with the trials of a search.

    The draw of each trial depends only on the seed and on the trials before it.
    """

    TOLD = Trial
    plan: SearchPlan

    def __init__(self, plan: SearchPlan, store: str = ""):
        super().__init__(plan, pruner_of(plan), minimized=0 if plan.against is None else 1, store=store)

    def _told(self, trial: FrozenTrial) -> dict[str, Any]:
        lacking = min(self.plan.space.keys() - trial.params.keys(), default="")
        if lacking and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            raise Damaged(f"its trial {trial.number} has no {lacking}")
        return trial.user_attrs

    @property
    def total(self) -> int:
        return self.plan.trials

    def label(self, number: int) -> str:
        return f"trial {number}"

    def unended(self, among: Collection[int]) -> set[int]:
        """Return as many numbers as trials have not ended: no trial is drawn before it begins."""
        return {*sorted(among)[: max(0, self.total - len(self.settled()))]}

    def run(self, trial: optuna.Trial, stop: Stop) -> None:
        title = title_of(trial)
        started = time.perf_counter()
        config = self.plan.config(trial.params)

        def say(text: str) -> None:
            print(f"{title}: {text}", flush=True)

        say(", ".join(f"{path} {value}" for path, value in settings(trial.params).items()))
        self._in_store(lambda: trial.set_user_attr("run", Run.of(config).name))
        try:
            with named(title):
                run = ensure(config, say, stop, self._look(trial, Run.of(config)) if self.plan.pruner else None)
        except (NoValue, Pruned) as error:
            self.give_up(trial, str(error), ended(error))
            say(str(error))
            return
        value, *cost = self.values(run)
        self._in_store(lambda: self.study.tell(trial, [value, *cost], skip_if_finished=True))
        against = "".join(f", {self.plan.against} {spent:.4g}" for spent in cost)
        measured = f"{label_of(self.plan.metric)} {value:.4g} at NFE {self.plan.nfe}{against}"
        say(f"{measured}, {time.perf_counter() - started:.0f} s")

    def values(self, run: Run) -> list[float]:
        """Return a finished run's metric, and its cost if the search has one, from the run directory.

        `UserError` if the cost is missing there.
        """
        plan = self.plan
        protocol = run.config.protocol()
        value = run.evaluation(protocol)["values"][plan.metric][str(plan.nfe)]
        if plan.against is None:
            return [value]
        if not math.isfinite(cost := COSTS[plan.against].of(run, protocol, plan.metric)):
            raise UserError(f"{run.folder}: has no value of {plan.against}. Remove it, then search again.")
        return [value, cost]

    def give_up(self, trial: optuna.Trial, reason: str, how: str = GIVEN_UP) -> None:
        """Report a trial that was pruned or has no value.

        It counts as pruned: TPE avoids the settings of a pruned trial, but ignores a failed one.
        """
        self._in_store(lambda: trial.set_user_attr("reason", reason))
        self._in_store(lambda: trial.set_user_attr("ended", how))
        self._in_store(lambda: self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True))

    def _in_store(self, act: Callable[[], T], later: bool = False) -> T | None:
        """Act on the store of the trials. With `later`, a store that does not answer may be left out until later."""
        return act()

    def front(self) -> list[FrozenTrial]:
        """Return the Pareto front of finished trials, from the best quality to the lowest cost, without duplicates.

        With one objective, this is only the best trial. `UserError` if no trial finished.
        """
        if not self.trials(TrialState.COMPLETE):
            reason = self.settled()[0].user_attrs.get("reason", "no reason is known.")
            raise UserError(
                f"{self.plan.name}: no trial finished; the first: {reason} Correct the space, then search again."
            )
        found = {tuple(trial.values): trial for trial in reversed(self.study.best_trials)}  # keep the first duplicate
        return sorted(found.values(), key=lambda trial: trial.values[-1], reverse=True)

    def best(self) -> FrozenTrial:
        """Return the finished trial with the best quality; `UserError` if none finished."""
        return self.front()[0]

    def winners(self) -> dict[str, FrozenTrial]:
        """Return {arm: trial} to compare on other seeds: the best trial, or the ends and the knee of a front."""
        front = self.front()
        if self.plan.against is None:
            return {WINNER: front[0]}
        between = {KNEE: front[knee([trial.values for trial in front])]} if len(front) > 2 else {}
        return {BEST: front[0], **between, **({CHEAPEST: front[-1]} if len(front) > 1 else {})}

    def tuned(self) -> dict[str, dict[str, Any]]:
        """Return {arm: drawn settings} of the winners."""
        return {arm: settings(trial.params) for arm, trial in self.winners().items()}

    def settled(self) -> list[FrozenTrial]:
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED)

    def followed(self, known: Container[str]) -> list[Followed]:
        begun = {title_of(t): t for t in self.trials() if t.params.keys() == self.plan.space.keys()}
        return [
            Followed(
                title, run := self.run_of(t), run.config.protocol(), {"trial": title},
                params=settings(t.params), primary=(self.plan.metric, self.plan.nfe),
            )
            for title, t in begun.items()
            if title not in known
        ]  # fmt: skip

    @property
    def columns(self) -> Columns:
        return Columns(["trial"], sorted({path for trial in self.trials() for path in settings(trial.params)}))

    def title(self, trial: FrozenTrial) -> str:
        return title_of(trial)

    def run_of(self, trial: FrozenTrial) -> Run:
        return Run.of(self.plan.config(trial.params))

    def blind(self) -> list[int]:
        """Return the numbers of the trials that were drawn at random, before `RANDOM_TRIALS` trials had ended."""
        settled = self.settled()
        ends = sorted(trial.datetime_complete or datetime.max for trial in settled)
        enough = ends[RANDOM_TRIALS - 1] if len(ends) >= RANDOM_TRIALS else datetime.max
        begun = {trial.number: trial.datetime_start or datetime.max for trial in self.trials()}
        return sorted(number for trial in settled if begun[number := number_of(trial)] < enough)

    def _look(self, trial: optuna.Trial, run: Run) -> Callable[[Trained, int], None]:
        """Return a callback that judges a run at its rungs and reports the values; it raises `Pruned` to give it up."""
        judge = judge_of(run.config)
        known = {
            step: values[self.plan.metric] for step, values in known_rungs(run, judge.protocol, self.plan.nfe).items()
        }
        reported = set[int]()

        def report() -> None:
            for step in known.keys() - reported:
                trial.report(known[step], step)
                reported.add(step)

        def prunes() -> bool:
            report()
            return trial.should_prune()

        def look(trained: Trained, step: int) -> None:
            if step == run.config.train.steps or not self.plan.is_rung(step):  # the evaluation covers the end
                return
            value = judge_rung(run, trained, step, judge, self.plan.nfe)[self.plan.metric]
            known[step] = value
            if self._in_store(prunes, later=True):
                found = f"{label_of(self.plan.metric)} {value:.4g} at NFE {self.plan.nfe}"
                raise Pruned(f"given up at step {step}: {found}.")

        self._in_store(report, later=True)  # of earlier attempts
        return look

    def _any_left(self) -> bool:
        begun = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return super()._any_left() or len(begun) < self.total

    def _ask(self) -> optuna.Trial:
        drawn = len({title_of(t) for t in self.trials() if t.state != TrialState.WAITING})
        self.study.sampler = sampler(stream_seed(self.plan.base.seed, "search", drawn) % 2**32)
        return self.study.ask(self.plan.space)

    def _put_in(self) -> None:
        """Enqueue the first draws of the plan, and enqueue again the trials whose worker died."""
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
                    draw = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                    self.study.enqueue_trial(draw, user_attrs=attempts)
                elif trial.params.keys() == self.plan.space.keys():
                    self._leave_out(trial, attempts)

    def _leave_out(self, trial: FrozenTrial, attempts: dict[str, Any]) -> None:
        """Add a trial whose workers died `DEATHS` times as pruned, so that TPE avoids its settings."""
        reason = f"{DEATHS} workers were killed in it, perhaps for want of memory."
        known = {**attempts, "run": self.run_of(trial).name, "reason": reason, "ended": FAILED}
        self.study.add_trial(
            create_trial(
                state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions, user_attrs=known
            )
        )

    def _spent(self, trial: FrozenTrial) -> float:
        """Return the seconds of all attempts at a trial whose last attempt ended with its worker's death.

        A death under the current command was noticed at once. For an earlier death, the last write to the run counts as
        its time.
        """
        assert trial.datetime_start
        end = last_written(self.run_of(trial).folder)
        if trial.datetime_complete and trial.number in {attempt.number for attempt in self._died()}:
            end = trial.datetime_complete.timestamp()
        return trial.user_attrs.get("seconds", 0.0) + max(0.0, end - trial.datetime_start.timestamp())


def sampler(seed: int) -> TPESampler:
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # because of `group`
        return TPESampler(n_startup_trials=RANDOM_TRIALS, multivariate=True, group=True, seed=seed)


def ended(error: NoValue | Pruned) -> str:
    """Return how a trial with this error ended."""
    return GIVEN_UP if isinstance(error, Pruned) else DIVERGED if isinstance(error, Diverged) else FAILED
