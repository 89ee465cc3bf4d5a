"""What gives a search's trials up: Optuna's median pruner, or its Hyperband."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from harness.ablation.design.search_plan import SearchPlan
from harness.ablation.execute.attempts import number_of

UNPRUNED_TRIALS = 5
"""So many finish before the median pruner may give one up."""
REDUCTION = 2
"""Hyperband lets the better half pass a rung, and the next comes after twice as many steps. A third or a quarter, as is
usual, would leave 25 to 40 trials with too few finished ones to learn from."""


class Hyperband(BasePruner):
    """Optuna's Hyperband (Li et al. 2018), for which the attempts at a trial are one trial.

    Its brackets begin to halve after one rung, two rungs, four, ...; the last gives nothing up. Optuna deals trials
    out to brackets by their numbers, and compares a trial with all that came to a rung of its bracket: an attempt after
    a worker's death would change the bracket, and compete with its dead self. This asks Optuna about a copy of the
    study, in memory, whose trials are numbered in the order in which they were first drawn.

    A sampler sees the trials of all brackets, as in BOHB (Falkner et al. 2018); Optuna would have it begin blindly in
    each.
    """

    def __init__(self, first: int, rungs: int):
        """The first rung comes after `first` steps, and the training ends at the last of so many `rungs`."""
        self.first = first
        self.rungs = rungs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial, which reported at least one value, is given up after its last."""
        values: dict[int, dict[int, float]] = {}
        for attempt in study.get_trials(deepcopy=False):
            values.setdefault(number_of(attempt), {}).update(attempt.intermediate_values)
        pruner = HyperbandPruner(self.first, self.rungs * self.first, REDUCTION)
        copy = optuna.create_study(
            study_name=study.study_name, direction=study.direction, pruner=pruner, sampler=RandomSampler()
        )
        copied = {number: copy.ask() for number in values}
        given_up = False
        for number in sorted(values, key=lambda number: number == number_of(trial)):  # it comes last
            for step, value in sorted(values[number].items()):
                copied[number].report(value, step)
                given_up = copied[number].should_prune()
        return given_up


def pruner_of(plan: SearchPlan) -> BasePruner:
    """The pruner that a search names."""
    if plan.pruner is None:
        return NopPruner()
    return Hyperband(plan.between_rungs, plan.rungs) if plan.pruner == "hyperband" else MedianPruner(UNPRUNED_TRIALS)
