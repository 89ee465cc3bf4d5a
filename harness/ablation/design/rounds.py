"""Plan of reflow rounds from finished runs; its arms are the flow, each later round, and last the distilled network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ablation.design.configured import measured
from harness.ablation.design.looks import Looks
from harness.ablation.design.plan import Plan
from harness.core.config import override
from harness.core.errors import ConfigError
from harness.flow.sampling import Guidance
from harness.runs.config import RunConfig
from harness.runs.folder import Run
from harness.runs.identity import training_digest
from harness.runs.stored import same_training
from harness.runs.students import ONE_STEP_ONLY, asks_for_guidance
from harness.runs.validate import check, refuse_unreached

MEASURED = ("straightness", "curvature", "transport_cost")
"""Metrics that are measured in addition to the run's."""


def plan_of(
    runs: Sequence[Run], rounds: int, distil: bool, changes: Mapping[str, Any], plugins: Sequence[Path] = ()
) -> Plan:
    """Return a plan whose baseline is the flow of `runs`.

    `UserError` unless the runs are finished and differ only in their seeds. `changes` below `evaluate` apply to every
    arm, others only to the rounds. Networks that learned guided pairs are judged without guidance, unless `changes` set
    a guidance.
    """
    for path in changes:
        if path in ("seed", "reflow.rounds", "reflow.distil", "reflow.teacher"):
            raise ConfigError(path, "follows from the runs, --rounds and --distil. Leave it out.")
    judging = {path: value for path, value in changes.items() if path.partition(".")[0] == "evaluate"}
    teacher = measured(override(same_training(runs), judging), MEASURED)
    teacher = at_one_step(teacher) if distil else teacher
    for run in runs:
        run.require_finished()
    student = _first_round(teacher, {path: value for path, value in changes.items() if path not in judging})
    arms = {teacher.title: teacher}
    asked = asks_for_guidance(judging)
    for later in range(rounds):
        config = override(student, {"reflow.rounds": student.reflow.rounds + later})
        config = override(config, {"evaluate.guidance": Guidance()} if config.learned_guidance and not asked else {})
        arms[config.title] = config
    if distil:
        judged = {f"evaluate.{name}": value for name, value in ONE_STEP_ONLY.items()}
        bare = {"evaluate.metrics": list(config.evaluate.sample_metrics)}
        config = override(config, {"reflow.distil": True, **judged, **bare})
        arms[config.title] = config
    for config in arms.values():
        refuse_unreached(changes, config)
        check(config)
    of = runs[0].name.partition("-")[0]
    primary = (*teacher.evaluate.sample_metrics, *teacher.evaluate.metrics)[0]
    return Plan(
        "reflow", of, "What does each round of reflow change?", teacher.title, arms,
        Looks((len(runs),)), tuple(run.config.seed for run in runs), primary.name, min(teacher.evaluate.nfe), 0.05,
        tuple(str(path.absolute()) for path in plugins),
    )  # fmt: skip


def at_one_step(config: RunConfig) -> RunConfig:
    """Add NFE 1, the NFE of a distilled network, if the solver can sample with one call; else change nothing."""
    if 1 in config.evaluate.nfe:
        return config
    more = {"evaluate.nfe": [1, *config.evaluate.nfe]}
    try:
        check(override(config, {"evaluate.nfe": [1]}))
    except ConfigError:
        return config
    return override(config, more)


def _first_round(teacher: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return the round after `teacher`; it names the teacher unless the number of rounds implies the same one."""
    own = {"reflow.guidance": Guidance()} if teacher.parent else {}  # the teacher keeps its own pairs' guidance
    named = override(teacher, {**own, **changes, "reflow.teacher": teacher, "reflow.rounds": 1})
    try:
        implied = override(teacher, {**changes, "reflow.rounds": teacher.reflow.rounds + 1})
    except ConfigError:  # the changes are invalid for the teacher
        return named
    return implied if implied.parent and training_digest(implied.parent) == training_digest(teacher) else named
