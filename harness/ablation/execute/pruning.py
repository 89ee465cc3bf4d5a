"""Pruners of a search: Optuna's median pruner, or its Hyperband."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.execute.attempts import number_of

UNPRUNED_TRIALS = 5
"""Number of trials that must finish before the median pruner may give one up."""
REDUCTION = 2
"""Reduction factor of Hyperband: the better half passes a rung, and the next rung is at twice the steps. The usual
factors 3 or 4 would leave too few finished trials to learn from, out of 25 to 40."""


class Hyperband(BasePruner):
    """Optuna's Hyperband (Li et al. 2018), which counts all attempts at a trial as one trial.

    Its brackets start to halve after 1, 2, 4, ... rungs; the last bracket gives no trial up. Optuna assigns trials to
    brackets by their numbers, and compares a trial with all trials that reached the same rung of its bracket. So a new
    attempt after a worker's death would change its bracket, and compete with the dead attempt. This class asks Optuna
    about an in-memory copy of the study, whose trials are numbered in the order in which they were first drawn.

    The sampler sees the trials of all brackets, as in BOHB (Falkner et al. 2018); in Optuna it would start without
    knowledge in each bracket.
    """

    def __init__(self, first: int, rungs: int):
        """`first` is the number of steps to the first rung; the training ends after `rungs` times as many steps."""
        self.first = first
        self.rungs = rungs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to give a trial up after its last reported value; it must have reported at least one."""
        values: dict[int, dict[int, float]] = {}
        for attempt in study.get_trials(deepcopy=False):
            values.setdefault(number_of(attempt), {}).update(attempt.intermediate_values)
        pruner = HyperbandPruner(self.first, self.rungs * self.first, REDUCTION)
        copy = optuna.create_study(
            study_name=study.study_name, direction=study.direction, pruner=pruner, sampler=RandomSampler()
        )
        copied = {number: copy.ask() for number in values}
        given_up = False
        for number in sorted(values, key=lambda number: number == number_of(trial)):  # the trial itself comes last
            for step, value in sorted(values[number].items()):
                copied[number].report(value, step)
                given_up = copied[number].should_prune()
        return given_up


def pruner_of(plan: SearchPlan) -> BasePruner:
    """Return the pruner that a search names."""
    if plan.pruner is None:
        return NopPruner()
    return Hyperband(plan.between_rungs, plan.rungs) if plan.pruner == "hyperband" else MedianPruner(UNPRUNED_TRIALS)
